"""Tables come back as they were written, are parted once, and standardized in any unit."""

import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import data


def write(tmp_path, content, name="table.csv"):
    path = tmp_path / name
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("name", ["table.csv", "table.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_with_a_header_comes_back_to_the_last_digit(tmp_path, name, end):
    x = np.random.default_rng(0).normal(size=(7, 3)) * [1e-300, 1.0, 1e300]
    lines = ["alpha, beta ,gamma", *(",".join(map(repr, row.tolist())) for row in x)]
    mark = "\ufeff" if end == "\r\n" else ""  # as spreadsheets write it
    table = data.csv(write(tmp_path, mark + end.join(lines) + end, name))
    np.testing.assert_array_equal(table.x, x)
    assert table.x.dtype == float
    assert table.names == ("alpha", "beta", "gamma")


def test_columns_are_chosen_by_name_and_the_others_may_be_text(tmp_path):
    content = ',height,"name, first",weight\n0,1.5,"Ada, ""A""",50\n\n1, 2e0 ,,60\n'
    table = data.csv(write(tmp_path, content), "weight", "height")
    np.testing.assert_array_equal(table.x, [[50, 1.5], [60, 2]])
    assert table.names == ("weight", "height")


def test_a_file_without_a_header_numbers_its_columns(tmp_path):
    path = write(tmp_path, "1;2\n3;4")
    np.testing.assert_array_equal(data.csv(path, delimiter=";").x, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(data.csv(path, "1", delimiter=";").x, [[2], [4]])


IRIS = "5.1,3.5,Iris-setosa\n4.9,3.0,Iris-setosa\n"
AMBIGUOUS = {
    "text in the last column": (IRIS, ["5.1", "3.5", "Iris-setosa"], 2),
    "a missing value in the first line": ("NA,2\n3,4", ["NA", "2"], 2),
    "nothing but missing values": ("NA,?\n3,4\n5,6", ["NA", "?"], 3),
    "numbers as a program names columns": ("0,1\n0.0,1.0\n2.5,3.0", ["0", "1"], 3),
    "numbers as names of integer columns": ("0,1,2\n5,6,7", ["0", "1", "2"], 2),
    "years": ("2019,2020\n0.5,0.25\n0.75,1.5", ["2019", "2020"], 3),
    "a name and a year": ("id,2019\n1,5\n2,6", ["id", "2019"], 3),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_header_is_never_guessed(tmp_path, name):
    content, first, rows = AMBIGUOUS[name]
    path = write(tmp_path, content)
    with pytest.raises(data.DataError) as refused:
        data.csv(path)
    text = str(refused.value)
    assert "line 1 may be a header or data" in text
    assert f"header=True, the columns are {first} and there are {rows - 1} rows" in text
    assert f"header=False, there are {rows} rows" in text
    body = [line.split(",") for line in content.split()]
    numbers = [i for i, x in enumerate(body[1]) if "Iris" not in x]
    with_header = data.csv(path, *(first[i] for i in numbers), header=True)
    np.testing.assert_array_equal(
        with_header.x, np.asarray([[row[i] for i in numbers] for row in body[1:]], float)
    )
    if "NA" in first or "id" in first:
        with pytest.raises(data.DataError, match="line 1"):
            data.csv(path, header=False)
    else:
        without = data.csv(path, *(str(i) for i in numbers), header=False)
        np.testing.assert_array_equal(
            without.x, np.asarray([[row[i] for i in numbers] for row in body], float)
        )
        named = data.csv(path, *"abc"[: len(numbers)], header=list("abc")[: len(first)])
        np.testing.assert_array_equal(named.x, without.x)
        assert named.names == tuple("abc"[: len(numbers)])


CLEAR = {
    "names": ("a,b\n1,2", ("a", "b"), 1),
    "a name and none": (",b\n1,2", ("b",), 1),
    "decimal numbers": ("0.5,1.5\n2.5,3.5", ("0", "1"), 2),
    "integers": ("1,2\n3,4\n5,6", ("0", "1"), 3),
    "a column from 0": ("0\n1\n2", ("0",), 3),
    "the same number twice": ("1,1\n0.5,0.25", ("0", "1"), 2),
}


@pytest.mark.parametrize("name", CLEAR)
def test_a_first_line_that_can_be_read_in_one_way_needs_no_help(tmp_path, name):
    content, names, rows = CLEAR[name]
    table = data.csv(write(tmp_path, content), *(names if "" in content.split(",") else ()))
    assert (table.names, len(table.x)) == (names, rows)


def test_the_columns_that_are_asked_for_can_decide(tmp_path):
    path = write(tmp_path, IRIS)
    np.testing.assert_array_equal(data.csv(path, "0", "1").x, [[5.1, 3.5], [4.9, 3.0]])
    assert data.csv(write(tmp_path, "id,2019\n1,5\n2,6"), "id").x.tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("header", "kind", "words"),
    [
        (["a"], ValueError, r"header has 1 names, .* has 2 columns"),
        ("ab", TypeError, "expected True, False, or a list of names"),
    ],
)
def test_a_header_that_does_not_fit_is_rejected(tmp_path, header, kind, words):
    with pytest.raises(kind, match=words):
        data.csv(write(tmp_path, "1,2\n3,4"), header=header)


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**63 - 1, 10**20 + 1])
def test_integers_that_float64_rounds_are_rejected(tmp_path, number):
    path = write(tmp_path, f"id,x\n7,1\n{number},2")
    with pytest.raises(
        data.DataError, match=rf"line 3, column 'id' is '{number}', an integer that"
    ):
        data.csv(path)
    assert data.csv(path, "x").x.tolist() == [[1], [2]]
    exact = write(tmp_path, f"id,x\n{2**53},1\n{2**60},2e300", "exact.csv")
    assert data.csv(exact).x.tolist() == [[2.0**53, 1], [2.0**60, 2e300]]


def test_a_split_holds_every_example_once_and_keeps_pairs_together(key):
    arrays = {"x": np.arange(20.0).reshape(10, 2), "y": jnp.arange(10)}
    train, test = data.split(arrays, 0.3, key=key)
    assert (len(train["y"]), len(test["y"])) == (7, 3)
    for part in (train, test):
        np.testing.assert_array_equal(part["x"][:, 0], 2 * np.asarray(part["y"]))
    assert sorted(np.concatenate([train["y"], test["y"]]).tolist()) == list(range(10))
    again, _ = data.split(arrays, 0.3, key=key)
    np.testing.assert_array_equal(again["x"], train["x"])
    other, _ = data.split(arrays, 0.3, key=jax.random.key(1))
    assert (other["x"] != train["x"]).any()


def test_standardised_columns_have_mean_0_and_variance_1_wherever_they_lie():
    x = np.random.default_rng(0).normal(size=(500, 3)) * [1e-3, 1.0, 1e6] + [1e5, 0.0, -1e9]
    standard = data.standardize(x)
    z = standard(x)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e5 / 1e-3 * np.finfo(float).eps)
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-12)
    np.testing.assert_allclose(standard.inverse(z), x, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_its_log_det_is_that_of_the_jacobian_and_brings_densities_to_the_old_units():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 3)) * [0.1, 2.0, 30.0] + 5)
    standard = data.standardize(x)
    dense = jnp.linalg.slogdet(jax.jacfwd(standard)(x[0]))[1]
    np.testing.assert_allclose(standard.log_det, dense, rtol=1e-12)
    normal = lambda x, mean, scale: jax.scipy.stats.norm.logpdf(x, mean, scale).sum()
    found = normal(standard(x[0]), 0.0, 1.0) + standard.log_det
    np.testing.assert_allclose(found, normal(x[0], standard.mean, standard.scale), rtol=1e-12)


def test_standardisation_is_a_pytree_and_its_dtype_that_of_the_data():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 2)), jnp.float32)
    standard = data.standardize(x)
    apply = jax.jit(lambda standard, x: jax.vmap(standard)(x))
    z = apply(standard, x)
    assert z.dtype == jnp.float32
    np.testing.assert_allclose(z, standard(np.asarray(x)), rtol=1e-6)
