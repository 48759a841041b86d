"""The adapter for haiku: a transformed function becomes the pair ``Model(init, apply)``."""

import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl._typing import PyTree
from funcdl.nn._adapters.common import adapted, arguments, drawn, owned, switched
from funcdl.nn._model import Model, Variables


def from_haiku(f: Callable) -> Model:
    """Adapt a function of haiku modules.

    A key means training, and is the function's rng; an argument of ``f`` named as in
    ``from_linen``, such as ``is_training``, is set by it. The state is haiku's; where a layer
    starts averages from its first input, ``init`` gives it a standard normal one.

    Args:
        f: ``f(x)`` or ``f(x, is_training)``, as ``hk.transform_with_state`` takes it.

    Returns:
        ``Model(init, apply)``. ``init`` reads only shapes. ``apply`` raises as that of
        ``from_linen``.

    Raises:
        TypeError: If ``f`` is no plain function, or needs more than one input and a known switch.
        ImportError: Without ``dm-haiku``.

    >>> import haiku as hk
    >>> model = from_haiku(lambda x: hk.Linear(2, w_init=hk.initializers.Constant(1.0))(x))
    >>> params, state = model.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 3), jnp.float32))
    >>> model.apply(params, state, jnp.ones((1, 3)))[0].tolist()
    [[3.0, 3.0]]
    """
    hk = _haiku()
    if isinstance(f, tuple):
        raise TypeError("f is transformed already; expected the plain function, or nn.split")
    if not inspect.isroutine(f) and (isinstance(f, (type, hk.Module)) or not callable(f)):
        kind = f"the class {f.__name__}" if isinstance(f, type) else f"a {type(f).__name__}"
        raise TypeError(f"f is {kind}; expected a function, lambda x: Net()(x)")
    transformed = hk.transform_with_state(f)
    names = arguments(f, getattr(f, "__name__", "f"))

    def draw(key, x):
        # in training, where alone batch norm makes its averages, and of an input it makes them
        params, state = transformed.init(key, _typical(key, x), **switched(names, True))
        return _dicts(params), _dicts(state)

    return adapted(drawn(draw), _run(transformed, names))


def _haiku():
    try:
        import haiku
    except ImportError as error:
        raise ImportError("this needs haiku: pip install 'funcdl[haiku]'") from error
    return haiku


def _typical(key, x: PyTree) -> PyTree:
    """Draw standard normal numbers of the form of an input; integers are 0."""

    def leaf(form):
        if jnp.issubdtype(form.dtype, jnp.floating):
            return jax.random.normal(key, form.shape, form.dtype)
        return jnp.zeros(form.shape, form.dtype)

    return jax.tree.map(leaf, x)


def _dicts(mapping) -> dict:
    return {module: dict(arrays) for module, arrays in mapping.items()}


def _run(transformed, names: list[str]) -> Callable:
    def run(params: PyTree, state: PyTree, x: PyTree, key):
        switches = switched(names, key is not None)
        y, new = transformed.apply(params, state, key, x, **switches)
        return y, state if key is None else _dicts(new)

    return run


def split(net: tuple) -> tuple[Model, Variables]:
    """Adapt ``(transformed, params)`` or ``(transformed, params, state)``."""
    hk = _haiku()
    transformed, *numbers = net
    stateless = isinstance(transformed, hk.Transformed)
    if len(numbers) != (1 if stateless else 2):
        raise TypeError(
            f"the net is {type(transformed).__name__} and {len(numbers)} more; expected "
            "(transformed, params) of hk.transform, (transformed, params, state) of "
            "hk.transform_with_state"
        )
    variables = Variables(*map(_dicts, numbers), *[{}] * stateless)
    transformed = hk.with_empty_state(transformed) if stateless else transformed
    names = arguments(transformed.apply, "the function", given=4)
    return adapted(owned(variables), _run(transformed, names)), variables


def merge(net: tuple, variables: Variables) -> tuple:
    """Put other numbers beside the transformed function."""
    return net[0], *variables[: len(net) - 1]
