"""Results that carry their own error, with the same field names everywhere."""

from typing import Any, NamedTuple

import numpy as np

from funcdl._typing import Array, PyTree


class EigenPairs(NamedTuple):
    r"""Some eigenpairs of a symmetric operator.

    Attributes:
        values: ``(k,)``, in the order that was asked for.
        vectors: Orthonormal vectors, with a leading axis k on every leaf.
        residuals: ``(k,)``, the true :math:`\|A v - \lambda v\|`; A has an eigenvalue within this
            distance of ``values``.
        converged: ``(k,)``, whether each residual met the tolerance.
        matvecs: The number of products with A.
    """

    values: Array
    vectors: PyTree
    residuals: Array
    converged: Array
    matvecs: Array


class Estimate(NamedTuple):
    """A number that was estimated from a sample.

    Attributes:
        value: The estimate.
        stderr: The standard error of the estimate.
        matvecs: The number of products with an operator; 0 if they used none.
    """

    value: Array
    stderr: Array
    matvecs: Array | int = 0


class Solution(NamedTuple):
    r"""The solution of ``A x = b``, or the nearest to one that was found.

    Attributes:
        x: The solution, in at least float32.
        residual: The true :math:`\|b - A x\| / \|b\|`, measured at the end; 0 where b is 0.
        converged: Whether the residual met the tolerance.
        steps: The number of steps; 0 where A was solved directly.
    """

    x: PyTree
    residual: Array
    converged: Array
    steps: Array


class SpectralDensity(NamedTuple):
    """A distribution of eigenvalues: one Gauss quadrature per random probe.

    Attributes:
        nodes: ``(probes, steps)``, Ritz values.
        weights: ``(probes, steps)``, each row sums to 1.
        stderr: The standard error over the probes of the mean eigenvalue.
        matvecs: The number of products with the operator.
    """

    nodes: Array
    weights: Array
    stderr: Array
    matvecs: Array | int


class NotConvergedError(ArithmeticError):
    """An iteration stopped before it met its tolerance."""


def require_converged(result: Any) -> Any:
    """Return a result if it converged and raise otherwise; runs on the host, not traceable.

    Args:
        result: Any result with a field ``converged``.

    Returns:
        The same result.

    Raises:
        NotConvergedError: If any part did not converge; the message states the worst residual.
    """
    if not hasattr(result, "converged"):
        raise TypeError(
            f"result is a {type(result).__name__}; expected a result with a field converged, such "
            "as that of operators.eigsh or operators.cg"
        )
    converged = np.asarray(result.converged)
    if converged.all():
        return result
    residuals = np.asarray(getattr(result, "residuals", getattr(result, "residual", np.nan)))
    raise NotConvergedError(
        f"{int((~converged).sum())} of {converged.size} did not converge; the worst residual is "
        f"{np.max(residuals):.3g}; allow more products (max_matvecs, max_steps) or a larger tol"
    )
