"""The uses of parameters in a loss, which determine the cost of per-example derivatives."""

from collections.abc import Callable
from typing import NamedTuple

from funcdl import _tree
from funcdl._check import in_two_steps
from funcdl._typing import LossFunction, PyTree
from funcdl.per_example._blocks import alone


class Use(NamedTuple):
    """One use of a parameter in a loss.

    Attributes:
        path: The path of the parameter.
        rule: ``matmul``, ``convolution`` and ``rows`` have two factors. For ``broadcast`` and
            ``elementwise``, the gradient of every example is as large as the parameter; the same
            holds for ``fallback``, which names an operation without known factors.
        where: The line of code, as ``file:line``.
    """

    path: str
    rule: str
    where: str


@in_two_steps
def uses(loss: LossFunction) -> Callable:
    """List the uses of parameters in a loss, which determine the cost of per-example derivatives.

    Args:
        loss: The loss, as in ``grad``.

    Returns:
        A function ``uses(params, batch)`` that returns a list of ``Use``, in the order of the
        computation; arrays may be ``jax.ShapeDtypeStruct``.

    >>> import jax.numpy as jnp
    >>> loss = lambda p, x: (jnp.tanh(x @ p["w"]) * p["scale"]).mean()
    >>> params = {"w": jnp.ones((2, 3)), "scale": jnp.ones(())}
    >>> [(use.path, use.rule) for use in uses(loss)(params, jnp.ones((4, 2)))]
    [('w', 'matmul'), ('scale', 'elementwise')]
    """

    def uses(params: PyTree, batch: PyTree) -> list[Use]:
        names = _tree.paths(params)
        sites = alone(loss, params, batch).program.sites
        return [Use(names[site.leaf], site.rule, site.where) for site in sites]

    return uses
