"""The adapter for flax.linen: a module becomes the pair ``Model(init, apply)``."""

import functools
import inspect
from collections.abc import Callable

import jax
from flax import errors, linen

from funcdl import _tree
from funcdl._check import check_key
from funcdl._closure import once
from funcdl._typing import PyTree
from funcdl.nn._model import Model, Variables

_TRAINING = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
_UNLIKE = (
    errors.ScopeParamShapeError,
    errors.ScopeParamNotFoundError,
    errors.ScopeCollectionNotFound,
    errors.ScopeVariableNotFoundError,
    errors.ModifyScopeVariableError,
)


def from_linen(module: linen.Module, *, streams: tuple[str, ...] = ("dropout",)) -> Model:
    """Adapt a flax.linen module.

    A key means training: an argument of ``__call__`` named ``train``, ``training``,
    ``deterministic`` or ``use_running_average`` is set by it. The parameters become nested
    dicts; every other collection that is there after ``init`` becomes state (``batch_stats``), and
    what the module only sows is dropped.

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
    switch = _switch(module)

    @functools.cache
    def drawn(treedef, forms) -> Callable:
        x = jax.tree.unflatten(treedef, forms)
        return once(lambda rngs: module.lazy_init(rngs, x, **switch(False)))

    def init(key, x: PyTree) -> Variables:
        check_key(key)
        keys = jax.random.split(key, 1 + len(streams))
        rngs = dict(zip(("params", *streams), keys))
        forms, treedef = jax.tree.flatten(jax.eval_shape(lambda x: x, x))
        variables = dict(drawn(treedef, tuple(forms))(rngs))
        params = variables.pop("params", {})
        _tree.check_floating(params, "params")
        return Variables(params, variables)

    def call(params: PyTree, state: PyTree, x: PyTree, **how):
        try:
            return module.apply({"params": params, **state}, x, **how)
        except _UNLIKE:
            made, what = jax.eval_shape(init, jax.random.key(0), x), "what the module makes for x"
            _tree.check_like(params, made.params, "params", what)
            _tree.check_like(state, made.state, "state", what)
            raise

    def apply(params: PyTree, state: PyTree, x: PyTree, key=None):
        if key is None:
            try:
                return call(params, state, x, **switch(False)), state
            except errors.InvalidRngError as error:
                raise ValueError(f"key is None, which means evaluation, but {error}") from error
        check_key(key)
        rngs = {name: jax.random.fold_in(key, i) for i, name in enumerate(streams)}
        y, new = call(params, state, x, rngs=rngs, mutable=list(state), **switch(True))
        new = {name: new.get(name, state[name]) for name in state}
        _tree.check_like(new, state, "the state that the module returned", "the one it got")
        return y, new

    return Model(init, apply)


def _switch(module: linen.Module) -> Callable:
    """Return the keyword arguments of ``__call__`` that say whether this is training."""
    known = inspect.signature(module.__call__).parameters
    names = [name for name in _TRAINING if name in known]
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    other = [name for name, p in list(known.items())[1:] if name not in names]
    needed = [k for k in other if known[k].default is known[k].empty and known[k].kind not in kinds]
    if needed:
        raise TypeError(
            f"{type(module).__name__}.__call__ needs {needed} besides its input; expected one "
            f"input (a pytree holds several), and of switches {list(_TRAINING)}"
        )
    return lambda training: {name: _TRAINING[name] == training for name in names}
