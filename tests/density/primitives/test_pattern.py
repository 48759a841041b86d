"""Block triangular forms and colors of static patterns."""

import numpy as np
import pytest
import scipy.sparse as sparse

from funcdl.density._primitives.pattern import Block, blocks, colors, identity
from funcdl.density._program.program import Variable


def pattern(rows):
    return sparse.csr_array(np.asarray(rows, bool))


@pytest.mark.parametrize("seed", range(5))
def test_blocks_of_a_permuted_block_triangular_matrix_are_found(seed):
    rng = np.random.default_rng(seed)
    sizes = [1, 3, 1, 2]
    group = np.repeat(range(len(sizes)), sizes)
    dense = group[:, None] >= group[None]
    rows, cols = rng.permutation(len(group)), rng.permutation(len(group))
    found = blocks(pattern(dense[rows][:, cols]))
    got = {(frozenset(rows[b.rows].tolist()), frozenset(cols[b.cols].tolist())) for b in found}
    members = [frozenset(np.flatnonzero(group == g).tolist()) for g in range(len(sizes))]
    assert got == {(m, m) for m in members}


def test_blocks_come_after_those_they_depend_on():
    found = blocks(pattern([[1, 1, 0], [0, 1, 0], [1, 0, 1]]))
    place = {int(b.rows[0]): at for at, b in enumerate(found)}
    assert place[1] < place[0] < place[2]


def test_a_pattern_without_a_full_diagonal_is_singular():
    assert blocks(pattern([[1, 0, 0], [1, 0, 0], [1, 1, 1]])) is None


@pytest.mark.parametrize("seed", range(5))
def test_one_product_per_color_shows_every_wanted_entry(seed):
    rng = np.random.default_rng(seed)
    n = 8
    dense = np.where(rng.random((n, n)) < 0.3, rng.normal(size=(n, n)), 0)
    np.fill_diagonal(dense, rng.normal(size=n))
    wanted = [Block(np.array([i]), np.array([i])) for i in range(n)]
    color = colors(pattern(dense != 0), wanted)
    for i in range(n):
        product = dense @ (color == color[i])
        assert product[i] == pytest.approx(dense[i, i])


def test_each_number_of_some_variables_has_a_column_of_its_own():
    a, b = Variable((2,), np.dtype("float32")), Variable((1, 2), np.dtype("float32"))
    start = identity([a, b], 5, first=1)
    np.testing.assert_array_equal(start[a].toarray(), np.eye(5)[1:3])
    np.testing.assert_array_equal(start[b].toarray(), np.eye(5)[3:5])
