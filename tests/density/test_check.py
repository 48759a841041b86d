"""What ``check`` says of a point, and ``inspect`` of a function."""

import jax
import jax.numpy as jnp
import pytest

from funcdl import density

AUTOREGRESSIVE = jnp.tril(jnp.ones((4, 4)), -1)


@pytest.mark.parametrize("claim", [5.0, -jnp.inf, jnp.nan])
def test_a_wrong_claim_is_refuted_where_the_dense_jacobian_underflows(claim):
    x = jnp.array([100.0, -30.0, 0.5])
    found = density.check(jnp.tanh, x, claim=claim)
    assert found.log_det_agrees
    assert not found.claim_agrees
    slopes = 2 * (jnp.log(2.0) - x - jax.nn.softplus(-2 * x))
    assert density.check(jnp.tanh, x, claim=float(slopes.sum())).claim_agrees


def test_inspection_shows_dense_blocks():
    found = density.inspect(lambda x: x + 0.3 * jnp.tanh(x[::-1]), jnp.ones(4))
    (row,) = found.rows
    assert row.dense == 2
    assert "LU" in row.method


def by_softmax(x):
    logits = jnp.outer(AUTOREGRESSIVE @ x, jnp.arange(1.0, 4.0))
    return x * (1 + jax.nn.softmax(logits, axis=1)[:, 0]) + 0.1 * jnp.tanh(x)


def by_rounding(x):
    return x * (1.5 + 0.5 * jnp.tanh(jnp.floor(AUTOREGRESSIVE @ x)))


@pytest.mark.parametrize("f", [by_softmax, by_rounding])
def test_what_folds_in_an_autoregressive_conditioner_refutes_nothing(f):
    found = density.check(f, jnp.arange(4.0) / 3)
    assert found.refusal is None
    assert found.log_det_agrees
    assert found.round_trip < 1e-5


def test_a_branch_that_is_not_taken_does_not_scale_the_other():
    """Each branch's slope is an exponential; that of the first overflows where it is not taken."""
    f = lambda x: jnp.where(x < -9, jnp.exp(x), jax.nn.sigmoid(x))
    x = jnp.array([100.0, -100.0, 3.0])
    expected = -(jax.nn.softplus(x) + jax.nn.softplus(-x))
    log_det = jax.jit(density.log_abs_det_jacobian(f))
    assert jnp.isclose(log_det(x), expected.sum(), rtol=1e-6)
    slopes = jax.nn.sigmoid(-x) - jax.nn.sigmoid(x)
    assert jnp.allclose(jax.jit(jax.grad(log_det))(x), slopes, atol=1e-6)


def test_what_a_segment_reads_may_come_from_an_operation_before_it():
    """A spline's heights are quotients, computed before x is met."""
    widths = jax.nn.softmax(jnp.arange(12.0).reshape(4, 3))

    def f(x):
        scale = widths * jnp.exp(jnp.ones((4, 1)))
        return x * scale[:, 1] / (1 + jnp.abs(x) * scale[:, 0])

    found = density.check(f, jnp.array([0.3, -1.0, 2.0, -0.2]))
    assert found.log_det_agrees
    assert found.round_trip < 1e-5


def test_what_a_function_raises_on_the_way_to_its_inverse_is_told():
    """A function that calls the host to refuse negative numbers, as peers' do."""

    def refuse(x):
        raise ValueError("negative")

    def refused(x):
        return jax.pure_callback(refuse, x, x, vmap_method="sequential")

    @jax.custom_jvp
    def positive(x):
        return jax.lax.cond((x < 0).any(), refused, lambda x: x, x)

    positive.defjvp(lambda primals, tangents: (positive(*primals), *tangents))
    x = jnp.array([0.3, 1.0, 2.0])
    found = density.check(lambda x: positive(x) ** 3, x)
    assert found.log_det_agrees
    assert found.round_trip is None
    assert "ValueError: negative" in found.refusal


def test_a_branch_that_is_not_taken_may_have_no_derivative():
    """The inverse of a tanh with linear tails: where it is a line, arctanh is NaN."""
    f = lambda x: jnp.where(jnp.abs(x) < 0.9, jnp.arctanh(x), 4 * x)
    x = jnp.array([0.5, -3.0, 1.0])
    expected = -jnp.log(0.75) + 2 * jnp.log(4.0)
    assert jnp.isclose(jax.jit(density.log_abs_det_jacobian(f))(x), expected, rtol=1e-6)
    flat = lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0)
    assert density.log_abs_det_jacobian(flat)(x) == -jnp.inf
