"""Whether the log-determinant and the inverse of a function hold at a point."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._typing import PyTree
from funcdl.density._inverse import inverse
from funcdl.density._inversion.injectivity import NotInjectiveError
from funcdl.density._log_det import log_abs_det_jacobian


class Check(NamedTuple):
    """What was found at one point.

    Attributes:
        log_det: Of ``log_abs_det_jacobian``, in the dtype of x.
        reference: Of the dense Jacobian, in float64; where that is singular, of
            ``log_abs_det_jacobian`` in float64, which has log-space derivatives.
        claimed: What was claimed; None if nothing was.
        condition: Of the dense Jacobian, in the 2-norm.
        round_trip: The largest error of ``inverse(f)(f(x))``, relative to 1 + abs(x); None if the
            function is refused, or raises where the search for its inverse goes.
        refusal: Why it is, or what it raises, else None.
        log_det_agrees: Whether log_det and reference differ by no more than rounding allows.
        claim_agrees: The same of the claim; None if there was none.
    """

    log_det: float
    reference: float
    claimed: float | None
    condition: float
    round_trip: float | None
    refusal: str | None
    log_det_agrees: bool
    claim_agrees: bool | None


def check(f: Callable, x: PyTree, *args, claim: float | None = None) -> Check:
    """Compare the log-determinant and the inverse at a point with dense float64 ones.

    It audits what a peer, or a ``rule``, says of its own log-determinant.

    Args:
        f: ``f(x, *args)``, of one point.
        x: The point; its leaves are floats.
        args: Held fixed.
        claim: A log-determinant that somebody claims for this point.

    Returns:
        The figures.

    Raises:
        ValueError: If f(x) has not as many floats as x.

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
    flat, _ = jax.flatten_util.ravel_pytree(x)
    eps = float(jnp.finfo(flat.dtype).eps)
    n = len(flat)
    allowed = 16 * n * eps * (1 + abs(reference)) + n * eps * min(condition, 1 / eps)
    round_trip, refusal = None, None
    try:
        again, _ = jax.flatten_util.ravel_pytree(inverse(f, x)(f(x, *args), *args))
        round_trip = float((jnp.abs(again - flat) / (1 + jnp.abs(flat))).max(initial=0))
    except (
        NotInjectiveError,
        jax.errors.JaxRuntimeError,
    ) as error:  # a check of the function's own
        refusal = str(error)

    def agrees(value: float) -> bool:
        if np.isfinite(reference) and np.isfinite(value):
            return abs(value - reference) <= allowed
        rounded = np.isfinite(dense) and condition > 1 / (16 * n**0.5 * eps)
        return value == -np.inf and (rounded or reference == -np.inf)

    claimed = None if claim is None else float(claim)
    claim_agrees = None if claim is None else agrees(claimed)
    return Check(
        log_det, reference, claimed, condition, round_trip, refusal, agrees(log_det), claim_agrees
    )


def _in_float64(f: Callable, x: PyTree, args: tuple) -> tuple[np.ndarray, float]:
    """The Jacobian and its log-determinant by structure, in float64."""

    def widened(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):  # a key
            return leaf
        leaf = np.asarray(leaf)
        return leaf.astype("float64") if leaf.dtype.kind == "f" else leaf

    x, args = jax.tree.map(lambda leaf: widened(jnp.asarray(leaf)), (x, args))
    with jax.enable_x64(True):
        x, args = jax.tree.map(jnp.asarray, (x, args))
        flat, back = jax.flatten_util.ravel_pytree(x)

        def raveled(z):
            return jax.flatten_util.ravel_pytree(f(back(z), *args))[0]

        jacobian = np.asarray(jax.jit(jax.jacfwd(raveled))(flat))
        return jacobian, float(log_abs_det_jacobian(f)(x, *args))
