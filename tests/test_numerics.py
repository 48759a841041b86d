"""Products keep the precision of their dtype on devices that round them by default."""

import jax
import jax.numpy as jnp
import pytest

from funcdl import linalg

CALLS = {
    "svd": lambda a: linalg.svd(a).s,
    "eigh": lambda a: linalg.eigh(a).values,
    "subspace": lambda a: linalg.singular_subspace(a, 1).core,
    "eigenspace": lambda a: linalg.eigenspace(a, 1).core,
    "spectral_sum": lambda a: linalg.spectral_sum(jnp.cosh, a),
    "matrix_function": lambda a: linalg.matrix_function(jnp.cosh, a),
    "polar": linalg.polar,
    "sqrtm": linalg.sqrtm,
    "det": linalg.det,
    "pinv": linalg.pinv,
    "least_squares": lambda a: linalg.least_squares(a, a[:, 0]).x,
    "ridge": lambda a: linalg.ridge(a, a[:, 0], 1.0),
    "lasso": lambda a: linalg.lasso(a, a[:, 0], 1.0).x,
    "pca": lambda a: linalg.pca(a, 1).variance,
}


@pytest.mark.parametrize("name", CALLS)
def test_every_product_of_a_gradient_has_the_highest_precision(name):
    text = str(jax.make_jaxpr(jax.grad(lambda a: CALLS[name](a).sum()))(jnp.ones((3, 3))))
    products = text.split("dot_general[")[1:]
    assert len(products) >= 1
    assert all("HIGHEST" in product.split("]\n")[0] for product in products)


def test_the_setting_of_the_caller_stays():
    before = jax.config.jax_default_matmul_precision
    linalg.low_rank_approximation(jnp.eye(3), 1)
    assert jax.config.jax_default_matmul_precision == before
