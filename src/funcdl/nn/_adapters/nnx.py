"""The adapter for flax.nnx: a module is split once, and merged inside each trace."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from funcdl._typing import Array, Key, PyTree
from funcdl.nn._adapters.common import (
    TRAINING,
    Form,
    adapted,
    arguments,
    build,
    drawn,
    nested,
    owned,
    parts,
    switched,
)
from funcdl.nn._model import Model, Variables


def from_nnx(
    constructor: Callable[..., nnx.Module], *, switches: Mapping[str, bool | None] | None = None
) -> Model:
    """Adapt a flax.nnx module, given by its constructor.

    A key means training, ``module.train()``, and no key means ``module.eval()``; an argument of
    ``__call__`` that is named as in ``from_linen``, or is in ``switches``, is set as well.
    Variables of type ``nnx.Param`` are the parameters, and all others are state (``BatchStat``),
    except random streams: in training, each stream in the order of the paths receives a key derived
    from the call's key.
    Values that a call only sows are dropped.

    Args:
        constructor: A function ``constructor(rngs) -> nnx.Module``, or a class with the single
            argument ``rngs``. It is called under ``jax.eval_shape`` here, and again in ``init``.
        switches: The values of other boolean arguments of ``__call__`` in training, as in
            ``from_linen``.

    Returns:
        ``Model(init, apply)``; ``init`` ignores ``x``. ``apply`` raises the errors of
        ``from_linen``, and ``ValueError`` if the module changes a parameter.

    Raises:
        TypeError: If the constructor does not return a module, the module holds an array that is
            not an ``nnx.Variable``, its ``__call__`` requires more than one input and a known
            switch, or it has a boolean argument that may be a switch and is not in ``switches``.
        ValueError: If ``__call__`` does not have an argument in ``switches``.

    >>> model = from_nnx(
    ...     lambda rngs: nnx.Linear(3, 2, kernel_init=nnx.initializers.ones, rngs=rngs)
    ... )
    >>> params, state = model.init(jax.random.key(0), None)
    >>> model.apply(params, state, jnp.ones((1, 3)))[0].tolist()
    [[3.0, 3.0]]
    """
    if isinstance(constructor, nnx.Module) or not callable(constructor):
        raise TypeError(
            f"constructor is {type(constructor).__name__}; expected constructor(rngs) -> "
            "nnx.Module; for a module that is already built, use nn.split"
        )
    module = nnx.eval_shape(lambda: build(constructor, "rngs", nnx.Rngs(jax.random.key(0))))
    if not isinstance(module, nnx.Module):
        raise TypeError(f"constructor made a {type(module).__name__}; expected an nnx.Module")
    for path, leaf in nnx.iter_graph(module):
        if isinstance(leaf, jax.Array):
            raise TypeError(
                f"the module holds an array at {'/'.join(map(str, path))!r}; wrap it in "
                "nnx.Variable(array), or in nnx.Param if it is trained"
            )

    def draw(key, x):
        del x
        split = _split(build(constructor, "rngs", nnx.Rngs(key)))
        return split.variables

    return _model(module, drawn(draw), switches)


class _Split(NamedTuple):
    """A module in parts.

    Attributes:
        graph: The structure of the module.
        params: The parameters.
        streams: The keys and counts of the random streams.
        state: All other variables.
    """

    graph: nnx.GraphDef
    params: PyTree
    streams: PyTree
    state: PyTree

    @property
    def variables(self) -> Variables:
        return Variables(*(_form(part).dicts(part) for part in (self.params, self.state)))


def _split(module: nnx.Module) -> _Split:
    return _Split(*nnx.split(module, nnx.Param, nnx.RngState, ..., graph=True))


def _form(state: PyTree) -> Form:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    value = jax.tree_util.GetAttrKey("value")  # the key between a variable and its array
    names = tuple(parts(key for key in path if key != value) for path, _ in leaves)
    return Form(jax.tree.structure(state), names)


def _model(
    module: nnx.Module,
    init: Callable[..., Variables],
    switches: Mapping[str, bool | None] | None,
) -> Model:
    """Build the pair. The module may be abstract; its mode is changed."""
    name = type(module).__name__
    if not callable(module):
        raise TypeError(f"{name} has no __call__; expected __call__(self, x)")
    known = (*TRAINING, "rngs")
    names = arguments(module.__call__, f"{name}.__call__", known=known, switches=switches)
    module.eval()
    evaluation = _split(module).graph
    module.train()
    trained = _split(module)
    params_form, state_form = _form(trained.params), _form(trained.state)
    streams = trained.streams
    count = len(jax.tree.leaves(streams))

    def run(params: PyTree, state: PyTree, x: PyTree, key, training: bool):
        graph = trained.graph if training else evaluation
        options = switched(names, training)
        trees = params_form.tree(params), _keyed(streams, key), state_form.tree(state)
        module = nnx.merge(graph, *trees)
        if "rngs" in names:
            options["rngs"] = None if key is None else nnx.Rngs(jax.random.fold_in(key, count))
        y = module(x, **options)
        if not training:
            return y, state
        after = _split(module)
        _check_unchanged(params, after.variables.params)
        new = _flat(after.variables.state)
        return y, nested((path, new.get(path, old)) for path, old in _flat(state).items())

    return adapted(init, run, trained.variables)


def _flat(dicts: dict) -> dict:
    return {parts(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(dicts)}


def _keyed(streams: PyTree, key: Key[Array, ""] | None) -> PyTree:
    """Set the count of each stream to 0, and its key to one derived from ``key`` (or to None)."""

    def value(i, form):
        if not jnp.issubdtype(form.dtype, jax.dtypes.prng_key):
            return jnp.zeros(form.shape, form.dtype)
        if key is None:
            return None
        key_stream = jax.random.fold_in(key, i)
        return jax.random.split(key_stream, form.shape) if form.shape else key_stream

    leaves, treedef = jax.tree.flatten(streams)
    return jax.tree.unflatten(treedef, [value(i, form) for i, form in enumerate(leaves)])


def _check_unchanged(params: dict, after: dict) -> None:
    after = _flat(after)
    for path, leaf in _flat(params).items():
        if after.get(path) is not leaf:
            raise ValueError(
                f"the module changed its parameter {'/'.join(path)!r} while it was called; use "
                "nnx.Param only for values that are trained, and nnx.BatchStat or nnx.Variable for "
                "others"
            )


def split(
    module: nnx.Module, switches: Mapping[str, bool | None] | None = None
) -> tuple[Model, Variables]:
    """Adapt a module that is already built."""
    values = variables(module)
    return _model(nnx.clone(module), owned(values), switches), values


def variables(module: nnx.Module) -> Variables:
    """Return the variables of a module."""
    return _split(module).variables


def merge(module: nnx.Module, variables: Variables) -> nnx.Module:
    """Return a module with other variables."""
    parts = _split(module)
    params = _form(parts.params).tree(variables.params)
    state = _form(parts.state).tree(variables.state)
    return nnx.merge(parts.graph, params, parts.streams, state)
