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
