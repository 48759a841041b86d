"""Estimates that carry their own error, with the same field names everywhere."""

from typing import NamedTuple

import numpy as np

from funcdl._typing import Array, PyTree


class EigenPairs(NamedTuple):
    r"""Some eigenpairs of a symmetric operator.

    Attributes:
        values: ``(k,)``, in the order asked for.
        vectors: Orthonormal, a leading axis k on every leaf.
        residuals: ``(k,)``, the true :math:`\|A v - \lambda v\|`; an eigenvalue of A lies that
            close to ``values``.
        converged: ``(k,)``, whether each residual met the tolerance.
        matvecs: How many products with A it took.
    """

    values: Array
    vectors: PyTree
    residuals: Array
    converged: Array
    matvecs: Array


class Estimate(NamedTuple):
    """A number that was measured on a sample.

    Attributes:
        value: The estimate.
        stderr: Its standard error.
        matvecs: How many products with an operator it took; 0 where there is none.
    """

    value: Array
    stderr: Array
    matvecs: Array | int = 0


class Solution(NamedTuple):
    r"""What solves ``A x = b``, or comes nearest.

    Attributes:
        x: The solution, of at least float32.
        residual: The true :math:`\|b - A x\| / \|b\|`, measured at the end; 0 where b is 0.
        converged: Whether it met the tolerance.
        steps: How many steps it took; 0 where A was solved directly.
    """

    x: PyTree
    residual: Array
    converged: Array
    steps: Array


class SpectralDensity(NamedTuple):
    """A distribution of eigenvalues: one Gauss quadrature for each random probe.

    Attributes:
        nodes: ``(probes, steps)``, Ritz values.
        weights: ``(probes, steps)``, each row sums to 1.
        stderr: Standard error over the probes of the mean eigenvalue.
        matvecs: How many products with the operator it took.
    """

    nodes: Array
    weights: Array
    stderr: Array
    matvecs: Array | int


class NotConvergedError(ArithmeticError):
    """An iteration stopped before it met its tolerance."""


def require_converged(result):
    """Return a result whose ``converged`` is all true; a call of the host, not traceable.

    Args:
        result: Anything with a field ``converged``.

    Returns:
        The same result.

    Raises:
        NotConvergedError: If it did not converge; the worst residual is named.
    """
    converged = np.asarray(result.converged)
    if converged.all():
        return result
    residuals = np.asarray(getattr(result, "residuals", getattr(result, "residual", np.nan)))
    raise NotConvergedError(
        f"{int((~converged).sum())} of {converged.size} did not converge, worst residual "
        f"{np.max(residuals):.3g}; allow more products (max_matvecs, max_steps) or a larger tol"
    )
