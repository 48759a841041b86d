"""A check of second derivatives that names the operation that breaks them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._typing import PyTree
from funcdl.autodiff._bind import bind, scalar
from funcdl.autodiff._first_nonfinite import first_not_finite
from funcdl.autodiff._unit_vectors import unraveled


class SecondOrder(NamedTuple):
    """The result of ``check_second_order``.

    Attributes:
        finite: Whether the products are finite.
        operation: The first operation whose second derivative is not finite, ``sqrt at file:line
            (function)``; empty if all are finite.
        positions: The entries of x, such as ``a/0[2, 1]``, at which a product is not finite; at
            most ten.
        asymmetry: The difference of u'Hv and v'Hu, relative to the lengths.
        symmetric: Whether this is within rounding.
        difference: The relative difference of Hv and a central difference of gradients.
        smooth: Whether this is within the tolerance; it is not at a kink or a tie.
        tolerance: 10 times the cube root of the precision of x: 6e-5 in float64, 5e-2 in float32.
    """

    finite: bool
    operation: str
    positions: tuple[str, ...]
    asymmetry: float
    symmetric: bool
    difference: float
    smooth: bool
    tolerance: float

    def __str__(self) -> str:
        verdict = lambda good: "ok " if good else "BAD"
        at = f", in x at {', '.join(self.positions)}" if self.positions else ""
        cause = "" if self.finite else f": {self.operation or 'no single operation'}{at}"
        return (
            f"{verdict(self.finite)} finite{cause}\n"
            f"{verdict(self.symmetric)} symmetric to {self.asymmetry:.1e}\n"
            f"{verdict(self.smooth)} central difference within {self.difference:.1e} "
            f"(tolerance {self.tolerance:.0e})"
        )


def check_second_order(f: Callable) -> Callable:
    r"""Check the Hessian of f at a point by products with it; runs on the host.

    Along two fixed directions u and v it checks whether :math:`H u` and :math:`H v` are finite and,
    if not, finds the first operation whose second derivative is not finite (a root at 0, a norm of
    zeros, a guard by a single ``where``, ties of singular values); whether :math:`u^\top H v =
    v^\top H u`; and whether :math:`H v` equals the central difference of gradients. The last fails
    at a kink of ``relu`` or a tie of max-pooling, where derivatives are nevertheless finite.

    The differences have the precision of x: pass x in float64 (``jax.enable_x64``) to see more.

    Args:
        f: Scalar-valued ``f(x, *args)``; leaves of x that are not floats are carried along.

    Returns:
        A function ``check(x, *args)`` that returns a report to print. It raises the same errors as
        that of ``hvp``.

    >>> import jax.numpy as jnp
    >>> report = check_second_order(lambda x: jnp.sqrt((x**2).sum()))(jnp.zeros(2))
    >>> report.finite, report.operation[:7], report.positions
    (False, 'sqrt at', ('[0]', '[1]'))
    """

    def check(x: PyTree, *args) -> SecondOrder:
        bound = bind(f, x, args)
        leaves = bound.leaves
        u, v = (_direction(leaves, phase) for phase in (1.0, 2.5))
        hu, hv = (_product(bound.g, leaves, w) for w in (u, v))
        is_bad = [~jnp.isfinite(a) | ~jnp.isfinite(b) for a, b in zip(hu, hv)]
        finite = not any(b.any() for b in is_bad)
        operation = "" if finite else first_not_finite(bound.g, leaves, v)
        eps = _precision(leaves)
        asymmetry, difference = _errors(bound.g, leaves, (u, v), (hu, hv))
        tolerance = 10 * eps ** (1 / 3)
        return SecondOrder(
            finite=finite,
            operation=operation,
            positions=_positions(bound.fill(is_bad), bound.fill([True] * len(is_bad))),
            asymmetry=asymmetry,
            symmetric=asymmetry <= eps**0.5,
            difference=difference,
            smooth=difference <= tolerance,
            tolerance=tolerance,
        )

    return check


def _direction(leaves: list, phase: float) -> list:
    """Return a vector without two equal entries, in which ties could hide."""
    n = _tree.size(leaves)
    numbers = jnp.cos(phase + jnp.arange(n, dtype=jnp.float32))
    return [a.astype(b.dtype) for a, b in zip(unraveled(numbers, leaves), leaves)]


@jax.jit
def _product(g: Callable, leaves: list, v: list) -> list:
    return jax.jvp(jax.grad(scalar(g)), (leaves,), (v,))[1]


@jax.jit
def _gradient(g: Callable, leaves: list) -> list:
    return jax.grad(scalar(g))(leaves)


def _precision(leaves: list) -> float:
    return max(float(jnp.finfo(a.dtype).eps) for a in leaves)


def _errors(g: Callable, leaves: list, directions: tuple, products: tuple) -> tuple[float, float]:
    """Compare u'Hv with v'Hu, and Hv with a central difference of gradients."""
    (u, v), (hu, hv) = directions, products
    eps = _precision(leaves)
    size = max(1.0, *(float(jnp.abs(a).max(initial=0)) for a in leaves))
    h = eps ** (1 / 3) * size
    ahead, behind = (_gradient(g, _tree.axpy(s, v, leaves)) for s in (h, -h))
    quotient = _tree.scale(1 / (2 * h), _tree.subtract(ahead, behind))
    # where H is 0, both are rounding errors of a gradient
    least = _tree.norm(ahead) / size
    scale = [float(max(_tree.norm(a), _tree.norm(hv), least)) or 1.0 for a in (hu, quotient)]
    lengths = float(_tree.norm(u) * _tree.norm(v)) ** 0.5
    asymmetry = abs(float(_tree.dot(u, hv) - _tree.dot(v, hu))) / (lengths * scale[0])
    return asymmetry, float(_tree.norm(_tree.subtract(quotient, hv))) / scale[1]


def _positions(is_bad: PyTree, is_float: PyTree) -> tuple[str, ...]:
    entries = []
    for (path, leaf), real in zip(
        jax.tree_util.tree_leaves_with_path(is_bad), jax.tree.leaves(is_float)
    ):
        if real is True:
            for index in np.argwhere(np.asarray(leaf)):
                entry = f"[{', '.join(map(str, index))}]" if index.size else ""
                entries.append(_tree.path_text(path) + entry)
    return tuple(entries[:10])
