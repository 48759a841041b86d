"""A peer's forward function becomes a density: its log-determinant and inverse are not asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import density

pytestmark = pytest.mark.oracle
SIZE = 4
X = jnp.array([0.3, -1.2, 0.8, 2.0])


def normal(x):
    return jax.scipy.stats.norm.logpdf(x).sum()


def agree(forward, claim, log_q):
    """The log-determinant, the round trip, and the density of the image, against the peer's."""
    found = density.check(forward, X, claim=float(claim))
    assert found.log_det_agrees
    assert found.claim_agrees
    assert found.round_trip < 1e-5
    y = jax.jit(forward)(X)
    ours = jax.jit(density.pushforward(normal, forward))(y)
    np.testing.assert_allclose(ours, log_q(y), rtol=1e-4)


def test_a_coupling_flow_of_flowjax(key):
    flowjax = pytest.importorskip("flowjax")
    from flowjax import bijections, distributions

    assert flowjax.__version__
    spline = bijections.RationalQuadraticSpline(knots=5, interval=3)
    sizes = {"dim": SIZE, "untransformed_dim": 2, "nn_width": 8, "nn_depth": 1}
    layer = bijections.Coupling(key, transformer=spline, **sizes)
    flow = distributions.Transformed(distributions.StandardNormal((SIZE,)), layer)
    agree(lambda x: layer.transform(x), layer.transform_and_log_det(X)[1], flow.log_prob)


def test_a_planar_layer_of_flowjax_which_has_no_inverse_of_its_own(key):
    bijections = pytest.importorskip("flowjax.bijections")
    layer = bijections.Planar(key, dim=SIZE)
    y, claim = layer.transform_and_log_det(X)
    with pytest.raises(NotImplementedError):
        layer.inverse(y)
    log_q = lambda y: normal(X) - claim
    agree(lambda x: layer.transform(x), claim, log_q)


def test_a_bijector_of_distrax():
    distrax = pytest.importorskip("distrax")
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(SIZE, SIZE)), jnp.float32)
    chain = distrax.Chain(
        [
            distrax.Block(distrax.Tanh(), 1),
            distrax.LowerUpperTriangularAffine(0.1 * matrix + 0.5 * jnp.eye(SIZE), jnp.ones(SIZE)),
        ]
    )
    base = distrax.MultivariateNormalDiag(jnp.zeros(SIZE), jnp.ones(SIZE))
    log_q = distrax.Transformed(base, chain).log_prob
    agree(chain.forward, chain.forward_log_det_jacobian(X), log_q)


def test_a_transform_of_numpyro():
    transforms = pytest.importorskip("numpyro.distributions.transforms")
    factor = jnp.eye(SIZE) + 0.2 * jnp.tril(jnp.ones((SIZE, SIZE)), -1)
    parts = [
        transforms.LowerCholeskyAffine(jnp.zeros(SIZE), factor),
        transforms.SoftplusTransform(),
    ]

    def forward(x):
        for part in parts:
            x = part(x)
        return x

    first, second = parts[0](X), forward(X)
    claim = parts[0].log_abs_det_jacobian(X, first)
    claim += parts[1].log_abs_det_jacobian(first, second).sum()
    agree(forward, claim, lambda y: normal(X) - claim)


def test_a_module_of_flax(key):
    """A residual block that is a contraction; flax claims nothing, so the dense Jacobian does."""
    from flax import linen

    class Block(linen.Module):
        @linen.compact
        def __call__(self, x):
            small = linen.initializers.variance_scaling(0.05, "fan_in", "normal")
            hidden = jnp.tanh(linen.Dense(8, kernel_init=small)(x))
            return x + linen.Dense(SIZE, kernel_init=small)(hidden)

    block = Block()
    variables = block.init(key, X)
    forward = lambda x: block.apply(variables, x)
    claim = jnp.linalg.slogdet(jax.jacfwd(forward)(X))[1]
    agree(forward, claim, lambda y: normal(X) - claim)
