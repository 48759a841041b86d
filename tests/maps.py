"""Plain functions whose log-determinants and inverses are tested: none was written for funcdl."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

N, H = 8, 4
draws = np.random.default_rng(0)
MATRIX = draws.normal(size=(N, N))
SCALE, SHIFT = draws.normal(size=(2, N))
NET = {"in": 0.3 * draws.normal(size=(16, H)), "out": 0.3 * draws.normal(size=(2 * H, 16))}
LOWER = np.tril(draws.normal(size=(N, N)), -1) + np.diag(draws.uniform(1, 2, N))
PERMUTATION = draws.permutation(N)
LAYERS = draws.normal(size=(4, N, N))
U, W = 0.3 * draws.normal(size=(2, N))
RESIDUAL = draws.normal(size=(2, N, N)) / 6
POINT = draws.normal(size=N)
POSITIVE = np.abs(POINT) + 0.2
UNIT = np.linspace(0.1, 0.9, N)


class Case(NamedTuple):
    """A function of one point.

    Attributes:
        f: The function.
        x: Where it is tested.
        injective: Whether it has an inverse.
    """

    f: object
    x: object = POINT
    injective: bool = True


def net(x):
    scale, shift = jnp.split(NET["out"] @ jnp.tanh(NET["in"] @ x), 2)
    return jnp.exp(jnp.tanh(scale)), shift


def coupled(kept, moved):
    scale, shift = net(kept)
    return jnp.concatenate([kept, moved * scale + shift])


def masked(x):
    mask = np.arange(N) < H
    scale, shift = net(jnp.where(mask, x, 0)[:H])
    scale, shift = jnp.tile(scale, 2), jnp.tile(shift, 2)
    return jnp.where(mask, x, x * scale + shift)


def over_layers(x):
    return jax.lax.scan(lambda x, layer: (jax.nn.sigmoid(layer @ x), None), x, LAYERS)[0]


def over_dimensions(x):
    def step(state, x):
        return 0.5 * state + jnp.tanh(x), x * jnp.exp(jnp.tanh(state)) + state

    return jax.lax.scan(step, jnp.zeros((), x.dtype), x)[1]


def branches(x):
    return jax.lax.cond(x.sum() > 0, lambda x: x * SCALE, jnp.exp, x)


def autoregressive(x):
    below = np.tril(MATRIX, -1) * 0.3
    return x * jnp.exp(jnp.tanh(below @ x)) + below @ x


def normalized(x):
    return x / jnp.sqrt(1 + x @ x)


PLAIN = {
    "affine": Case(lambda x: x * SCALE + SHIFT),
    "sigmoid of exp": Case(lambda x: jax.nn.sigmoid(jnp.exp(0.3 * x) * SCALE - SHIFT)),
    "exp, reshaped": Case(lambda x: jnp.exp(x).reshape(2, H)),
    "tanh": Case(lambda x: jnp.tanh(x * SCALE)),
    "cube": Case(lambda x: x**3),
    "twice": Case(lambda x: x + x),
    "plus softplus": Case(lambda x: x + jax.nn.softplus(x)),
    "square": Case(lambda x: x**2, injective=False),
    "abs": Case(lambda x: jnp.abs(x * SCALE), injective=False),
    "sin": Case(jnp.sin, injective=False),
    "halves swapped": Case(lambda x: jnp.concatenate([x[H:], x[:H]])),
    "roll": Case(lambda x: jnp.roll(x, 2)),
    "coupling by split": Case(lambda x: coupled(*jnp.split(x, 2))),
    "coupling by slices": Case(lambda x: coupled(x[:H], x[H:])),
    "coupling by mask": Case(masked),
    "reversed": Case(lambda x: x[::-1]),
    "permuted": Case(lambda x: x[PERMUTATION]),
    "matrix": Case(lambda x: MATRIX @ x),
    "triangular solve": Case(lambda x: jax.scipy.linalg.solve_triangular(LOWER, x, lower=True)),
    "cumsum": Case(jnp.cumsum),
    "scan of layers": Case(over_layers, 0.2 * POINT),
    "fori_loop": Case(
        lambda x: jax.lax.fori_loop(0, 3, lambda i, x: jnp.sinh(0.3 * (MATRIX @ x)), x)
    ),
    "cond": Case(branches),
    "scan over dimensions": Case(over_dimensions),
    "planar": Case(lambda x: x + U * jnp.tanh(W @ x + 0.3)),
    "autoregressive by mask": Case(autoregressive),
    "leaky relu": Case(lambda x: jnp.where(x > 0, x, 0.1 * x)),
    "normalized": Case(normalized),
    "residual": Case(lambda x: x + RESIDUAL[0] @ jnp.tanh(RESIDUAL[1] @ x)),
    "fft": Case(lambda x: jnp.fft.irfft(1.5 * jnp.fft.rfft(x), N)),
    "sort": Case(jnp.sort, injective=False),
    "softmax": Case(jax.nn.softmax, injective=False),
}


def naive_logit(x):
    return jnp.log(x / (1 - x))


NUMERIC = {
    "mul": Case(lambda x: x * 3.0),
    "rmul": Case(lambda x: 3.0 * x),
    "div": Case(lambda x: x / 3.0),
    "rdiv": Case(lambda x: 3.0 / x),
    "exp": Case(jnp.exp),
    "conditional": Case(lambda xy: (xy[0] + 1, jnp.exp(xy[0] + 1) + xy[1]), (0.3, -0.7)),
    "two": Case(lambda x: (x[0] * 2 + x[1], x[1] - 3), (0.3, -0.7)),
    "three": Case(lambda x: (x[0] / 2, jnp.exp(x[0]) * x[1], x[2] * x[1] + x[0]), (0.3, -0.7, 1.1)),
    "lower triangular": Case(lambda x: LOWER @ x),
    "jit": Case(jax.jit(lambda x: jnp.exp(x) * 2)),
    "split": Case(lambda x: tuple(jnp.split(jnp.exp(x), 2))),
    "concatenate": Case(lambda x: jnp.concatenate([x[:H] + 1, jnp.exp(x[H:])])),
    "reshape": Case(lambda x: jnp.exp(x.reshape(2, H))),
    "softplus": Case(jax.nn.softplus),
    "sigmoid": Case(jax.nn.sigmoid),
    "naive sigmoid": Case(lambda x: 1 / (1 + jnp.exp(-x))),
    "logit": Case(jax.scipy.special.logit, UNIT),
    "naive logit": Case(naive_logit, UNIT),
    "square": Case(lambda x: x**2, injective=False),
    "square of a positive number": Case(lambda x: jnp.exp(x) ** 2),
    "cube": Case(lambda x: x**3),
    "reciprocal": Case(lambda x: 1.0 / x),
    "power": Case(lambda x: x**1.7, POSITIVE),
    "exponent": Case(lambda x: 1.7**x),
    "sqrt": Case(jnp.sqrt, POSITIVE),
    "constant": Case(lambda x: x * 0 + 1, injective=False),
    "sum twice": Case(lambda xy: (xy[0] + xy[1], xy[0] + xy[1]), (0.3, -0.7), False),
}
