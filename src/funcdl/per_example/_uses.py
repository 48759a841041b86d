"""How parameters enter a loss, and so what per-example derivatives cost."""

from collections.abc import Callable
from typing import NamedTuple

from funcdl import _tree
from funcdl._typing import PyTree
from funcdl.per_example._blocks import alone


class Use(NamedTuple):
    """How one parameter enters a loss.

    Attributes:
        path: Of the parameter.
        rule: ``matmul``, ``convolution`` and ``rows`` have two factors; of ``broadcast`` and
            ``elementwise`` the gradient of every example is as large as the parameter;
            ``fallback`` too, and names an operation of which no factors are known.
        where: ``file:line``.
    """

    path: str
    rule: str
    where: str


def uses(loss: Callable) -> Callable:
    """List how parameters enter a loss, and so what per-example derivatives cost.

    Args:
        loss: As for ``grad``.

    Returns:
        ``uses(params, batch)``: a list of ``Use``, in the order of the computation; arrays may be
        ``jax.ShapeDtypeStruct``.

    >>> import jax.numpy as jnp
    >>> loss = lambda p, x: (jnp.tanh(x @ p["w"]) * p["scale"]).mean()
    >>> params = {"w": jnp.ones((2, 3)), "scale": jnp.ones(())}
    >>> [(use.path, use.rule) for use in uses(loss)(params, jnp.ones((4, 2)))]
    [('w', 'matmul'), ('scale', 'elementwise')]
    """

    def uses(params: PyTree, batch: PyTree) -> list[Use]:
        names = _tree.paths(params)
        found = alone(loss, params, batch).program.sites
        return [Use(names[site.leaf], site.rule, site.where) for site in found]

    return uses
