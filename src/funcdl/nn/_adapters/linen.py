"""The adapter for flax.linen: a module becomes the pair ``Model(init, apply)``."""

from typing import Any, cast

import jax
from flax import core, linen

from funcdl._typing import PyTree
from funcdl.nn._adapters.common import adapted, arguments, drawn, owned, switched
from funcdl.nn._model import Model, Variables


def from_linen(module: linen.Module, *, streams: tuple[str, ...] = ("dropout",)) -> Model:
    """Adapt a flax.linen module.

    A key means training: it sets an argument of ``__call__`` that is named ``train``, ``training``,
    ``is_training``, ``deterministic`` or ``use_running_average``. The parameters become nested
    dicts. Every other collection that exists after ``init`` becomes state (``batch_stats``), and
    values that the module only sows are dropped.

    Args:
        module: A module instance, which is called with the input alone.
        streams: The names of the random streams that the module uses in training.

    Returns:
        ``Model(init, apply)``. ``init`` reads only shapes. ``apply`` raises ``TypeError`` for a key
        that is not typed (``jax.random.key``). It raises ``ValueError`` if the module needs a key
        and ``key`` is ``None``, if ``params`` or ``state`` do not fit ``x`` (the message names the
        path), or if the module changes the structure of its state.

    Raises:
        TypeError: If ``module`` is not a module instance, or its ``__call__`` requires more than
            one input and a known switch.

    >>> import jax.numpy as jnp
    >>> model = from_linen(linen.Dense(2, kernel_init=linen.initializers.ones))
    >>> params, state = model.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 3), jnp.float32))
    >>> model.apply(params, state, jnp.ones((1, 3)))[0].tolist()
    [[3.0, 3.0]]
    """
    if not isinstance(module, linen.Module):
        kind = f"the class {module.__name__}" if isinstance(module, type) else repr(module)
        raise TypeError(
            f"module is {kind}; expected an instance of flax.linen.Module, such as Net()"
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
            f"{type(module).__name__} is not bound to variables; expected module.bind(variables), "
            "or nn.from_linen(module), which draws them"
        )
    module, collections = module.unbind()
    state = core.unfreeze(cast(dict[str, Any], collections))
    variables = Variables(state.pop("params", {}), state)
    return Model(owned(variables), from_linen(module).apply), variables


def merge(module: linen.Module, variables: Variables) -> linen.Module:
    """Bind a module to other variables."""
    return module.unbind()[0].bind({"params": variables.params, **variables.state})
