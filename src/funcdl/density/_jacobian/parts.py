"""The parts of a segment's log-determinant, and the values that they are computed from."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from funcdl import _tree
from funcdl._typing import Array
from funcdl.density._jacobian.entries import Paths, entries
from funcdl.density._primitives.pattern import Pattern
from funcdl.density._primitives.slope import Numbers, Slope, linear, log_magnitude
from funcdl.density._program.program import Segment, Variable


class Singles(NamedTuple):
    """Diagonal blocks of size 1, computed as single entries.

    Attributes:
        paths: The plan to compute the entries from the equations of the segment.
        rows: The rows of the entries in the Jacobian, increasing.
        cols: The columns of the entries in the Jacobian.
        exact: A function that returns the plan without cancellation, which also reads variables of
            earlier segments; the same plan if the equations lose no digits.
    """

    paths: Paths
    rows: np.ndarray
    cols: np.ndarray
    exact: Callable[[], Paths]


class Dense(NamedTuple):
    """Diagonal blocks computed by Jacobian-vector products, grouped by their size s.

    Attributes:
        seeds: The tangents, of shape ``(k, n)``; each row is a sum of columns of the identity.
        positions: For each size, the positions of the blocks' entries in the raveled products, of
            shape ``(b, s, s)``.
        blocks: For each size, the rows and the columns of the blocks, each of shape ``(b, s)``.
        constant: For each size the values of the blocks, of shape ``(b, s, s)``, if the segment is
            a linear map with constant coefficients; they are computed while tracing.
    """

    seeds: np.ndarray
    positions: list
    blocks: list
    constant: list | None = None


class Bottleneck(NamedTuple):
    """A Jacobian that is diagonal if a few intermediate numbers are held fixed.

    Attributes:
        variables: The variables that hold these numbers.
        diagonal: The plan to compute the diagonal entries while these numbers are fixed.
        match: The column of the entry of each row; the diagonal may be permuted.
        never_zero: Whether bounds prove that no diagonal entry is 0.
    """

    variables: list
    diagonal: Paths
    match: np.ndarray
    never_zero: bool


class Plan(NamedTuple):
    """The plan to compute the log-determinant of one segment.

    Attributes:
        segment: The segment.
        parts: The parts, each of which contributes a term.
        blocks: The diagonal blocks; None if the Jacobian is singular by its pattern alone.
        n: The number of rows of the Jacobian.
        separate: Whether the Jacobian has no nonzero entries outside the parts.
        jacobian: The pattern of the Jacobian, of shape ``(n, n)``.
    """

    segment: Segment
    parts: list
    blocks: list | None
    n: int
    separate: bool = False
    jacobian: Pattern = None


def replay(segment: Segment, values: dict, given: dict, changed: Callable = lambda y: y) -> dict:
    """Evaluate the equations of a segment again at other values.

    Args:
        segment: The segment.
        values: The values of the variables from outside the segment.
        given: The values of the segment's inputs, and of the variables that are held fixed.
        changed: A function that is applied to every float result, to perturb it.

    Returns:
        The value of each variable as its equation computes it. A later equation that reads a
        variable of ``given`` sees the given value.
    """
    known, computed = dict(given), {}
    for equation in segment.equations:
        operands = [
            (known[o] if o in known else values[o]) if isinstance(o, Variable) else o
            for o in equation.operands
        ]
        for variable, y in zip(equation.results, equation.evaluate(*operands)):
            y = changed(y) if variable.is_float else y
            computed[variable] = y
            known.setdefault(variable, y)
    return known | {s: computed[s] for s in given if s in computed}


def split(x: Array, variables: list) -> dict:
    """Cut a vector into the values of variables."""
    bounds = np.cumsum([s.size for s in variables])[:-1]
    parts = jnp.split(x, bounds)
    return {s: p.reshape(s.shape).astype(s.dtype) for s, p in zip(variables, parts)}


def joined(values: dict, variables: list) -> Array:
    """Join the values of variables into a vector."""
    parts = [jnp.ravel(values[s]) for s in variables]
    return jnp.concatenate([p.astype(jnp.result_type(*parts)) for p in parts])


def columns(plan: Plan, part: Dense, values: dict) -> list:
    """Compute the blocks of a part, as one array of shape (b, s, s) for each size."""
    if part.constant is not None:
        return part.constant
    segment = plan.segment
    x = joined(values, segment.inputs)

    def outputs(x):
        return joined(replay(segment, values, split(x, segment.inputs)), segment.outputs)

    seeds = jnp.asarray(part.seeds, x.dtype)
    products = jax.vmap(lambda v: jax.jvp(outputs, (x,), (v,))[1])(seeds).ravel()
    products = products.astype(_tree.wide(products.dtype))
    return [products[at] for at in part.positions]


class Update(NamedTuple):
    r"""The parts of a Jacobian :math:`D + U (I - H)^{-1} V` with a bottleneck of r numbers.

    The r smallest entries of D are the pivots, by which nothing is divided: if more than r entries
    are 0, the Jacobian is singular, and otherwise all others are regular.

    Attributes:
        pivots: The rows of the pivots; none if bounds prove that no entry of D is 0.
        values: The entries of D at the pivots.
        log: The logarithms of the magnitudes of D's entries, by row, of shape ``(n,)``; 0 at the
            pivots.
        sign: The signs of D's entries, of shape ``(n,)``; 0 at the pivots.
        u: The derivative of the outputs by the bottleneck, of shape ``(n, r)``.
        v: The derivative of the bottleneck by the inputs, of shape ``(r, n)``, with its columns in
            the order of the rows that D matches them to.
        inner: H, the derivative of the bottleneck by itself, strictly triangular, of shape
            ``(r, r)``.
    """

    pivots: Array
    values: Array
    log: Array
    sign: Array
    u: Array
    v: Array
    inner: Array

    def inverse(self) -> Array:
        """Return the reciprocals of D's entries, 0 at the pivots."""
        return jnp.where(
            self.sign == 0, 0, self.sign * jnp.exp(-jnp.where(self.sign == 0, 0, self.log))
        )

    def core(self) -> tuple[Array, Array]:
        r"""Return the Schur complement of D without its pivots p, and a bound of its rounding.

        .. math::
            \begin{pmatrix} D_p & U_p \\ -V_p & I - H + V D^{-1} U \end{pmatrix}

        The bound of each entry is the sum of the magnitudes of its terms.
        """
        eye = jnp.eye(len(self.inner), dtype=self.inner.dtype)
        scaled = self.v * self.inverse()[None]
        bound = eye + jnp.abs(self.inner) + jnp.abs(scaled) @ jnp.abs(self.u)
        corner = eye - self.inner + scaled @ self.u
        if not self.pivots.size:
            return corner, bound
        diagonal, u, v = jnp.diag(self.values), self.u[self.pivots], self.v[:, self.pivots]
        bordered = jnp.block([[diagonal, u], [-v, corner]])
        return bordered, jnp.abs(bordered).at[-len(eye) :, -len(eye) :].set(bound)


def update_of(plan: Plan, part: Bottleneck, values: dict, origin: dict) -> Update:
    """Differentiate a segment by its inputs and by the numbers h of its bottleneck.

    Args:
        plan: The plan of the segment.
        part: The bottleneck.
        values: The value of each variable.
        origin: The equation that computes each variable.

    Returns:
        The parts of the Jacobian.
    """
    segment = plan.segment
    x, h = joined(values, segment.inputs), joined(values, part.variables)

    def computed(x, h):
        return replay(segment, values, split(x, segment.inputs) | split(h, part.variables))

    def outputs_and_bottleneck(h):
        at_h = computed(x, h)
        return jnp.concatenate([joined(at_h, segment.outputs), joined(at_h, part.variables)])

    eye = jnp.eye(len(h), dtype=h.dtype)
    by_h = jax.vmap(lambda v: jax.jvp(outputs_and_bottleneck, (h,), (v,))[1])(eye)
    _, pull = jax.vjp(lambda x: joined(computed(x, h), part.variables), x)
    v = jax.vmap(lambda row: pull(row)[0])(eye)
    dtype = _tree.wide(x.dtype)
    by_h, v = by_h.astype(dtype), v.astype(dtype)
    slopes = [(s, len(at)) for (_, at), s in zip(
        part.diagonal.outputs, entries(part.diagonal, values, origin))]  # fmt: skip
    pivots = jnp.zeros(0, int)
    if not part.never_zero:
        small = jnp.concatenate([_spread(log_magnitude(s), n, dtype) for s, n in slopes])
        pivots = jax.lax.top_k(-jax.lax.stop_gradient(small), len(h))[1]
    is_pivot = jnp.zeros(plan.n, bool).at[pivots].set(True, unique_indices=True)
    diagonal = jnp.concatenate([_spread(_value(s), n, dtype) for s, n in slopes])
    log, sign = _magnitudes([(_without(s, mask), n) for (s, n), mask in zip(
        slopes, jnp.split(is_pivot, np.cumsum([n for _, n in slopes])[:-1]))], dtype)  # fmt: skip
    return Update(
        pivots=pivots,
        values=diagonal[pivots],
        log=log,
        sign=jnp.where(is_pivot, 0, sign),
        u=by_h[:, : plan.n].T,
        v=v[:, part.match],
        inner=by_h[:, plan.n :].T,
    )


def magnitudes(plan: Paths, values: dict, origin: dict, dtype: DTypeLike) -> tuple[Array, Array]:
    """Return the logarithms of the magnitudes and the signs of entries, in the order of rows."""
    slopes = entries(plan, values, origin)
    return _magnitudes([(s, len(at)) for (_, at), s in zip(plan.outputs, slopes)], dtype)


def _magnitudes(slopes: list, dtype: DTypeLike) -> tuple[Array, Array]:
    logs = [_spread(log_magnitude(slope), n, dtype) for slope, n in slopes]
    signs = [_spread(jnp.sign(jnp.asarray(linear(slope)[0])), n, dtype) for slope, n in slopes]
    return jnp.concatenate(logs), jnp.concatenate(signs)


def _spread(x: Numbers, n: int, dtype: DTypeLike) -> Array:
    return jnp.broadcast_to(jnp.asarray(x, dtype), (n,))


def _value(slope: Slope) -> Numbers:
    value, log = linear(slope)
    return value if log is None else value * jnp.exp(log)


def _without(slope: Slope, mask: Array) -> Slope:
    """Replace a slope by 1 where a mask holds, factor by factor, so that its gradient is 0."""
    factors = tuple((jnp.where(mask, jnp.ones_like(f), f), k) for f, k in slope.factors)
    return Slope(factors, None if slope.log is None else jnp.where(mask, 0, slope.log))
