"""Derivatives of a solution from the equation that it satisfies, not from its computation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import bicgstab
from jax.tree_util import Partial

from funcdl import _tree
from funcdl._closure import as_partial, hoisted
from funcdl._numerics import custom_jvp, power_of_two
from funcdl._typing import Array, Function, PyTree, ScalarFunction
from funcdl.autodiff._bind import bind, scalar
from funcdl.autodiff._unit_vectors import images

_SMALL = 64  # so many products cost less than an iteration may, and elimination is reliable


def implicit_root(solve: Function, residual: Function) -> Callable:
    r"""Differentiate a root, :math:`F(x, \theta) = 0`, through its equation.

    .. math::
        dx = -(\partial_x F)^{-1}\, \partial_\theta F\, d\theta

    The solver is called once and not differentiated: it may loop, stop by tolerance, start
    anywhere. Each derivative is one linear solve, in forward and in reverse mode, to any order: by
    products (BiCGStab), or with the dense matrix for at most 64 unknowns. Values that ``residual``
    closes over are differentiated too. The derivative is NaN rather than wrong if x solves the
    equation to less than half the digits (of the contributions of x and the arguments to it), or if
    the linear system is solved to less, for instance because it is singular.

    Args:
        solve: ``solve(*args) -> x``, any pytree of floats.
        residual: The function F, ``residual(x, *args)``, a tree like x; smooth near the root.

    Returns:
        A function ``solution(*args)`` that returns x. It raises ``ValueError`` if F is not like x,
        and ``TypeError`` if x, or all of ``args``, are not floats.

    Source: Blondel et al., "Efficient and modular implicit differentiation" (2022).

    >>> import jax
    >>> import jax.numpy as jnp
    >>> root = implicit_root(jnp.sqrt, lambda x, a: x**2 - a)
    >>> jax.grad(root)(4.0).item(), jax.grad(jax.grad(root))(4.0).item()
    (0.25, -0.0312)
    """
    return partial(_solution, solve, residual)


def implicit_fixed_point(solve: Function, step: Function) -> Callable:
    r"""Differentiate a fixed point, :math:`x = T(x, \theta)`, through its equation.

    .. math::
        dx = (I - \partial_x T)^{-1}\, \partial_\theta T\, d\theta

    Otherwise it behaves like ``implicit_root``.

    Args:
        solve: ``solve(*args) -> x``, any pytree of floats.
        step: The map T, ``step(x, *args)``, a tree like x; it need not be a contraction.

    Returns:
        A function ``solution(*args)`` that returns x and raises errors like that of
        ``implicit_root``.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> half = lambda x, a: (x + a / x) / 2
    >>> iterate = lambda a: jax.lax.while_loop(
    ...     lambda x: abs(half(x, a) - x) > 1e-6, lambda x: half(x, a), a)
    >>> jax.grad(implicit_fixed_point(iterate, half))(4.0).round(4).item()
    0.25
    """
    return partial(_solution, solve, Partial(_change, as_partial(step)))


def implicit_argmin(solve: Function, objective: ScalarFunction) -> Callable:
    r"""Differentiate a minimizer, :math:`\nabla_x f(x, \theta) = 0`, through its equation.

    .. math::
        dx = -(\nabla_x^2 f)^{-1}\, \partial_\theta \nabla_x f\, d\theta

    Otherwise it behaves like ``implicit_root``; maximizers and saddle points work as well.

    Args:
        solve: ``solve(*args) -> x``, any pytree of floats.
        objective: The function f, ``objective(x, *args)``, a scalar; twice differentiable near x.

    Returns:
        A function ``solution(*args)`` that returns x. It raises ``ValueError`` if f is not scalar,
        and ``TypeError`` if x, or all of ``args``, are not floats.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> f = lambda x, a, b: ((x - a) ** 2).sum() + b * (x**2).sum()
    >>> ridge = implicit_argmin(lambda a, b: a / (1 + b), f)
    >>> jax.jacobian(ridge, argnums=1)(jnp.asarray([4.0, 8.0]), 1.0).tolist()
    [-1.0, -2.0]
    """
    return partial(_solution, solve, Partial(_slope, as_partial(objective)))


def _change(step: Callable, x: PyTree, *args: Any) -> PyTree:
    following = step(x, *args)
    _tree.check_like(following, x, "the result of step", "x")
    return _tree.subtract(x, following)


def _slope(objective: Callable, x: PyTree, *args: Any) -> PyTree:
    return jax.grad(scalar(lambda x: objective(x, *args)))(x)


def _solution(solve: Callable, residual: Callable, *args: Any) -> PyTree:
    bound = bind(_same, args, (), "args")
    x = solve(*bound.g(jax.lax.stop_gradient(bound.leaves)))
    _tree.check_floating(x, "the solution x")
    x = jax.tree.map(lambda a: jax.lax.stop_gradient(jnp.asarray(a)), x)
    equation = hoisted(Partial(_residual, as_partial(residual), bound.g), (x, bound.leaves))
    value = jax.eval_shape(equation, x, bound.leaves)
    _tree.check_like(value, x, "the result of residual", "x")
    return _attached(equation, x, bound.leaves)


def _same(args: tuple) -> tuple:
    return args


def _residual(residual: Callable, fill: Callable, x: PyTree, leaves: list) -> PyTree:
    return residual(x, *fill(leaves))


@custom_jvp
def _attached(equation: Callable, x: PyTree, theta: list) -> PyTree:
    """Return x, with the derivatives of the root of ``equation(x, theta)``."""
    del equation, theta
    return x


# The equation is linearized at x with live values, so that the rule can be differentiated again.
# The derivative is only valid at a root: the residual is compared with the contributions of x and
# theta to it, which makes the test independent of units, and a product with NaN (not a `where`,
# which would be 0 in reverse mode) marks the failure.
@_attached.defjvp
def _attached_jvp(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    equation, x, theta = primals
    x = _attached(equation, x, theta)  # the function again, so that x has derivatives itself
    value, slope = jax.linearize(lambda x: equation(x, theta), x)
    change = jax.jvp(lambda e, t: e(x, t), (equation, theta), (tangents[0], tangents[2]))[1]
    share = jax.jvp(lambda t: equation(x, t), (theta,), (theta,))[1]
    size = _tree.norm(slope(x)) + _tree.norm(share)
    is_sound = _tree.norm(value) <= 10 * jnp.finfo(size.dtype).eps ** 0.5 * size
    tangent = _solved(slope, change, x)
    return x, _tree.scale(jnp.where(is_sound, -1, jnp.nan), tangent)


def _solved(matvec: Callable, b: PyTree, x: PyTree) -> PyTree:
    """Solve for a tree like x, as one flat vector in at least float32."""
    flatten, unflatten = _tree.ravel(x)
    dtype = flatten(x).dtype

    def product(v: Array) -> Array:
        return _tree.widened(flatten(matvec(unflatten(v.astype(dtype)))))

    right = _tree.widened(flatten(b))
    flat = jax.lax.custom_linear_solve(product, right, _solve, transpose_solve=_solve)
    return unflatten(flat.astype(dtype))


def _solve(product: Callable, b: Array) -> Array:
    """Solve a small system densely, a large one by products; return NaN if it is not solved."""
    eps = float(jnp.finfo(b.dtype).eps)
    unit = power_of_two(b)
    b = b / unit  # in units of b and of the matrix, squares stay in range
    if b.size <= _SMALL:
        x = jnp.linalg.solve(images(product, b, None).T, b)
    else:
        size = power_of_two(product(b))
        x, _ = bicgstab(lambda v: product(v) / size, b, tol=10 * eps, maxiter=2000)
        x = x / size
    residual = _tree.norm(product(x) - b)
    return jnp.where(residual <= eps**0.5 * _tree.norm(b), 1, jnp.nan) * x * unit
