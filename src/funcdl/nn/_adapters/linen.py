"""The adapter for flax.linen: a module becomes the pair ``Model(init, apply)``."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, cast

import jax
from flax import core, errors, linen

from funcdl._typing import PyTree
from funcdl.nn._adapters.common import (
    TRAINING,
    adapted,
    arguments,
    checked_switches,
    drawn,
    owned,
    switched,
)
from funcdl.nn._model import Model, Variables


def from_linen(
    module: linen.Module,
    *,
    streams: tuple[str, ...] = ("dropout",),
    switches: Mapping[str, bool | None] | None = None,
) -> Model:
    """Adapt a flax.linen module.

    A key means training: it sets an argument of ``__call__`` that is named ``train``, ``training``,
    ``is_training``, ``deterministic`` or ``use_running_average``, and those in ``switches``. Every
    other boolean argument must be in ``switches``. The parameters become nested
    dicts. Every other collection that exists after ``init`` becomes state (``batch_stats``). Values
    that the module sows into ``intermediates`` are dropped; a module that sows into any other
    collection, such as a loss, is rejected in training.

    Args:
        module: A module instance, which is called with the input alone.
        streams: The names of the random streams that the module uses in training.
        switches: The values in training of boolean arguments of ``__call__``, or of fields of the
            module, such as ``{"is_train": True}`` or ``{"inference": False}``; evaluation takes the
            opposite. ``None`` leaves an argument at its default.

    Returns:
        ``Model(init, apply)``. ``init`` reads only shapes. ``apply`` raises ``TypeError`` for a key
        that is not typed (``jax.random.key``). It raises ``ValueError`` if the module needs a key
        and ``key`` is ``None``, if ``params`` or ``state`` do not fit ``x`` (the message names the
        path), or if the module changes the structure of its state.

    Raises:
        TypeError: If ``module`` is not a module instance, its ``__call__`` requires more than one
            input and a known switch, or ``__call__`` or the module has a boolean argument that may
            be a switch and is not in ``switches``.
        ValueError: If the module does not have an argument in ``switches``.

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
    modes, values = _modes(module, switches or {})

    def draw(key, x: PyTree):
        rngs = dict(zip(("params", *streams), jax.random.split(key, 1 + len(streams))))
        variables = _initialized(modes[False], rngs, x, switched(values, False))
        return variables.pop("params", {}), variables

    def run(params: PyTree, state: PyTree, x: PyTree, key, training: bool):
        variables, options = {"params": params, **state}, switched(values, training)
        rngs = {}
        if key is not None:
            rngs = {name: jax.random.fold_in(key, i) for i, name in enumerate(streams)}
        if not training:
            return modes[False].apply(variables, x, rngs=rngs, **options), state
        y, new = modes[True].apply(variables, x, rngs=rngs, mutable=_KEPT, **options)
        _check_sown(module, state, new)
        return y, {name: new.get(name, state[name]) for name in state}

    return adapted(drawn(draw), run)


# what a call may change: all collections but those that are only meant for inspection
_KEPT = core.DenyList(("params", "intermediates", "perturbations"))


def _initialized(module: linen.Module, rngs: dict, x: PyTree, options: dict) -> dict:
    try:
        return dict(module.lazy_init(rngs, x, **options))
    except errors.LazyInitError as error:
        raise ValueError(
            f"{type(module).__name__} stores a value that depends on its input while it is "
            "initialized, which only reads shapes; for self.sow, write `if not "
            "self.is_initializing():` before it"
        ) from error


def _check_sown(module: linen.Module, state: PyTree, new: Mapping[str, Any]) -> None:
    """Refuse values that a module sows for its loss, because the adapter drops them."""
    lost = [name for name in new if name not in state and jax.tree.leaves(new[name])]
    if lost:
        raise ValueError(
            f"{type(module).__name__} sows into {lost[0]!r}, which would be lost: the loss does "
            "not see it; return the value from __call__ together with the outputs, and add it in "
            "the loss"
        )


def _modes(
    module: linen.Module, switches: Mapping[str, bool | None]
) -> tuple[dict[bool, linen.Module], dict[str, bool | None]]:
    """Return the module in training and in evaluation, and the switches of its ``__call__``."""
    name = type(module).__name__
    taken = [p.name for p in inspect.signature(module.__call__).parameters.values()]
    fields = [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    checked_switches(switches, [*taken[1:], *fields], name)
    own = {k: v for k, v in switches.items() if k not in taken}
    values = arguments(
        module.__call__,
        f"{name}.__call__",
        switches={k: v for k, v in switches.items() if k in taken},
    )
    for field in fields:
        if field in TRAINING and isinstance(getattr(module, field), bool) and field not in own:
            raise TypeError(
                f"module is {name}({field}={getattr(module, field)}), which fixes whether it is in "
                f"training; pass switches={{{field!r}: {TRAINING[field]}}} to let the key decide, "
                "or None to leave it so"
            )
    modes = {mode: module.clone(**switched(own, mode)) for mode in (True, False)}
    return modes, values


def split(
    module: linen.Module, switches: Mapping[str, bool | None] | None = None
) -> tuple[Model, Variables]:
    """Adapt a module that is bound to its variables."""
    values = variables(module)
    model = from_linen(module.unbind()[0], switches=switches)
    return Model(owned(values), model.apply), values


def variables(module: linen.Module) -> Variables:
    """Return the variables of a bound module."""
    if module.scope is None:
        raise TypeError(
            f"{type(module).__name__} is not bound to variables; expected module.bind(variables), "
            "or nn.from_linen(module), which draws them"
        )
    state = core.unfreeze(cast(dict[str, Any], module.unbind()[1]))
    return Variables(state.pop("params", {}), state)


def merge(module: linen.Module, variables: Variables) -> linen.Module:
    """Bind a module to other variables."""
    return module.unbind()[0].bind({"params": variables.params, **variables.state})
