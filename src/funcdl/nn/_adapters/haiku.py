"""The adapter for Haiku: a transformed function becomes the pair ``Model(init, apply)``."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from funcdl._typing import Array, Function, Key, PyTree
from funcdl.nn._adapters.common import adapted, arguments, drawn, owned, switched
from funcdl.nn._model import Model, Variables


def from_haiku(f: Function, *, switches: Mapping[str, bool | None] | None = None) -> Model:
    """Adapt a function of Haiku modules.

    A key means training and is the function's rng; it also sets an argument of ``f`` that is named
    as in ``from_linen``, such as ``is_training``, or is in ``switches``. The state is that of
    Haiku. For layers that start their averages from the first input, ``init`` passes a standard
    normal input.

    Args:
        f: A function ``f(x)`` or ``f(x, is_training)``, as for ``hk.transform_with_state``.
        switches: The values of other boolean arguments in training, as in ``from_linen``.

    Returns:
        ``Model(init, apply)``. ``init`` reads only shapes. ``apply`` raises the errors of
        ``from_linen``.

    Raises:
        TypeError: If ``f`` is not a plain function, requires more than one input and a known
            switch, or has a boolean argument that may be a switch and is not in ``switches``.
        ValueError: If ``f`` does not have an argument in ``switches``.
        ImportError: If ``dm-haiku`` is missing.

    >>> import haiku as hk
    >>> model = from_haiku(lambda x: hk.Linear(2, w_init=hk.initializers.Constant(1.0))(x))
    >>> params, state = model.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 3), jnp.float32))
    >>> model.apply(params, state, jnp.ones((1, 3)))[0].tolist()
    [[3.0, 3.0]]
    """
    hk = _haiku()
    if isinstance(f, tuple):
        raise TypeError(
            "f is already transformed; expected the plain function; for a transformed function and "
            "its params, use nn.split"
        )
    if not inspect.isroutine(f) and (isinstance(f, (type, hk.Module)) or not callable(f)):
        kind = f"the class {f.__name__}" if isinstance(f, type) else f"a {type(f).__name__}"
        raise TypeError(f"f is {kind}; expected a function, lambda x: Net()(x)")
    transformed = hk.transform_with_state(f)
    names = arguments(f, getattr(f, "__name__", "f"), switches=switches)

    def draw(key, x):
        # batch norm creates its averages only in training, and from the values of the input
        params, state = transformed.init(key, _typical(key, x), **switched(names, True))
        return _dicts(params), _dicts(state)

    return adapted(drawn(draw), _run(transformed, names))


def _haiku() -> Any:
    try:
        import haiku
    except ImportError as error:
        raise ImportError("this needs haiku: pip install 'funcdl[haiku]'") from error
    return haiku


def _typical(key: Key[Array, ""], x: PyTree) -> PyTree:
    """Draw standard normal numbers in the form of an input; integers are 0."""

    def leaf(form):
        if jnp.issubdtype(form.dtype, jnp.floating):
            return jax.random.normal(key, form.shape, form.dtype)
        return jnp.zeros(form.shape, form.dtype)

    return jax.tree.map(leaf, x)


def _dicts(mapping: Mapping[str, Mapping]) -> dict:
    return {module: dict(arrays) for module, arrays in mapping.items()}


def _run(transformed: Any, names: dict[str, bool | None]) -> Callable[..., tuple]:
    def run(params: PyTree, state: PyTree, x: PyTree, key, training: bool):
        y, new = transformed.apply(params, state, key, x, **switched(names, training))
        return y, _dicts(new) if training else state

    return run


def split(net: tuple, switches: Mapping[str, bool | None] | None = None) -> tuple[Model, Variables]:
    """Adapt ``(transformed, params)`` or ``(transformed, params, state)``."""
    hk = _haiku()
    values = variables(net)
    transformed = hk.with_empty_state(net[0]) if isinstance(net[0], hk.Transformed) else net[0]
    names = arguments(transformed.apply, "the function", given=4, switches=switches)
    return adapted(owned(values), _run(transformed, names)), values


def variables(net: tuple) -> Variables:
    """Return the variables of ``(transformed, params)`` or ``(transformed, params, state)``."""
    hk = _haiku()
    transformed, *trees = net
    is_stateless = isinstance(transformed, hk.Transformed)
    if len(trees) != (1 if is_stateless else 2):
        raise TypeError(
            f"the net is a {type(transformed).__name__} and {len(trees)} tree(s); expected "
            "(transformed, params) for hk.transform, or (transformed, params, state) for "
            "hk.transform_with_state"
        )
    params, state = trees if len(trees) == 2 else (*trees, {})
    return Variables(_dicts(params), _dicts(state))


def merge(net: tuple, variables: Variables) -> tuple:
    """Combine the transformed function with other variables."""
    return net[0], *variables[: len(net) - 1]
