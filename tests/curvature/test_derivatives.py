"""Numbers read from curvature, differentiated, against central differences in float64.

Each is a function of the parameters and of a number that model and loss close over; one program
evaluates value and gradient at all five points.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import curvature, operators, per_example

KEY, STEP = jax.random.key(0), 1e-4
POINT, ALONG = ({"v": cases.normal(s, 2, 2), "w": cases.normal(s + 1, 3, 2)} for s in (0, 2))
X, Y, START = cases.normal(4, 6, 3), cases.normal(5, 6, 2), cases.normal(6, 10)
pytestmark = pytest.mark.usefixtures("x64")


def forms(scale):
    """Return a model, a loss of its outputs, and both in one; all see a traced number."""

    def f(params, batch):
        return jnp.matmul(jnp.tanh(scale * jnp.matmul(batch[0], params["w"])), params["v"])

    def head(z, batch):
        return scale * ((z - batch[1]) ** 2).sum(axis=1).mean()

    return f, head, lambda params, batch: head(f(params, batch), batch)


def batch():
    return jnp.asarray(X), jnp.asarray(Y)


def hessian(params, scale):
    return curvature.hessian(forms(scale)[2], params, batch())


def ggn(params, scale):
    return curvature.ggn(*forms(scale)[:2], params, batch())


def kfac(params, scale):
    return curvature.kfac(*forms(scale)[:2], params, batch())


def diagonal(params, scale):
    return operators.from_diagonal(
        per_example.ggn_diagonal(*forms(scale)[:2])(params, batch()), psd=True
    )


def posterior(A, params):
    return curvature.laplace(A, params, examples=len(X), prior_precision=0.7)


def evidence(build):
    def number(params, scale):
        return curvature.log_evidence(
            posterior(build(params, scale), params), forms(scale)[2](params, batch())
        )

    return number


def variance(build):
    def number(params, scale):
        found = curvature.predictive(
            posterior(build(params, scale), params), forms(scale)[0], batch()
        )
        return found.covariance[1, 0, 1]

    return number


def whole(params, scale):
    return operators.materialize(ggn(params, scale))


def sharpness(params, scale):
    return curvature.sharpness(forms(scale)[2], params, batch(), key=KEY, tol=1e-9).values[0]


def eigenvalues(params, scale):
    found = operators.eigsh(hessian(params, scale), 3, key=KEY, tol=1e-9)
    return found.values @ jnp.asarray([1.0, -2.0, 0.5])


def leading(params, scale):
    start = {"v": jnp.asarray(START[:4]).reshape(2, 2), "w": jnp.asarray(START[4:]).reshape(3, 2)}
    return operators.leading_eigenpair(hessian(params, scale), start, steps=10).values[0]


def solution(params, scale):
    return operators.cg(ggn(params, scale).shift(0.5), params, tol=1e-11).x["w"][0, 1]


def density(params, scale):
    found = operators.spectral_density(hessian(params, scale), key=KEY, probes=2, steps=4)
    return operators.spectral_mean(found, lambda x: x**3).value


def worst(params, scale):
    loss = forms(scale)[2]
    return curvature.worst_loss(loss, params, batch(), radius=0.1, key=KEY, steps=4).increase


def noise(params, scale):
    found = curvature.noise_scale(forms(scale)[2], params, batch())
    return found.value - 2 * found.stderr


NUMBERS = {
    "eigenvalues": eigenvalues,
    "sharpness": sharpness,
    "leading eigenpair": leading,
    "trace": lambda p, c: operators.trace(hessian(p, c), key=KEY, probes=2).value,
    "diagonal": lambda p, c: operators.diagonal(hessian(p, c), key=KEY, probes=2).value["w"][0, 1],
    "frobenius": lambda p, c: operators.frobenius(hessian(p, c), key=KEY, probes=2).value,
    "density": density,
    "solution": solution,
    "logdet of kfac": lambda p, c: kfac(p, c).shift(0.1).logdet(),
    "logdet written out": lambda p, c: whole(p, c).shift(0.1).logdet(),
    "evidence by kfac": evidence(kfac),
    "evidence by a diagonal": evidence(diagonal),
    "evidence by the whole": evidence(whole),
    "variance by kfac": variance(kfac),
    "variance by a diagonal": variance(diagonal),
    "variance by the whole": variance(whole),
    "kernel": lambda p, c: curvature.ntk(forms(c)[0], p, batch()).dense()[1, 6],
    "noise scale": noise,
    "worst loss": worst,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_gradients_are_those_of_differences(name):
    def number(t, scale):
        params = jax.tree.map(lambda x, e: x + t * e, *cases.cast((POINT, ALONG), jnp.float64))
        return NUMBERS[name](params, scale)

    both = jax.jit(jax.value_and_grad(number, argnums=(0, 1)))
    steps = STEP * np.asarray([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    values, slopes = zip(*(both(t, 1.2 + s) for t, s in steps))
    differences = (np.asarray(values[1::2]) - np.asarray(values[2::2])) / (2 * STEP)
    found = np.asarray(slopes[0])
    np.testing.assert_allclose(found, differences, rtol=1e-5, atol=1e-7)
    assert np.abs(found).min() > 1e-4
