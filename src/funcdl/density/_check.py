"""A check of the log-determinant and the inverse of a function at one point."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from funcdl._typing import Function, PyTree
from funcdl.density._inverse import inverse
from funcdl.density._inversion.injectivity import NotInjectiveError
from funcdl.density._log_det import log_abs_det_jacobian


class Check(NamedTuple):
    """The comparison at one point.

    Attributes:
        log_det: The result of ``log_abs_det_jacobian`` in the dtype of x.
        reference: The log-determinant of the dense Jacobian in float64. If that is singular, the
            result of ``log_abs_det_jacobian`` in float64, which takes derivatives in log space.
        claimed: The value that was passed as ``claim``, or None.
        condition: The condition number of the dense Jacobian in the 2-norm.
        round_trip: The largest error of ``inverse(f)(f(x))``, relative to the largest number of x;
            None if the inverse is refused, or if f raises at a point where the inverse is searched
            for.
        refusal: The message of that error, or None.
        log_det_agrees: Whether log_det and reference differ by no more than rounding allows.
        claim_agrees: Whether claimed and reference do; None without a claim.
    """

    log_det: float
    reference: float
    claimed: float | None
    condition: float
    round_trip: float | None
    refusal: str | None
    log_det_agrees: bool
    claim_agrees: bool | None


def check(f: Function, x: PyTree, *args: PyTree, claim: float | None = None) -> Check:
    """Compare the log-determinant and the inverse at a point with a dense float64 reference.

    It audits the log-determinant that another library, or a ``rule``, states for a function.

    Args:
        f: The function ``f(x, *args)`` of one point.
        x: The point; its leaves are floats.
        args: The other arguments of f, which are held fixed.
        claim: A log-determinant that another source states for this point.

    Returns:
        The comparison.

    Raises:
        ValueError: If x and f(x) differ in the number of floats.

    Source:
        Rounding of a log-determinant: n eps times the condition number (Higham, 2002).

    >>> import jax.numpy as jnp
    >>> found = check(jnp.tanh, jnp.array([0.3, -1.0]), claim=0.5)
    >>> found.log_det_agrees, found.claim_agrees
    (True, False)
    """
    log_det = float(log_abs_det_jacobian(f)(x, *args))
    jacobian, wide = _in_float64(f, x, args)
    dense = float(np.linalg.slogdet(jacobian)[1])
    reference = dense if np.isfinite(dense) else wide
    condition = float(np.linalg.cond(jacobian)) if jacobian.size else 1.0
    flat, _ = ravel_pytree(x)
    eps = float(jnp.finfo(flat.dtype).eps)
    n = len(flat)
    allowed = 16 * n * eps * (1 + abs(reference)) + n * eps * min(condition, 1 / eps)
    round_trip, refusal = None, None
    try:
        again, _ = ravel_pytree(inverse(f, x)(f(x, *args), *args))
        size = float(jnp.abs(flat).max(initial=0)) or 1.0
        round_trip = float(jnp.abs(again - flat).max(initial=0)) / size
    except (NotInjectiveError, jax.errors.JaxRuntimeError) as error:
        refusal = str(error)  # a runtime error comes from f, if it checks its argument on the host

    def agrees(value: float) -> bool:
        if np.isfinite(reference) and np.isfinite(value):
            return abs(value - reference) <= allowed
        is_singular = np.isfinite(dense) and condition > 1 / (16 * n**0.5 * eps)
        return value == -np.inf and (is_singular or reference == -np.inf)

    return Check(
        log_det=log_det,
        reference=reference,
        claimed=None if claim is None else float(claim),
        condition=condition,
        round_trip=round_trip,
        refusal=refusal,
        log_det_agrees=agrees(log_det),
        claim_agrees=None if claim is None else agrees(float(claim)),
    )


def _in_float64(f: Function, x: PyTree, args: tuple) -> tuple[np.ndarray, float]:
    """Return the dense Jacobian and the log-determinant by structure, in float64."""

    def widened(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):  # a key
            return leaf
        leaf = np.asarray(leaf)
        return leaf.astype("float64") if leaf.dtype.kind == "f" else leaf

    x, args = jax.tree.map(lambda leaf: widened(jnp.asarray(leaf)), (x, args))
    with jax.enable_x64(True):
        x, args = jax.tree.map(jnp.asarray, (x, args))
        flat, unravel = ravel_pytree(x)

        def raveled(z):
            return ravel_pytree(f(unravel(z), *args))[0]

        jacobian = np.asarray(jax.jit(jax.jacfwd(raveled))(flat))
        return jacobian, float(log_abs_det_jacobian(f)(x, *args))
