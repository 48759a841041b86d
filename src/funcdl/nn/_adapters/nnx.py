"""The adapter for flax.nnx: a module is split once, and merged inside each trace."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from funcdl._typing import PyTree
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


def from_nnx(constructor: Callable) -> Model:
    """Adapt a flax.nnx module, given by what makes it.

    A key means training, ``module.train()``; without one it is ``module.eval()``, and an argument
    of ``__call__`` named as in ``from_linen`` is set too. Variables of type ``nnx.Param`` are the
    parameters, all others are state (``BatchStat``), but for random streams: in training each
    stream, in the order of their paths, gets a key of its own from the call's. What a call only
    sows is dropped.

    Args:
        constructor: ``constructor(rngs) -> nnx.Module``: a function, or a class whose one argument
            it is. It is called under ``jax.eval_shape`` here, and in ``init``.

    Returns:
        ``Model(init, apply)``; ``init`` does not look at ``x``. ``apply`` raises as that of
        ``from_linen``, and ``ValueError`` if the module changes a parameter.

    Raises:
        TypeError: If what is made is no module, holds an array that is no ``nnx.Variable``, or its
            ``__call__`` needs more than one input and a known switch.

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
            "nnx.Module; nn.split takes a module that is already built"
        )
    module = nnx.eval_shape(lambda: build(constructor, "rngs", nnx.Rngs(jax.random.key(0))))
    if not isinstance(module, nnx.Module):
        raise TypeError(f"constructor made a {type(module).__name__}; expected an nnx.Module")
    for path, leaf in nnx.iter_graph(module):
        if isinstance(leaf, jax.Array):
            raise TypeError(
                f"the module holds an array at {'/'.join(map(str, path))!r}; write "
                "nnx.Variable(array), or nnx.Param where it is to be trained"
            )

    def draw(key, x):
        del x
        split = _split(build(constructor, "rngs", nnx.Rngs(key)))
        return split.variables

    return _model(module, drawn(draw))


class _Split(NamedTuple):
    """A module in parts: its graph, and three states."""

    graph: nnx.GraphDef
    params: PyTree
    streams: PyTree
    rest: PyTree

    @property
    def variables(self) -> Variables:
        return Variables(*(_form(part).dicts(part) for part in (self.params, self.rest)))


def _split(module: nnx.Module) -> _Split:
    return _Split(*nnx.split(module, nnx.Param, nnx.RngState, ..., graph=True))


def _form(state: PyTree) -> Form:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    value = jax.tree_util.GetAttrKey("value")  # between a variable and its array
    names = tuple(parts(key for key in path if key != value) for path, _ in leaves)
    return Form(jax.tree.structure(state), names)


def _model(module: nnx.Module, init: Callable) -> Model:
    """Make the pair; the module may be abstract, and its mode is changed."""
    name = type(module).__name__
    if not callable(module):
        raise TypeError(f"{name} has no __call__; expected __call__(self, x)")
    names = arguments(module.__call__, f"{name}.__call__", known=(*TRAINING, "rngs"))
    module.eval()
    evaluation = _split(module).graph
    module.train()
    training, params, streams, rest = split = _split(module)
    form, held = _form(params), _form(rest)
    count = len(jax.tree.leaves(streams))

    def run(params: PyTree, state: PyTree, x: PyTree, key):
        graph, switches = evaluation if key is None else training, switched(names, key is not None)
        module = nnx.merge(graph, form.tree(params), _keyed(streams, key), held.tree(state))
        if "rngs" in names:
            switches["rngs"] = None if key is None else nnx.Rngs(jax.random.fold_in(key, count))
        y = module(x, **switches)
        if key is None:
            return y, state
        after = _split(module)
        _check_unchanged(params, after.variables.params)
        new = _flat(after.variables.state)
        return y, nested((at, new.get(at, old)) for at, old in _flat(state).items())

    return adapted(init, run, split.variables)


def _flat(dicts: dict) -> dict:
    return {parts(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(dicts)}


def _keyed(streams: PyTree, key) -> PyTree:
    """Give each stream a key of its own, and the count 0; none in evaluation."""

    def value(i, form):
        if not jax.dtypes.issubdtype(form.dtype, jax.dtypes.prng_key):
            return jnp.zeros(form.shape, form.dtype)
        if key is None:
            return None
        own = jax.random.fold_in(key, i)
        return jax.random.split(own, form.shape) if form.shape else own

    leaves, treedef = jax.tree.flatten(streams)
    return jax.tree.unflatten(treedef, [value(i, form) for i, form in enumerate(leaves)])


def _check_unchanged(params: dict, after: dict) -> None:
    after = _flat(after)
    for path, leaf in _flat(params).items():
        if after.get(path) is not leaf:
            raise ValueError(
                f"the module changed its parameter {'/'.join(path)!r} while it was called; "
                "expected nnx.Param for what is trained, nnx.BatchStat or nnx.Variable for the rest"
            )


def split(module: nnx.Module) -> tuple[Model, Variables]:
    """Adapt a module that is already built."""
    variables = _split(module).variables
    return _model(nnx.clone(module), owned(variables)), variables


def merge(module: nnx.Module, variables: Variables) -> nnx.Module:
    """Make a module with other numbers."""
    graph, params, streams, rest = _split(module)
    new = _form(params).tree(variables.params), streams, _form(rest).tree(variables.state)
    return nnx.merge(graph, *new)
