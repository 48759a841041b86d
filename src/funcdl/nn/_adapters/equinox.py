"""The adapter for equinox: a module of one example is put together inside a vmap over the batch."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl._typing import PyTree
from funcdl.nn._adapters.common import Form, adapted, arguments, build, drawn, owned, parts
from funcdl.nn._model import Model, Variables


def from_equinox(constructor: Callable) -> Model:
    """Adapt an equinox module, given by what makes it.

    The module takes one example; the batch is a ``jax.vmap`` of it, under the ``axis_name`` that a
    ``BatchNorm`` in it has. A key means training: ``inference_mode(module, False)``, and the
    module's argument ``key`` is one of ``jax.random.split(key, b)``; without one it is
    ``inference_mode(module)``. Arrays of floats are the parameters; other arrays, and the values
    of each ``StateIndex``, are state.

    Args:
        constructor: ``constructor(key) -> eqx.Module``, or ``(module, state)`` as
            ``eqx.nn.make_with_state(Net)`` gives it. It is called under ``jax.eval_shape`` here,
            and in ``init``.

    Returns:
        ``Model(init, apply)``; ``init`` does not look at ``x``. ``apply`` raises as that of
        ``from_linen``, and ``ValueError`` if the examples leave different states.

    Raises:
        TypeError: If what is made is no module, has a ``StateIndex`` without state, or its
            ``__call__`` needs more than an input, ``state`` and ``key``.
        ValueError: If its layers name the axis of the batch differently.
        ImportError: Without ``equinox``.

    >>> import equinox
    >>> model = from_equinox(lambda key: equinox.nn.Linear(3, 2, use_bias=False, key=key))
    >>> params, state = model.init(jax.random.key(0), None)
    >>> y, state = model.apply({"weight": jnp.ones((2, 3))}, state, jnp.ones((1, 3)))
    >>> y.tolist()
    [[3.0, 3.0]]
    """
    eqx = _equinox()
    if isinstance(constructor, eqx.Module) or not callable(constructor):
        raise TypeError(
            f"constructor is {type(constructor).__name__}; expected constructor(key) -> "
            "eqx.Module; nn.split takes a module that is already built"
        )
    make = functools.partial(build, constructor, "key")
    spec = _spec(eqx.filter_eval_shape(make, jax.random.key(0)))

    def draw(key, x):
        del x
        return spec.variables(make(key))

    return _model(spec, drawn(draw))


def _equinox():
    try:
        import equinox
    except ImportError as error:
        raise ImportError("this needs equinox: pip install 'funcdl[equinox]'") from error
    return equinox


class _Spec(NamedTuple):
    """A module, abstract or not, and where its arrays go."""

    module: PyTree
    state: PyTree
    params: Form
    rest: Form

    def variables(self, net) -> Variables:
        """Read the numbers of a net of this form."""
        floats, others, _ = _partition(net[0] if isinstance(net, tuple) else net)
        state = net[1].substate(net[0]) if isinstance(net, tuple) else None
        return Variables(self.params.dicts(floats), self.rest.dicts((others, state)))

    def net(self, params: dict, state: dict) -> tuple:
        """Put module and state together."""
        others, state = self.rest.tree(state)
        static = _partition(self.module)[2]
        return _equinox().combine(self.params.tree(params), others, static), state


def _spec(net) -> _Spec:
    eqx = _equinox()
    module, state = net if isinstance(net, tuple) and len(net) == 2 else (net, None)
    if not isinstance(module, eqx.Module) or not callable(module):
        raise TypeError(
            f"the net is a {type(net).__name__}; expected an eqx.Module with __call__(self, x), or "
            "(module, state) of one"
        )
    indices = [
        (path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(module, is_leaf=_is_index)
        if _is_index(leaf)
    ]
    if indices and state is None:
        at = "/".join(parts(indices[0][0]))
        raise TypeError(f"the module has state at {at!r}; write eqx.nn.make_with_state(Net)(key)")
    state = None if state is None else state.substate(module)
    floats, others, _ = _partition(module)
    names = [*_names(others), *_state_names(state, indices)]
    rest = Form(jax.tree.structure((others, state)), tuple(names))
    return _Spec(module, state, Form(jax.tree.structure(floats), tuple(_names(floats))), rest)


def _is_index(leaf) -> bool:
    return isinstance(leaf, _equinox().nn.StateIndex)


def _names(tree) -> list[tuple[str, ...]]:
    return [parts(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _state_names(state, indices) -> list[tuple[str, ...]]:
    """Name the values of a state by the paths of the indices that reach them."""
    if state is None:
        return []
    treedef = jax.tree.structure(state)
    numbered = jax.tree.unflatten(treedef, range(treedef.num_leaves))
    names = {}
    for path, index in indices:
        for inner, number in jax.tree_util.tree_leaves_with_path(numbered.get(index)):
            names.setdefault(number, parts((*path, *inner)))
    return [names[number] for number in range(treedef.num_leaves)]


def _partition(module) -> tuple:
    """Separate parameters, other arrays, and what is static."""
    eqx = _equinox()

    def array(leaf):
        return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)

    def inexact(leaf):
        return array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)

    params, rest = eqx.partition(module, inexact)
    return params, *eqx.partition(rest, array)


def _model(spec: _Spec, init: Callable) -> Model:
    eqx = _equinox()
    stateful = spec.state is not None
    name = f"{type(spec.module).__name__}.__call__"
    names = arguments(spec.module.__call__, name, given=1 + stateful, known=("key",))
    axis = _axis_name(spec.module)
    modes = {
        mode: spec._replace(module=eqx.nn.inference_mode(spec.module, mode))
        for mode in (True, False)
    }

    def run(params: PyTree, state: PyTree, x: PyTree, key):
        module, inner = modes[key is None].net(params, state)
        keys = None if key is None else jax.random.split(key, jax.tree.leaves(x)[0].shape[0])

        def one(x, key):
            drawing = {"key": key} if "key" in names else {}
            y, new = module(x, inner, **drawing) if stateful else (module(x, **drawing), None)
            return (y, new) if key is not None else (y, None)

        y, new = _batched(one, axis)(x, keys)
        if not stateful or key is None:
            return y, state
        others, _ = spec.rest.tree(state)
        return y, spec.rest.dicts((others, new))

    return adapted(
        init, run, spec.variables((spec.module, spec.state) if stateful else spec.module)
    )


def _batched(one: Callable, axis: str | None) -> Callable:
    batched = jax.vmap(one, out_axes=(0, None), axis_name=axis)

    def call(x, keys):
        try:
            return batched(x, keys)
        except ValueError as error:
            if "out_axes" not in str(error):
                raise
            raise ValueError(
                "the examples of a batch leave different states; expected one for all, by "
                "jax.lax.pmean(value, self.axis_name) in the layer"
            ) from error

    return call


def _axis_name(module) -> str | None:
    """Return the name of the axis over which the layers of a module take means."""
    found = []

    def look(node) -> bool:
        name = getattr(node, "axis_name", None)
        found.extend(name if isinstance(name, (tuple, list)) else [name] * (name is not None))
        return False

    jax.tree.leaves(module, is_leaf=look)
    if len(set(found)) > 1:
        raise ValueError(
            f"layers name the axis of the batch {sorted(set(map(str, found)))}; expected one name"
        )
    return found[0] if found else None


def split(net) -> tuple[Model, Variables]:
    """Adapt a module, or module and state, already built."""
    spec = _spec(net)
    variables = spec.variables((spec.module, spec.state) if isinstance(net, tuple) else net)
    return _model(spec, owned(variables)), variables


def merge(net, variables: Variables):
    """Make a net with other numbers."""
    module, state = _spec(net).net(*variables)
    return (module, state) if isinstance(net, tuple) else module
