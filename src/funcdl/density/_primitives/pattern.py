"""Static sparsity: which inputs each number of a segment depends on, and the resulting blocks."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sparse
from scipy.sparse import csgraph

from funcdl.density._primitives.local_jacobian import Everything, LocalJacobian
from funcdl.density._program.program import Equation, Variable

Pattern = Any  # a Boolean scipy.sparse.csr_array, whose attributes type checkers cannot infer

# Invariant: a pattern contains every entry that can be nonzero for some values of x and args; it
# may contain more. Too many entries cost time, a missing one would give a wrong determinant.
# Patterns depend on shapes and constants only, so everything here is NumPy and SciPy at trace time.
# A permutation of rows and one of columns bring the pattern to block triangular form: a perfect
# matching of rows and columns gives a full diagonal, and the strongly connected components of the
# matched graph are the diagonal blocks (Dulmage and Mendelsohn, 1958). The determinant is the
# product of the blocks' determinants. The textbook's coarse decomposition is not needed, because
# without a perfect matching the determinant is 0.
# Patterns are sparse because a dense Boolean matrix per value of a wide net would not fit.

# above this many products of single entries a dense product is faster
_DENSE = 1 << 22


def patterns(equations: Iterable[Equation], inputs: dict, reads_of: Callable, columns: int) -> dict:
    """Propagate sparsity through the equations of a segment.

    Args:
        equations: The equations in order.
        inputs: The pattern of each input variable: a sparse Boolean matrix with one column per
            number of the input. A variable among them keeps its pattern even if an equation
            computes it.
        reads_of: ``equation -> reads``, the local Jacobians of its results.
        columns: The number of columns.

    Returns:
        The pattern of each variable; that of an integer is empty if ``reads_of`` lists derivatives.
    """
    pattern_of = dict(inputs)
    for equation in equations:
        for variable, edges in zip(equation.results, reads_of(equation)):
            if variable not in inputs:
                parts = [
                    _through(e, pattern_of[equation.operands[at]], variable.size)
                    for at, e in edges.items()
                    if equation.operands[at] in pattern_of
                ]
                pattern_of[variable] = _union(parts, (variable.size, columns))
    return pattern_of


def identity(
    variables: Iterable[Variable], columns: int, first: int = 0
) -> dict[Variable, Pattern]:
    """Return the patterns in which each number of the variables has a column of its own."""
    pattern_of = {}
    for variable in variables:
        size = variable.size
        line = np.arange(size)
        entries = np.ones(size, bool), (line, first + line)
        pattern_of[variable] = sparse.csr_array(entries, (size, columns))
        first += size
    return pattern_of


def _union(parts: list, shape: tuple) -> Pattern:
    total = parts[0] if parts else sparse.csr_array(shape, dtype=bool)
    for part in parts[1:]:
        total = total if part is total else total + part
    return total


def _through(edges: LocalJacobian | Everything, pattern: Pattern, size: int) -> Pattern:
    """Return the pattern of a result from that of the operand that it reads."""
    if isinstance(edges, Everything):
        row = sparse.csr_array((pattern.sum(0) > 0)[None])
        return sparse.csr_array(sparse.kron(np.ones((size, 1), bool), row, format="csr"))
    if size == pattern.shape[0] and edges.is_identity(size):
        return pattern
    if len(edges.rows) == size and np.array_equal(edges.rows, np.arange(size)):
        return pattern[edges.cols]
    local = sparse.csr_array(
        (np.ones(len(edges.rows), bool), (edges.rows, edges.cols)), (size, pattern.shape[0])
    )
    return _product(local, pattern)


def _product(a: Pattern, b: Pattern) -> Pattern:
    """Multiply Boolean matrices."""
    count = np.diff(b.indptr)
    if (count == 1).all():
        return _renamed(a, b.indices, b.shape[1])
    # The values of a dense layer have equal rows in b. They are found by a random hash of each row
    # and multiplied once; two different rows collide with probability about 2^-62.
    weights = np.random.default_rng(0).integers(1, 1 << 62, b.shape[1])
    keys = sparse.csr_array((weights[b.indices], b.indices, b.indptr), b.shape).sum(1)
    _, first, kind = np.unique(keys, return_index=True, return_inverse=True)
    if 2 * len(first) < b.shape[0]:
        a, b = _renamed(a, kind.ravel(), len(first)), b[first]
    if a.nnz * (b.nnz / max(b.shape[0], 1)) > _DENSE and min(b.shape) > 64:
        return sparse.csr_array(a.toarray().astype(np.float32) @ b.toarray().astype(np.float32) > 0)
    return sparse.csr_array(a @ b)


def _renamed(a: Pattern, names: np.ndarray, columns: int) -> Pattern:
    """Move each column of a Boolean matrix to a new position; columns may coincide."""
    moved = sparse.csr_array((a.data, names[a.indices], a.indptr), (a.shape[0], columns))
    moved.sum_duplicates()
    return moved


class Block(NamedTuple):
    """A diagonal block of the block triangular form; the determinant is their product.

    Attributes:
        rows: The positions of the block's rows in the Jacobian.
        cols: The positions of the block's columns, as many as rows.
    """

    rows: np.ndarray
    cols: np.ndarray


def blocks(pattern: Pattern) -> list[Block] | None:
    """Bring a square pattern to block triangular form (Dulmage and Mendelsohn, 1958).

    Args:
        pattern: The sparse (n, n) pattern.

    Returns:
        The diagonal blocks, ordered so that each depends on itself and on those before it; None if
        no permutation gives a full diagonal, so that every determinant with this pattern is 0.
    """
    n = pattern.shape[0]
    if (pattern.diagonal() != 0).all():
        match = np.arange(n)
    else:
        match = csgraph.maximum_bipartite_matching(pattern, perm_type="column")
    if (match < 0).any():
        return None
    count, label = csgraph.connected_components(pattern[:, match], connection="strong")
    members = np.argsort(label, kind="stable")
    groups = np.split(members, np.cumsum(np.bincount(label, minlength=count))[:-1])
    return [Block(rows, match[rows]) for rows in groups]


def colors(pattern: Pattern, wanted: list[Block]) -> np.ndarray:
    """Group columns so that one product with the sum of a group reveals each wanted entry.

    Two columns may share a group unless a row that wants one of them contains both (Curtis, Powell
    and Reid, 1974, restricted to the wanted entries).

    Args:
        pattern: The sparse (n, n) pattern of the Jacobian.
        wanted: The blocks to compute; their columns are disjoint.

    Returns:
        The group of each column, of shape ``(n,)``; -1 for a column without wanted entries.
    """
    n = pattern.shape[1]
    rows = np.concatenate([np.repeat(b.rows, len(b.cols)) for b in wanted])
    cols = np.concatenate([np.tile(b.cols, len(b.rows)) for b in wanted])
    ones = np.ones(len(rows), bool)
    read = sparse.csr_array((ones, (cols, rows)), (n, pattern.shape[0]))
    disturbs = _product(read, sparse.csr_array(pattern, dtype=bool))
    disturbs = sparse.csr_array(disturbs + disturbs.T)
    color = np.full(n, -1)
    for c in np.unique(cols):
        taken = color[disturbs.indices[disturbs.indptr[c] : disturbs.indptr[c + 1]]]
        free = np.ones(len(taken) + 1, bool)
        free[taken[(taken >= 0) & (taken < len(free))]] = False
        color[c] = np.argmax(free)
    return color
