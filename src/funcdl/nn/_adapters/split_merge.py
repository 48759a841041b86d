"""Conversion of nets that are already built or trained, from any framework and back."""

from collections.abc import Mapping
from types import ModuleType

from flax import linen, nnx

from funcdl import _tree
from funcdl._typing import PyTree
from funcdl.nn._adapters import equinox as _equinox
from funcdl.nn._adapters import haiku as _haiku
from funcdl.nn._adapters import linen as _linen
from funcdl.nn._adapters import nnx as _nnx
from funcdl.nn._model import Model, Variables


def split(
    net: PyTree, *, switches: Mapping[str, bool | None] | None = None
) -> tuple[Model, Variables]:
    """Adapt a net that is already built or trained.

    Args:
        net: A ``flax.nnx`` module; a bound ``flax.linen`` module, ``module.bind(variables)``; an
            Equinox module, or ``(module, state)``; or for Haiku ``(transformed, params)`` or
            ``(transformed, params, state)``. The net is not changed.
        switches: The values of boolean arguments in training, as in ``from_linen``.

    Returns:
        ``(model, variables)``: the pair, as returned by ``from_linen`` and the other adapters, and
        the variables of the net. ``model.init`` returns copies of these variables for every key, so
        training continues from them.

    Raises:
        TypeError: If the net belongs to no known framework, has no variables, or has a boolean
            argument that may be a switch and is not in ``switches``.
        ValueError: If the net does not have an argument in ``switches``.

    >>> import jax, jax.numpy as jnp
    >>> net = nnx.Linear(3, 2, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
    >>> model, (params, state) = split(net)
    >>> model.apply(params, state, jnp.ones((1, 3)))[0].tolist()
    [[3.0, 3.0]]
    """
    return _framework(net).split(net, switches)


def merge(net: PyTree, variables: tuple) -> PyTree:
    """Return a copy of a net with other variables, the inverse of ``split``.

    Args:
        net: A net, as for ``split``. It is not changed.
        variables: ``(params, state)`` of the same form, such as ``run.variables``.

    Returns:
        The net of its framework, with these variables.

    Raises:
        TypeError: If the net belongs to no known framework.
        ValueError: If the variables do not have the form of the net's; the message names the path.

    >>> import jax.numpy as jnp
    >>> net = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    >>> new = merge(net, ({"kernel": jnp.full((1, 1), 2.0), "bias": jnp.ones(1)}, {}))
    >>> new(jnp.ones((1, 1))).tolist()
    [[3.0]]
    """
    framework = _framework(net)
    params, state = variables
    like = framework.variables(net)
    _tree.check_like(params, like.params, "params", "those of the net")
    _tree.check_like(state, like.state, "state", "that of the net")
    return framework.merge(net, Variables(params, state))


def _framework(net: PyTree) -> ModuleType:
    head = net[0] if type(net) is tuple and net else net
    # compared by name, so that equinox and haiku need not be imported
    kinds = () if isinstance(head, type) else type(head).__mro__
    packages = {kind.__module__.partition(".")[0] for kind in kinds}
    if isinstance(head, linen.Module):
        return _linen
    if isinstance(head, nnx.Module):
        return _nnx
    if "equinox" in packages:
        return _equinox
    if "haiku" in packages:
        return _haiku
    kind = f"the class {net.__name__}" if isinstance(net, type) else f"a {type(net).__name__}"
    raise TypeError(
        f"net is {kind}; expected a flax.nnx module, a bound flax.linen module, an equinox module "
        "or (module, state), or (transformed, params, state) of haiku"
    )
