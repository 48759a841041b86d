"""Names that people type first, and shapes that almost fit, end in the remedy."""

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from funcdl import curvature, operators, per_example

A = operators.from_diagonal(jnp.ones(3))
P, B = jnp.ones((3, 2)), jnp.ones((4, 3))


def model(params, batch):
    return batch @ params


def loss(params, batch):
    return ((batch @ params) ** 2).mean()


def of_outputs(z, batch):
    del batch
    return (z**2).mean()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("shape", r"A\.shape_in"),
        ("to_dense", r"A\.dense\(\)"),
        ("toarray", r"A\.dense\(\)"),
        ("trace", r"operators\.trace\(A, key=key\)"),
        ("eigh", r"operators\.eigsh\(A, k, key=key\)"),
        ("inverse", r"A\.inv\(\)"),
        ("matvec", "A @ v"),
    ],
)
def test_other_names_are_answered_with_ours(name, remedy):
    with pytest.raises(AttributeError, match=f"{name}.*{remedy}"):
        getattr(A, name)
    assert not hasattr(A, name)


def test_remedies_exist():
    """What the messages name can be called."""
    A.dense(), A.inv(), A.shape_in, A.space_out.size, A.logdet(), A.T
    for name in ("trace", "diagonal", "cond", "eigsh", "solve", "logdet"):
        assert callable(getattr(operators, name))


CALLS = {
    "solve of a matrix": (lambda: A.solve(P), ValueError, r"jax\.vmap\(A\.solve, 1, 1\)"),
    "product with a matrix": (lambda: A @ P, ValueError, r"A\.mm\(V\)"),
    "trace of a rectangle": (
        lambda: operators.trace(operators.from_dense(P), key=jax.random.key(0)),
        ValueError,
        r"not square: it maps vectors of shape \(2,\) to vectors of shape \(3,\)",
    ),
    "a schedule as damping": (
        lambda: A.shift(lambda step: 0.1),
        TypeError,
        r"damping is <function.*expected a real scalar, such as damping\(step\)",
    ),
    "uses at once": (
        lambda: per_example.uses(loss, P, B),
        TypeError,
        r"uses got 3.*uses\(loss\)\(params, batch\)",
    ),
    "grad at once": (
        lambda: per_example.grad(loss, P, B),
        TypeError,
        r"grad\(loss\)\(params, batch\)",
    ),
    "factors at once": (
        lambda: per_example.ggn_factors(model, of_outputs, P, B),
        TypeError,
        r"ggn_factors\(f, loss\)\(params, batch\)",
    ),
    "a loss without its data": (
        lambda: curvature.hessian(loss, P),
        TypeError,
        r"missing a required argument: 'batch'.*hessian\(loss, params, data\)",
    ),
    "a Python number": (
        lambda: curvature.hessian(loss, {"w": P, "s": 2.0}, B),
        TypeError,
        r"path 's' is 2\.0.*jnp\.asarray",
    ),
    "a function among the parameters": (
        lambda: curvature.ggn(model, of_outputs, {"w": P, "f": jnp.tanh}, B),
        TypeError,
        r"path 'f'.*nn\.from_equinox",
    ),
    "complex parameters": (
        lambda: curvature.hessian(loss, P.astype(complex), B),
        TypeError,
        "complex64.*real and the imaginary part as two leaves",
    ),
    "a leaf without entries": (
        lambda: curvature.kfac(
            lambda p, b: b @ p["w"], of_outputs, {"w": P, "none": jnp.zeros((0, 2))}, B
        ),
        ValueError,
        r"path 'none' has shape \(0, 2\)",
    ),
}


@pytest.fixture
def unchecked_types():
    """Types are not checked where the library is used: its own messages come."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("unchecked_types")
def test_almost_right_calls_name_the_remedy(name):
    call, error, message = CALLS[name]
    with pytest.raises(error, match=message):
        call()
