"""Least squares by products with an operator and its transpose.

Fong and Saunders' LSMR is MINRES on the normal equations, so that the residual that least squares
needs to be small, Aᵀ r, falls monotonically; LSQR, which is CG on them, only lets r fall so and
can stop late. Two stopping rules are needed because r itself stays large where b is not in the
range. The passes are restarted from true residuals (``refinement``), and derivatives come from the
augmented system of the optimum, never from the iteration.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._numerics import power_of_two
from funcdl._typing import Array, ArrayLike, Matvec, PyTree
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import Solution
from funcdl.operators._solvers import refinement
from funcdl.operators._solvers.common import (
    Limits,
    System,
    check_system,
    preconditioner,
    wide_product,
)


def lsmr(
    A: LinearOperator,
    b: PyTree,
    *,
    tol: float = 1e-5,
    max_steps: int = 1000,
    precondition: LinearOperator | None = None,
) -> Solution:
    r"""Minimize :math:`\|b - A x\|` for any operator; of several minimizers, return the shortest.

    It stops where the true :math:`r = b - A x` has :math:`\|r\| \le` ``tol`` :math:`\|b\|` or
    :math:`\|A^\top r\| \le` ``tol`` :math:`\|A\| \|r\|`, with an estimate of the norm of A, or
    after ``max_steps``. ``residual`` is :math:`\|r\| / \|b\|`, large where b is not in the range.

    Derivatives of any order assume full rank: they come from :math:`r + A x = b, A^\top r = 0`, or
    for a wide operator from :math:`x + A^\top y = 0, A x = b`. Where A does not have full rank, the
    solution jumps and has no derivative: it is NaN where the equations show this, that is, unless
    A is tall and b in its range.

    Args:
        A: Any operator.
        b: A vector like ``A.shape_out``.
        tol: The relative residual, or that of the normal equations, at which to stop.
        max_steps: The largest number of steps, of two products each.
        precondition: A change of variables P, ``x = P y``: the method runs on ``A @ P`` and
            returns the shortest y. It has no derivative.

    Returns:
        The solution; x is in at least float32.

    Raises:
        ValueError: If b is not like ``A.shape_out``, ``tol`` is negative or ``max_steps`` less
            than 1.
        TypeError: If A or ``precondition`` is not a ``LinearOperator``.

    Source: Fong and Saunders, "LSMR: an iterative algorithm for sparse least-squares problems"
    (2011).

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.asarray([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]))
    >>> operators.lsmr(A, jnp.asarray([1.0, 3.0, 2.0])).x.round(4).tolist()
    [2.0, 1.0]
    """
    return _lsmr(check_system(A, b, tol, max_steps, precondition, symmetric=False))


@jax.jit
def _lsmr(system: System) -> Solution:
    a, limits = system.a, (jax.lax.stop_gradient(system.tol), system.max_steps)
    if system.precondition is not None:
        a = a @ jax.lax.stop_gradient(system.precondition)
    minimize = _wide if a.space_in.size > a.space_out.size else _tall
    solution = minimize(a, system.b, limits)
    return solution._replace(x=preconditioner(system.precondition)(solution.x))


def _tall(a: LinearOperator, b: PyTree, limits: Limits) -> Solution:
    # The equation of the optimum, [[I, A], [Aᵀ, 0]] (r, x) = (b, 0), is symmetric. Its derivatives
    # need it for any right-hand side (f, g): with Aᵀ w = g, x minimizes |f - w - A x|.
    product, back = wide_product(a), wide_product(a.T)
    square = a.space_in.size == a.space_out.size

    def solve(_, fg):
        f, g = fg
        w = _minimum(back, product, g, limits)
        end = _minimum(product, back, _tree.subtract(f, w.x), limits)
        residual = refinement.relative(_tree.subtract(f, product(end.x)), f)
        outcome = Solution(end.x, residual, end.error <= limits[0], end.steps)
        ok = outcome.converged & (refinement.relative(w.r, g) <= limits[0])
        if square:  # a residual that remains shows that A is singular
            ok = ok & (refinement.relative(end.r, _tree.subtract(f, w.x)) <= limits[0])
        sound = jnp.where(ok, 1, jnp.nan)
        return _tree.scale(sound, (_tree.subtract(f, product(end.x)), end.x)), outcome

    def matvec(rx):
        r, x = rx
        return _tree.add(r, product(x)), back(r)

    right = b, _tree.zeros(jax.eval_shape(back, b))
    (_, x), outcome = refinement.solved(matvec, right, solve)
    return outcome._replace(x=refinement.revealed(x, outcome.x, outcome.converged))


def _wide(a: LinearOperator, b: PyTree, limits: Limits) -> Solution:
    # As in _tall, for the shortest solution: [[I, Aᵀ], [A, 0]] (x, y) = (0, b).
    product, back = wide_product(a), wide_product(a.T)

    def solve(_, fg):
        f, g = fg
        w = _minimum(product, back, g, limits)
        y = _minimum(back, product, _tree.subtract(f, w.x), limits)
        outcome = Solution(w.x, refinement.relative(w.r, g), w.error <= limits[0], w.steps)
        ok = (outcome.residual <= limits[0]) & (y.error <= limits[0])
        sound = jnp.where(ok, 1, jnp.nan)
        return _tree.scale(sound, (_tree.subtract(f, back(y.x)), y.x)), outcome

    def matvec(xy):
        x, y = xy
        return _tree.add(x, back(y)), product(x)

    right = _tree.zeros(jax.eval_shape(back, b)), b
    (x, _), outcome = refinement.solved(matvec, right, solve)
    return outcome._replace(x=refinement.revealed(x, outcome.x, outcome.converged))


def _minimum(product: Matvec, back: Matvec, b: PyTree, limits: Limits) -> refinement.State:
    """Minimize the residual by passes of LSMR."""

    def error(_, r, b, size):
        normal, scale = _tree.norm(back(r)), size * _tree.norm(r)
        normal = jnp.where(normal == 0, 0, normal / jnp.where(scale == 0, normal / 2, scale))
        return jnp.minimum(refinement.relative(r, b), normal)

    def one_pass(r, factor, steps):
        return lsmr_pass(product, back, r, (factor, limits[0] / 2, steps))

    start = _tree.zeros(jax.eval_shape(back, b))
    return refinement.refined(one_pass, product, b, start, error, limits)


class _State(NamedTuple):
    """Golub-Kahan bidiagonalization, and two QR factorizations of its matrix by rotations."""

    x: PyTree
    u: PyTree
    v: PyTree
    alpha: Array
    h: PyTree
    h_bar: PyTree
    alpha_bar: Array  # of the first factorization
    rho: Array
    cos_bar: Array  # of the second factorization
    sin_bar: Array
    rho_bar: Array
    zeta: Array
    zeta_bar: Array  # |Aᵀ r|
    tail: "_Residual"
    size: Array  # the Frobenius norm of the bidiagonal matrix
    steps: Array


class _Rotations(NamedTuple):
    """The parts of one step's rotations that the recurrence for the residual reads."""

    cos: Array
    sin: Array
    theta_bar: Array
    rho_bar: Array
    zeta_before: Array
    zeta: Array


class _Residual(NamedTuple):
    """The recurrence for the length of the residual."""

    beta_dot: Array  # two dots in the paper
    beta: Array
    rho: Array
    tau: Array
    theta: Array
    length: Array


def lsmr_pass(
    product: Matvec, back: Matvec, r: PyTree, limits: tuple[Array, ArrayLike, Array]
) -> refinement.Pass:
    """Run LSMR from zero until the residual, or that of the normal equations, is small."""
    factor, tol, steps = limits
    beta, u = _unit(r)
    first = back(u)
    unit = power_of_two(_tree.norm(first)[None])
    product, back = (_in_unit(f, unit) for f in (product, back))  # x and A are in this unit
    alpha, v = _unit(_tree.scale(1 / unit, first))
    one, zero = jnp.ones_like(beta), jnp.zeros_like(beta)
    enough = factor * beta

    def unfinished(s: _State):
        residual, normal = s.tail.length, jnp.abs(s.zeta_bar)
        small = (residual <= enough) | (normal <= tol * s.size * residual)
        return ~small & (s.steps < steps)

    origin = _tree.scale(0, v)
    start = _State(
        x=origin,
        u=u,
        v=v,
        alpha=alpha,
        h=v,
        h_bar=origin,
        alpha_bar=alpha,
        rho=one,
        cos_bar=one,
        sin_bar=zero,
        rho_bar=one,
        zeta=zero,
        zeta_bar=alpha * beta,
        tail=_Residual(beta_dot=beta, beta=zero, rho=one, tau=zero, theta=zero, length=beta),
        size=alpha,
        steps=jnp.int32(0),
    )
    end = jax.lax.while_loop(unfinished, lambda s: _step(product, back, s), start)
    return refinement.Pass(_tree.scale(1 / unit, end.x), end.steps, unit * end.size)


def _in_unit(product: Matvec, unit: Array) -> Matvec:
    return lambda v: _tree.scale(1 / unit, product(v))


def _step(product: Matvec, back: Matvec, s: _State) -> _State:
    # The names are those of the paper.
    beta, u = _unit(_tree.axpy(-s.alpha, s.u, product(s.v)))
    alpha, v = _unit(_tree.axpy(-beta, s.v, back(u)))
    cos, sin, rho = _rotation(s.alpha_bar, beta)
    theta = sin * alpha
    theta_bar = s.sin_bar * rho
    cos_bar, sin_bar, rho_bar = _rotation(s.cos_bar * rho, theta)
    zeta, zeta_bar = cos_bar * s.zeta_bar, -sin_bar * s.zeta_bar
    # quotients first, since products of two entries leave the range of the dtype
    h_bar = _tree.axpy(-_over(theta_bar, s.rho) * _over(rho, s.rho_bar), s.h_bar, s.h)
    rotations = _Rotations(cos, sin, theta_bar, rho_bar, zeta_before=s.zeta, zeta=zeta)
    return _State(
        x=_tree.axpy(_over(_over(zeta, rho), rho_bar), h_bar, s.x),
        u=u,
        v=v,
        alpha=alpha,
        h=_tree.axpy(-_over(theta, rho), s.h, v),
        h_bar=h_bar,
        alpha_bar=cos * alpha,
        rho=rho,
        cos_bar=cos_bar,
        sin_bar=sin_bar,
        rho_bar=rho_bar,
        zeta=zeta,
        zeta_bar=zeta_bar,
        tail=_tail(s.tail, rotations),
        size=jnp.hypot(s.size, jnp.hypot(alpha, beta)),
        steps=s.steps + 1,
    )


def _tail(t: _Residual, s: _Rotations) -> _Residual:
    beta_hat, beta_dot = s.cos * t.beta_dot, -s.sin * t.beta_dot
    cos_tilde, sin_tilde, rho_tilde = _rotation(t.rho, s.theta_bar)
    theta, rho = sin_tilde * s.rho_bar, cos_tilde * s.rho_bar
    beta = cos_tilde * beta_hat - sin_tilde * t.beta
    tau = _over(s.zeta_before - t.theta * t.tau, rho_tilde)
    last = _over(s.zeta - theta * tau, rho)
    length = jnp.hypot(beta - last, beta_dot)
    return _Residual(beta_dot=beta_dot, beta=beta, rho=rho, tau=tau, theta=theta, length=length)


def _unit(x: PyTree) -> tuple[Array, PyTree]:
    length = _tree.norm(x)
    return length, _tree.scale(_over(jnp.ones_like(length), length), x)


def _rotation(a: Array, b: Array) -> tuple[Array, Array, Array]:
    length = jnp.hypot(a, b)
    return _over(a, length), _over(b, length), length


def _over(a: Array, b: Array) -> Array:
    """Divide, and return 0 where the divisor is 0: there the method has found the solution."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))
