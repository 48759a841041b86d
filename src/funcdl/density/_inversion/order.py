"""In which order the inputs of a segment can be found from its outputs."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csgraph

from funcdl.density._jacobian.parts import Plan


class Order(NamedTuple):
    """How the numbers of a segment depend on each other.

    Attributes:
        rows: The row that is matched to each column.
        block: The block of each column.
        level: The number of blocks on the longest path that leads to the block of a column.
        component: A number that columns share if a chain of dependences connects them.
        is_single: Whether a column is a block by itself.
    """

    rows: np.ndarray
    block: np.ndarray
    level: np.ndarray
    component: np.ndarray
    is_single: np.ndarray


def order(plan: Plan) -> Order:
    """Read from the pattern of the Jacobian how the numbers depend on each other."""
    rows, block = np.zeros(plan.n, int), np.zeros(plan.n, int)
    blocks = plan.blocks or []
    for at, (r, c) in enumerate(blocks):
        rows[c], block[c] = r, at
    is_single = np.bincount(block, minlength=len(blocks))[block] == 1
    if plan.separate:
        return Order(rows, block, np.zeros(plan.n, int), block, is_single)
    _, component = csgraph.connected_components(plan.jacobian[rows], connection="weak")
    return Order(rows, block, _levels(plan, block)[block], component, is_single)


def _levels(plan: Plan, block: np.ndarray) -> np.ndarray:
    """Return the length of the longest path that leads to each block."""
    blocks = plan.blocks or []
    pattern = plan.jacobian.tocsr()
    read = [np.unique(block[pattern[rows].indices]) for rows, _ in blocks]
    read = [of[of != at] for at, of in enumerate(read)]
    level, waiting = np.full(len(blocks), -1), list(range(len(blocks)))
    while waiting:  # once if the blocks are in the order of their dependence
        for at in waiting:
            if (level[read[at]] >= 0).all():
                level[at] = 1 + level[read[at]].max(initial=-1)
        waiting = [at for at in waiting if level[at] < 0][::-1]
    return level
