"""Static sparsity: which inputs each number of a segment depends on, and the blocks that follow."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sparse
from scipy.sparse import csgraph

from funcdl.density._primitives.local_jacobian import Everything, LocalJacobian
from funcdl.density._program.program import Equation, Variable

# above this many products of single entries a dense product is faster
_DENSE = 1 << 22


def patterns(equations: Iterable[Equation], inputs: dict, reads_of: Callable, columns: int) -> dict:
    """Propagate sparsity through the equations of a segment.

    Args:
        equations: In order.
        inputs: The pattern of each input variable: sparse, Boolean, one column an input number. A
            variable among them keeps its pattern though an equation computes it.
        reads_of: ``equation -> reads`` of its results.
        columns: How many there are.

    Returns:
        The pattern of each float variable.
    """
    found = dict(inputs)
    for equation in equations:
        for variable, edges in zip(equation.results, reads_of(equation)):
            if variable.is_float and variable not in inputs:
                parts = [
                    _through(e, found[equation.operands[at]], variable.size)
                    for at, e in edges.items()
                    if equation.operands[at] in found
                ]
                found[variable] = _union(parts, (variable.size, columns))
    return found


def identity(variables: Iterable[Variable], columns: int, first: int = 0) -> dict:
    """Give each number of some variables a column of its own."""
    found = {}
    for variable in variables:
        line = np.arange(variable.size)
        ones = np.ones(variable.size, bool)
        found[variable] = sparse.csr_array((ones, (line, first + line)), (variable.size, columns))
        first += variable.size
    return found


def _union(parts: list, shape: tuple) -> sparse.csr_array:
    total = parts[0] if parts else sparse.csr_array(shape, dtype=bool)
    for part in parts[1:]:
        total = total if part is total else total + part
    return total


def _through(edges: LocalJacobian | Everything, pattern, size: int) -> sparse.csr_array:
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


def _product(a, b) -> sparse.csr_array:
    """Multiply Boolean matrices; equal rows of b, as a dense layer makes them, count as one."""
    count = np.diff(b.indptr)
    if (count == 1).all():
        return _renamed(a, b.indices, b.shape[1])
    weights = np.random.default_rng(0).integers(1, 1 << 62, b.shape[1])
    keys = sparse.csr_array((weights[b.indices], b.indices, b.indptr), b.shape).sum(1)
    _, first, kind = np.unique(keys, return_index=True, return_inverse=True)
    if 2 * len(first) < b.shape[0]:
        a, b = _renamed(a, kind.ravel(), len(first)), b[first]
    if a.nnz * (b.nnz / max(b.shape[0], 1)) > _DENSE and min(b.shape) > 64:
        return sparse.csr_array(a.toarray().astype(np.float32) @ b.toarray().astype(np.float32) > 0)
    return sparse.csr_array(a @ b)


def _renamed(a, names: np.ndarray, columns: int) -> sparse.csr_array:
    """Give the columns of a matrix other positions; several may have the same."""
    found = sparse.csr_array((a.data, names[a.indices], a.indptr), (a.shape[0], columns))
    found.sum_duplicates()
    return found


class Block(NamedTuple):
    """Rows and columns of one strongly connected component; its determinant is a factor.

    Attributes:
        rows: Of the Jacobian.
        cols: As many.
    """

    rows: np.ndarray
    cols: np.ndarray


def blocks(pattern) -> list[Block] | None:
    """Bring a square pattern to block triangular form (Dulmage and Mendelsohn, 1958).

    Args:
        pattern: Sparse, n times n.

    Returns:
        The diagonal blocks, in an order in which each depends on itself and those before it;
        None if no permutation has a full diagonal: every determinant of this pattern is 0.
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


def colors(pattern, wanted: list[Block]) -> np.ndarray:
    """Group columns so that one product with the sum of a group shows each wanted entry.

    Two columns may share a group unless a row that wants one of them has both (Curtis, Powell and
    Reid, 1974; only the wanted entries count).

    Args:
        pattern: Sparse, n times n.
        wanted: Blocks with disjoint columns.

    Returns:
        (n,) The group of each column; -1 where none is wanted.
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
