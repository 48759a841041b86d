"""The parts that a segment's log-determinant is made of, and their values."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._typing import Array
from funcdl.density._jacobian.entries import Paths, entries
from funcdl.density._primitives.slope import linear, log_magnitude
from funcdl.density._program.program import Segment, Variable


class Singles(NamedTuple):
    """Blocks of one number, by entries.

    Attributes:
        paths: How to compute them.
        rows: Of the entries, increasing.
        cols: Theirs.
    """

    paths: Paths
    rows: np.ndarray
    cols: np.ndarray


class Dense(NamedTuple):
    """Blocks by forward products.

    Attributes:
        seeds: (k, n) Each row a sum of columns of the identity.
        positions: For each size of block: (b, s, s) positions in the raveled products.
        blocks: For each size: rows and columns, (b, s) each.
        constant: For each size the blocks themselves, (b, s, s), where the segment is a linear map
            of constants: they and their determinants are computed while tracing.
    """

    seeds: np.ndarray
    positions: list
    blocks: list
    constant: list | None = None


class Bottleneck(NamedTuple):
    """A Jacobian that is diagonal but for what passes through few numbers.

    Attributes:
        variables: That hold these numbers.
        diagonal: How to compute the diagonal's entries, these numbers held.
        match: The column of each row's entry.
    """

    variables: list
    diagonal: Paths
    match: np.ndarray


class Plan(NamedTuple):
    """How to compute the log-determinant of one segment.

    Attributes:
        segment: The segment.
        parts: Each contributes a term.
        blocks: The diagonal blocks; None if the pattern alone makes it singular.
        n: How many numbers.
        separate: Whether nothing but the parts is in the Jacobian.
    """

    segment: Segment
    parts: list
    blocks: list | None
    n: int
    separate: bool = False


def replay(segment: Segment, values: dict, given: dict) -> dict:
    """Evaluate the equations of a segment again.

    Args:
        segment: The segment.
        values: Of the variables from outside.
        given: Values of its inputs, and of variables that keep what is given.

    Returns:
        The values of its variables, as computed; ``given`` is what later equations read.
    """
    known, computed = dict(given), {}
    for equation in segment.equations:
        operands = [
            (known[o] if o in known else values[o]) if isinstance(o, Variable) else o
            for o in equation.operands
        ]
        for variable, y in zip(equation.results, equation.evaluate(*operands)):
            computed[variable] = y
            known.setdefault(variable, y)
    return known | {s: computed[s] for s in given if s in computed}


def split(x: Array, variables: list) -> dict:
    """Cut a vector into the values of variables."""
    bounds = np.cumsum([s.size for s in variables])[:-1]
    parts = jnp.split(x, bounds)
    return {s: p.reshape(s.shape).astype(s.dtype) for s, p in zip(variables, parts)}


def joined(values: dict, variables: list) -> Array:
    """Join the values of variables to a vector."""
    parts = [jnp.ravel(values[s]) for s in variables]
    return jnp.concatenate([p.astype(jnp.result_type(*parts)) for p in parts])


def columns(plan: Plan, part: Dense, values: dict) -> list:
    """The blocks of a part, (b, s, s) for each size."""
    if part.constant is not None:
        return part.constant
    segment = plan.segment
    x = joined(values, segment.inputs)

    def outputs(x):
        return joined(replay(segment, values, split(x, segment.inputs)), segment.outputs)

    seeds = jnp.asarray(part.seeds, x.dtype)
    columns = jax.vmap(lambda v: jax.jvp(outputs, (x,), (v,))[1])(seeds).ravel()
    columns = columns.astype(_tree.wide(columns.dtype))
    return [columns[at] for at in part.positions]


class Update(NamedTuple):
    r"""The parts of :math:`D + U (I - H)^{-1} V`.

    Attributes:
        log: (n,) Of the magnitudes of D's entries, by row.
        sign: (n,) Their signs.
        u: (n, r)
        v: (r, n) Its columns in the order of the rows that D matches them to.
        inner: (r, r) H, strictly triangular.
    """

    log: Array
    sign: Array
    u: Array
    v: Array
    inner: Array

    def core(self) -> tuple[Array, Array]:
        """Return I - H + V D^-1 U, and the sum of the magnitudes of its terms."""
        eye = jnp.eye(len(self.inner), dtype=self.inner.dtype)
        scaled = self.v * (self.sign * jnp.exp(-self.log))[None]
        bound = eye + jnp.abs(self.inner) + jnp.abs(scaled) @ jnp.abs(self.u)
        return eye - self.inner + scaled @ self.u, bound


def update_of(plan: Plan, part: Bottleneck, values: dict, origin: dict) -> Update:
    """Differentiate by x with what passes held, and by what passes."""
    segment = plan.segment
    x, h = joined(values, segment.inputs), joined(values, part.variables)

    def outputs(x, h):
        found = replay(segment, values, split(x, segment.inputs) | split(h, part.variables))
        return jnp.concatenate([joined(found, segment.outputs), joined(found, part.variables)])

    def passing(x):
        found = replay(segment, values, split(x, segment.inputs) | split(h, part.variables))
        return joined(found, part.variables)

    eye = jnp.eye(len(h), dtype=h.dtype)
    by_h = jax.vmap(lambda v: jax.jvp(lambda h: outputs(x, h), (h,), (v,))[1])(eye)
    _, pull = jax.vjp(passing, x)
    v = jax.vmap(lambda row: pull(row)[0])(eye)
    dtype = _tree.wide(x.dtype)
    log, sign = magnitudes(part.diagonal, values, origin, dtype)
    by_h, v = by_h.astype(dtype), v.astype(dtype)
    return Update(log, sign, by_h[:, : plan.n].T, v[:, part.match], by_h[:, plan.n :].T)


def magnitudes(plan: Paths, values: dict, origin: dict, dtype) -> tuple[Array, Array]:
    """The logarithms and the signs of entries, in the order of their rows."""
    logs, signs = [], []
    for (_, at), slope in zip(plan.outputs, entries(plan, values, origin)):
        logs.append(jnp.broadcast_to(jnp.asarray(log_magnitude(slope), dtype), (len(at),)))
        signs.append(jnp.broadcast_to(jnp.sign(jnp.asarray(linear(slope)[0], dtype)), (len(at),)))
    return jnp.concatenate(logs), jnp.concatenate(signs)
