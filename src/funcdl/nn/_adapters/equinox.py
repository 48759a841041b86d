"""The adapter for Equinox: a module of one example is rebuilt inside a vmap over the batch."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcdl._typing import PyTree
from funcdl.nn._adapters.common import (
    Form,
    adapted,
    arguments,
    build,
    drawn,
    owned,
    parts,
    switched,
)
from funcdl.nn._model import Model, Variables


def from_equinox(
    constructor: Callable[..., Any], *, switches: Mapping[str, bool | None] | None = None
) -> Model:
    """Adapt an Equinox module, given by its constructor.

    The module takes one example. A batch is a ``jax.vmap`` of the module, under the ``axis_name``
    of the ``BatchNorm`` layers in it. A key means training, ``inference_mode(module, False)``, and
    each example receives one of ``jax.random.split(key, b)`` as the argument ``key``; no key means
    ``inference_mode(module)``. Float arrays are the parameters; other arrays and the values of each
    ``StateIndex`` are state.

    Args:
        constructor: A function ``constructor(key)`` that returns an ``eqx.Module``, or ``(module,
            state)`` like ``eqx.nn.make_with_state(Net)``. It is called under ``jax.eval_shape``
            here, and again in ``init``.
        switches: The values of boolean arguments of ``__call__`` in training, as in ``from_linen``.

    Returns:
        ``Model(init, apply)``; ``init`` ignores ``x``. ``apply`` raises the errors of
        ``from_linen``, and ``ValueError`` if the examples result in different states.

    Raises:
        TypeError: If the constructor does not return a module, the module has a ``StateIndex`` but
            no state, its ``__call__`` requires more than an input, ``state`` and ``key``, or it has
            a boolean argument that is not in ``switches``.
        ValueError: If the layers use different names for the batch axis, or ``__call__`` does not
            have an argument in ``switches``.
        ImportError: If ``equinox`` is missing.

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
            "eqx.Module; for a module that is already built, use nn.split"
        )
    make = functools.partial(build, constructor, "key")
    spec = _spec(eqx.filter_eval_shape(make, jax.random.key(0)))

    def draw(key, x):
        del x
        return spec.variables(make(key))

    return _model(spec, drawn(draw), switches)


def _equinox() -> Any:
    try:
        import equinox
    except ImportError as error:
        raise ImportError("this needs equinox: pip install 'funcdl[equinox]'") from error
    return equinox


class _Spec(NamedTuple):
    """A module, abstract or not, and the forms of its variables.

    Attributes:
        module: The module.
        state: The Equinox state of the module, or ``None``.
        params_form: The form of the float arrays.
        state_form: The form of the pair of the other arrays and the Equinox state.
    """

    module: PyTree
    state: PyTree
    params_form: Form
    state_form: Form

    def variables(self, net: PyTree) -> Variables:
        """Read the variables of a net of this form."""
        floats, others, _ = _partition(net[0] if isinstance(net, tuple) else net)
        state = net[1].substate(net[0]) if isinstance(net, tuple) else None
        return Variables(self.params_form.dicts(floats), self.state_form.dicts((others, state)))

    def net(self, params: dict, state: dict) -> tuple:
        """Rebuild the module and its Equinox state."""
        others, inner = self.state_form.tree(state)
        static = _partition(self.module)[2]
        return _equinox().combine(self.params_form.tree(params), others, static), inner


def _spec(net: PyTree) -> _Spec:
    eqx = _equinox()
    module, state = net if isinstance(net, tuple) and len(net) == 2 else (net, None)
    if not isinstance(module, eqx.Module) or not callable(module):
        raise TypeError(
            f"the net is a {type(net).__name__}; expected an eqx.Module with __call__(self, x), or "
            "(module, state)"
        )
    indices = [
        (path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(module, is_leaf=_is_index)
        if _is_index(leaf)
    ]
    if indices and state is None:
        path = "/".join(parts(indices[0][0]))
        raise TypeError(f"the module has state at {path!r}; use eqx.nn.make_with_state(Net)(key)")
    state = None if state is None else state.substate(module)
    floats, others, _ = _partition(module)
    names = [*_names(others), *_state_names(state, indices)]
    return _Spec(
        module=module,
        state=state,
        params_form=Form(jax.tree.structure(floats), tuple(_names(floats))),
        state_form=Form(jax.tree.structure((others, state)), tuple(names)),
    )


def _is_index(leaf: Any) -> bool:
    return isinstance(leaf, _equinox().nn.StateIndex)


def _names(tree: PyTree) -> list[tuple[str, ...]]:
    return [parts(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _state_names(state: PyTree, indices: list) -> list[tuple[str, ...]]:
    """Name the values of an Equinox state by the paths of the indices that refer to them."""
    if state is None:
        return []
    treedef = jax.tree.structure(state)
    numbered = jax.tree.unflatten(treedef, range(treedef.num_leaves))
    names = {}
    for path, index in indices:
        for inner, number in jax.tree_util.tree_leaves_with_path(numbered.get(index)):
            names.setdefault(number, parts((*path, *inner)))
    return [names[number] for number in range(treedef.num_leaves)]


def _partition(module: PyTree) -> tuple:
    """Split a module into float arrays, other arrays, and static data."""
    eqx = _equinox()

    def is_array(leaf):
        return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)

    def is_inexact(leaf):
        return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)

    params, others = eqx.partition(module, is_inexact)
    return params, *eqx.partition(others, is_array)


def _model(
    spec: _Spec, init: Callable[..., Variables], switches: Mapping[str, bool | None] | None
) -> Model:
    eqx = _equinox()
    is_stateful = spec.state is not None
    name = f"{type(spec.module).__name__}.__call__"
    takes = inspect.signature(spec.module.__call__).parameters
    if "inference" in takes and "inference" not in (switches or {}):
        # None leaves it to inference_mode, as in the layers of Equinox
        own = None if takes["inference"].default is None else False
        switches = {**(switches or {}), "inference": own}
    names = arguments(
        spec.module.__call__, name, given=1 + is_stateful, known=("key",), switches=switches
    )
    axis = _axis_name(spec.module)
    modes = {
        mode: spec._replace(module=eqx.nn.inference_mode(spec.module, mode))
        for mode in (True, False)
    }

    def run(params: PyTree, state: PyTree, x: PyTree, key, training: bool):
        module, inner = modes[not training].net(params, state)
        values = switched(names, training)
        keys = None if key is None else jax.random.split(key, jax.tree.leaves(x)[0].shape[0])

        def one(x, key):
            options = values | ({"key": key} if "key" in names else {})
            y, new = module(x, inner, **options) if is_stateful else (module(x, **options), None)
            return (y, new) if training else (y, None)

        y, new = _batched(one, axis)(x, keys)
        if not is_stateful or not training:
            return y, state
        others, _ = spec.state_form.tree(state)
        return y, spec.state_form.dicts((others, new))

    return adapted(
        init, run, spec.variables((spec.module, spec.state) if is_stateful else spec.module)
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
                "the examples of a batch result in different states; expected one common state: "
                "use jax.lax.pmean(value, self.axis_name) in the layer"
            ) from error

    return call


def _axis_name(module: PyTree) -> str | None:
    """Return the name of the axis over which the layers of a module average."""
    names = []

    def collect(node) -> bool:  # is_leaf is called for every node of the tree
        name = getattr(node, "axis_name", None)
        names.extend(name if isinstance(name, (tuple, list)) else [name] * (name is not None))
        return False

    jax.tree.leaves(module, is_leaf=collect)
    if len(set(names)) > 1:
        raise ValueError(
            f"the layers use the names {sorted(set(map(str, names)))} for the batch axis; expected "
            "one name"
        )
    return names[0] if names else None


def split(
    net: PyTree, switches: Mapping[str, bool | None] | None = None
) -> tuple[Model, Variables]:
    """Adapt a module, or a pair of module and state, that is already built."""
    values = variables(net)
    return _model(_spec(net), owned(values), switches), values


def variables(net: PyTree) -> Variables:
    """Return the variables of a module, or of a pair of module and state."""
    spec = _spec(net)
    return spec.variables((spec.module, spec.state) if isinstance(net, tuple) else net)


def merge(net: PyTree, variables: Variables) -> PyTree:
    """Return a net with other variables."""
    module, state = _spec(net).net(*variables)
    return (module, state) if isinstance(net, tuple) else module
