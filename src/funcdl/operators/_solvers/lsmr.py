"""Least squares by products with an operator and its transpose."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._typing import Array, PyTree
from funcdl.operators._core.linear_operator import LinearOperator
from funcdl.operators._core.results import Solution
from funcdl.operators._solvers import refinement as _refine
from funcdl.operators._solvers.common import check_system, preconditioner, wide_product


def lsmr(
    A: LinearOperator,
    b: PyTree,
    *,
    tol: float = 1e-5,
    max_steps: int = 1000,
    precondition: LinearOperator | None = None,
) -> Solution:
    r"""Minimize :math:`\|b - A x\|` for any operator; of many minimizers find the shortest.

    It stops where the true :math:`r = b - A x` has :math:`\|r\| \le` ``tol`` :math:`\|b\|` or
    :math:`\|A^\top r\| \le` ``tol`` :math:`\|A\| \|r\|`, with an estimate of the norm of A, or at
    ``max_steps``. ``residual`` is :math:`\|r\| / \|b\|`, large where b is not in the range.

    Derivatives of any order suppose full rank: they come from :math:`r + A x = b, A^\top r = 0`, or
    for a wide operator from :math:`x + A^\top y = 0, A x = b`. Where A has not full rank the
    solution jumps and there is none: NaN where the equations show it, that is unless A is tall and
    b in its range.

    Args:
        A: Any operator.
        b: A vector like ``A.shape_out``.
        tol: The relative residual, or that of the normal equations, that is enough.
        max_steps: Stop after this many steps, of two products each.
        precondition: A change of variables P, ``x = P y``: the method runs on ``A @ P``, and
            the shortest y is found. It has no derivative.

    Returns:
        The solution; x has at least float32.

    Raises:
        ValueError: If b is not like ``A.shape_out``, ``tol`` is negative or ``max_steps`` less
            than 1.
        TypeError: If A or ``precondition`` is no operator.

    Source: Fong and Saunders, "LSMR: an iterative algorithm for sparse least-squares problems"
    (2011).

    >>> from funcdl import linalg, operators
    >>> A = operators.from_dense(jnp.asarray([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]))
    >>> operators.lsmr(A, jnp.asarray([1.0, 3.0, 2.0])).x.round(4).tolist()
    [2.0, 1.0]
    """
    a, b, precondition, *limits = check_system(A, b, tol, max_steps, precondition, symmetric=False)
    return _lsmr(a, b, precondition, *limits)


@jax.jit
def _lsmr(a, b, precondition, tol, max_steps) -> Solution:
    limits = jax.lax.stop_gradient(tol), max_steps
    if precondition is not None:
        a = a @ jax.lax.stop_gradient(precondition)
    implicit = _wide if a.space_in.size > a.space_out.size else _tall
    found = implicit(a, b, limits)
    return found._replace(x=preconditioner(precondition)(found.x))


def _tall(a: LinearOperator, b: PyTree, limits) -> Solution:
    product, back = wide_product(a), wide_product(a.T)
    square = a.space_in.size == a.space_out.size

    def solve(_, fg):
        f, g = fg
        w = _minimum(back, product, g, limits)
        end = _minimum(product, back, _tree.subtract(f, w.x), limits)
        residual = _refine.relative(_tree.subtract(f, product(end.x)), f)
        found = Solution(end.x, residual, end.error <= limits[0], end.steps)
        ok = found.converged & (_refine.relative(w.r, g) <= limits[0])
        if square:  # what is left over shows that A is singular
            ok = ok & (_refine.relative(end.r, _tree.subtract(f, w.x)) <= limits[0])
        sound = jnp.where(ok, 1, jnp.nan)
        return _tree.scale(sound, (_tree.subtract(f, product(end.x)), end.x)), found

    def matvec(rx):
        r, x = rx
        return _tree.add(r, product(x)), back(r)

    right = b, _tree.zeros(jax.eval_shape(back, b))
    (_, x), found = _refine.solved(matvec, right, solve)
    return found._replace(x=_refine.revealed(x, found.x, found.converged))


def _wide(a: LinearOperator, b: PyTree, limits) -> Solution:
    product, back = wide_product(a), wide_product(a.T)

    def solve(_, fg):
        f, g = fg
        w = _minimum(product, back, g, limits)
        y = _minimum(back, product, _tree.subtract(f, w.x), limits)
        found = Solution(w.x, _refine.relative(w.r, g), w.error <= limits[0], w.steps)
        ok = (found.residual <= limits[0]) & (y.error <= limits[0])
        sound = jnp.where(ok, 1, jnp.nan)
        return _tree.scale(sound, (_tree.subtract(f, back(y.x)), y.x)), found

    def matvec(xy):
        x, y = xy
        return _tree.add(x, back(y)), product(x)

    right = _tree.zeros(jax.eval_shape(back, b)), b
    (x, _), found = _refine.solved(matvec, right, solve)
    return found._replace(x=_refine.revealed(x, found.x, found.converged))


def _minimum(product: Callable, back: Callable, b: PyTree, limits) -> _refine.State:
    """Minimize the residual, by passes of LSMR."""

    def error(_, r, size):
        normal, scale = _tree.norm(back(r)), size * _tree.norm(r)
        normal = jnp.where(normal == 0, 0, normal / jnp.where(scale == 0, normal / 2, scale))
        return jnp.minimum(_refine.relative(r, b), normal)

    def one_pass(r, factor, steps):
        return lsmr_pass(product, back, r, (factor, limits[0] / 2, steps))

    start = _tree.zeros(jax.eval_shape(back, b))
    return _refine.refined(one_pass, product, b, start, error, limits)


class _State(NamedTuple):
    """Golub and Kahan's bidiagonalization, and two QR factorizations of it by rotations."""

    x: PyTree
    u: PyTree
    v: PyTree
    alpha: Array
    h: PyTree
    h_bar: PyTree
    first: tuple  # alpha_bar, rho of the first factorization
    second: tuple  # cos_bar, sin_bar, rho_bar, zeta, zeta_bar of the second
    tail: "_Residual"
    squares: Array  # of the entries of the bidiagonal matrix: |A|² in the norm of Frobenius
    steps: Array


class _Residual(NamedTuple):
    """The recurrence for the length of the residual."""

    beta_dot: Array  # two dots in the paper
    beta: Array
    rho: Array
    tau: Array
    theta: Array
    length: Array


def lsmr_pass(product: Callable, back: Callable, r: PyTree, limits) -> _refine.Pass:
    """Run LSMR from zero, until the residual or that of the normal equations is small."""
    factor, tol, steps = limits
    beta, u = _unit(r)
    alpha, v = _unit(back(u))
    one, none = jnp.ones_like(beta), jnp.zeros_like(beta)
    enough = factor * beta

    def unfinished(s: _State):
        left, normal = s.tail.length, jnp.abs(s.second[4])
        small = (left <= enough) | (normal <= tol * jnp.sqrt(s.squares) * left)
        return ~small & (s.steps < steps)

    zero = _tree.scale(0, v)
    tail = _Residual(beta, none, one, none, none, beta)
    second = one, none, one, none, alpha * beta
    start = _State(zero, u, v, alpha, v, zero, (alpha, one), second, tail, alpha**2, jnp.int32(0))
    end = jax.lax.while_loop(unfinished, lambda s: _step(product, back, s), start)
    return _refine.Pass(end.x, end.steps, jnp.sqrt(end.squares))


def _step(product: Callable, back: Callable, s: _State) -> _State:
    beta, u = _unit(_tree.axpy(-s.alpha, s.u, product(s.v)))
    alpha, v = _unit(_tree.axpy(-beta, s.v, back(u)))
    alpha_bar, rho_before = s.first
    cos_bar, sin_bar, rho_bar_before, zeta_before, zeta_bar = s.second
    cos, sin, rho = _rotation(alpha_bar, beta)
    theta = sin * alpha
    theta_bar = sin_bar * rho
    cos_bar, sin_bar, rho_bar = _rotation(cos_bar * rho, theta)
    zeta, zeta_bar = cos_bar * zeta_bar, -sin_bar * zeta_bar
    h_bar = _tree.axpy(-_over(theta_bar * rho, rho_before * rho_bar_before), s.h_bar, s.h)
    x = _tree.axpy(_over(zeta, rho * rho_bar), h_bar, s.x)
    h = _tree.axpy(-_over(theta, rho), s.h, v)
    turned = cos, sin, theta_bar, rho_bar, zeta_before, zeta
    return _State(
        *(x, u, v, alpha, h, h_bar, (cos * alpha, rho)),
        second=(cos_bar, sin_bar, rho_bar, zeta, zeta_bar),
        tail=_tail(s.tail, turned),
        squares=s.squares + alpha**2 + beta**2,
        steps=s.steps + 1,
    )


def _tail(t: _Residual, turned: tuple) -> _Residual:
    cos, sin, theta_bar, rho_bar, zeta_before, zeta = turned
    beta_hat, beta_dot = cos * t.beta_dot, -sin * t.beta_dot
    cos_tilde, sin_tilde, rho_tilde = _rotation(t.rho, theta_bar)
    theta, rho = sin_tilde * rho_bar, cos_tilde * rho_bar
    beta = cos_tilde * beta_hat - sin_tilde * t.beta
    tau = _over(zeta_before - t.theta * t.tau, rho_tilde)
    last = _over(zeta - theta * tau, rho)
    return _Residual(beta_dot, beta, rho, tau, theta, jnp.hypot(beta - last, beta_dot))


def _unit(x: PyTree) -> tuple[Array, PyTree]:
    length = _tree.norm(x)
    return length, _tree.scale(_over(jnp.ones_like(length), length), x)


def _rotation(a: Array, b: Array) -> tuple[Array, Array, Array]:
    length = jnp.hypot(a, b)
    return _over(a, length), _over(b, length), length


def _over(a: Array, b: Array) -> Array:
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))
