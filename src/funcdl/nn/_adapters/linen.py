"""The adapter for flax.linen: a module becomes the pair ``Model(init, apply)``."""

import jax
from flax import core, linen

from funcdl._typing import PyTree
from funcdl.nn._adapters.common import adapted, arguments, drawn, owned, switched
from funcdl.nn._model import Model, Variables


def from_linen(module: linen.Module, *, streams: tuple[str, ...] = ("dropout",)) -> Model:
    """Adapt a flax.linen module.

    A key means training: an argument of ``__call__`` named ``train``, ``training``,
    ``is_training``, ``deterministic`` or ``use_running_average`` is set by it. The parameters
    become nested dicts; every other collection that is there after ``init`` becomes state
    (``batch_stats``), and what the module only sows is dropped.

    Args:
        module: An instance; it is called with the input alone.
        streams: Names of the random streams that the module draws from while training.

    Returns:
        ``Model(init, apply)``. ``init`` reads only shapes. ``apply`` raises ``TypeError`` for a key
        that is not typed (``jax.random.key``), ``ValueError`` if the module needs a key and none
        came, if ``params`` or ``state`` are not what it makes for ``x`` (the path is named), or if
        it changes the structure of its state.

    Raises:
        TypeError: If ``module`` is not a module instance, or its ``__call__`` needs more than one
            input and a known switch.

    >>> import jax.numpy as jnp
    >>> model = from_linen(linen.Dense(2, kernel_init=linen.initializers.ones))
    >>> params, state = model.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 3), jnp.float32))
    >>> model.apply(params, state, jnp.ones((1, 3)))[0].tolist()
    [[3.0, 3.0]]
    """
    if not isinstance(module, linen.Module):
        kind = f"the class {module.__name__}" if isinstance(module, type) else repr(module)
        raise TypeError(
            f"module is {kind}; expected an instance of flax.linen.Module, as Net() is of Net"
        )
    names = arguments(module.__call__, f"{type(module).__name__}.__call__")

    def draw(key, x: PyTree):
        rngs = dict(zip(("params", *streams), jax.random.split(key, 1 + len(streams))))
        variables = dict(module.lazy_init(rngs, x, **switched(names, False)))
        return variables.pop("params", {}), variables

    def run(params: PyTree, state: PyTree, x: PyTree, key):
        variables, training = {"params": params, **state}, key is not None
        if not training:
            return module.apply(variables, x, **switched(names, False)), state
        rngs = {name: jax.random.fold_in(key, i) for i, name in enumerate(streams)}
        y, new = module.apply(variables, x, rngs=rngs, mutable=list(state), **switched(names, True))
        return y, {name: new.get(name, state[name]) for name in state}

    return adapted(drawn(draw), run)


def split(module: linen.Module) -> tuple[Model, Variables]:
    """Adapt a module that is bound to its variables."""
    if module.scope is None:
        raise TypeError(
            f"{type(module).__name__} has no numbers; expected module.bind(variables), or "
            "nn.from_linen(module), which draws them"
        )
    module, variables = module.unbind()
    state = core.unfreeze(variables)
    variables = Variables(state.pop("params", {}), state)
    return Model(owned(variables), from_linen(module).apply), variables


def merge(module: linen.Module, variables: Variables) -> linen.Module:
    """Bind a module to other numbers."""
    return module.unbind()[0].bind({"params": variables.params, **variables.state})
