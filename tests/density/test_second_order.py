"""Every public function has derivatives to second order in both modes, by the point and by args."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import density

W = cases.normal(0, 3, 3) / 4
X, A = np.array([0.3, -1.1, 0.7]), np.array([0.4, -0.2, 0.6])


def normal(x):
    return -0.5 * (x**2).sum()


def coupling(x, a):
    return jnp.concatenate([x[:1], x[1:] * jnp.exp(a[1:] * jnp.tanh(x[:1])) + a[:2] * x[0]])


def layers(x, a):
    return jax.lax.scan(lambda x, b: (jnp.roll(x + 0.5 * jnp.tanh(b * x), 1), None), x, a)[0]


def slices(x, a):
    step = lambda s, v: (jnp.tanh(s + v[0]), v[0] * jnp.exp(v[1] * s) + s)
    return jax.lax.scan(step, jnp.zeros_like(x[0]), (x, a))[1]


# maps f(x, a) that are inverted by propagation and by Newton steps, on each kind of block
MAPS = {
    "x + tanh x": lambda x, a: x + 0.5 * jnp.tanh(a * x),
    "ndtr": lambda x, a: x + jax.scipy.special.ndtr(a * x),
    "elu": lambda x, a: a**2 * x + jax.nn.elu(x),
    "cube": lambda x, a: x + (a * x) ** 3,
    "coupling": coupling,
    "triangular": lambda x, a: x + 0.5 * jnp.tanh(jnp.tril(W) @ (a * x)),
    "residual": lambda x, a: x + W @ jnp.tanh(a * x),
    "planar": lambda x, a: x + W[0] * jnp.tanh(a @ x),
    "low rank without a proof": lambda x, a: 3 * x**3 + a * x.sum(),
    "layers": layers,
    "slices": slices,
    "branches": lambda x, a: jax.lax.cond(a[0] > 0, lambda x: x + jnp.tanh(x) / 2, jnp.sinh, x),
    "blocks": lambda x, a: jax.vmap(lambda z, b: z + W[:1, :1] @ jnp.tanh(b * z))(
        x[:, None], a[:, None])[:, 0],
    "matrix": lambda x, a: jnp.sinh((W + jnp.diag(1 + a**2)) @ x),
}  # fmt: skip
TRANSFORMS = {
    "value and log-det": lambda f, x, a: density.value_and_log_det(f)(x, a),
    "inverse and log-det": lambda f, x, a: density.inverse_and_log_det(f)(x, a),
    "pushforward": lambda f, x, a: density.pushforward(normal, f)(x, a),
    "pullback": lambda f, x, a: density.pullback(normal, f)(x, a),
}
PAIRS = [(t, m) for t in TRANSFORMS for m in MAPS]
often = [("inverse and log-det", "triangular"), ("pushforward", "x + tanh x"),
         ("pushforward", "residual"), ("value and log-det", "low rank without a proof"),
         ("pullback", "slices"), ("pushforward", "layers")]  # fmt: skip


@pytest.mark.parametrize(
    ("transform", "name"),
    [pytest.param(*p, marks=[] if p in often else pytest.mark.slow) for p in PAIRS],
)
def test_both_modes_to_second_order(transform, name, x64):
    f = MAPS[name]
    point = f(jnp.asarray(X), jnp.asarray(A)) if transform in ("inverse and log-det",
                                                               "pushforward") else X  # fmt: skip
    cases.check_second(functools.partial(TRANSFORMS[transform], f), (point, A), 2e-5)


@pytest.mark.parametrize("sample_or_volume", ["sample", "volume", "branches"])
def test_the_other_functions_too(sample_or_volume, x64):
    draw = density.sample_and_log_prob(lambda key: X, normal, MAPS["triangular"])
    both_roots = [lambda y, a: jnp.sqrt(y / a**2), lambda y, a: -jnp.sqrt(y / a**2)]
    square = density.pushforward_branches(normal, lambda x, a: (a * x) ** 2, both_roots)
    f, args = {
        "sample": (lambda a: draw(None, a), (A,)),
        "volume": (density.value_and_log_volume(lambda x, a: jnp.concatenate([x, a * x**2])),
                   (X, A)),
        "branches": (lambda y, a: square(y, a), (X**2, A)),
    }[sample_or_volume]  # fmt: skip
    cases.check_second(f, args, 2e-5)
