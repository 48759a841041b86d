"""Plain maps of the cost table, each with a handwritten log-determinant and inverse."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Map:
    """A function of one point and parameters.

    Attributes:
        name: The name of the row.
        forward: The map ``(x, params) -> y``.
        by_hand: The handwritten ``(x, params) -> (y, log_det)``.
        params: A pytree of arrays.
        inverse: The handwritten inverse ``(y, params) -> x``, or None if it is not compared.
    """

    name: str
    forward: Callable
    by_hand: Callable
    params: Any
    inverse: Callable | None = None


def maps(n: int, layers: int, width: int) -> list[Map]:
    """Return the maps of n numbers."""
    return [f(n, layers, width) for f in (real_nvp, planar, autoregressive, solve, elementwise)]


def drawn(*shape, scale: float = 1.0, seed: int = 0):
    """Draw a float32 array."""
    import jax.numpy as jnp

    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)


def real_nvp(n: int, layers: int, width: int) -> Map:
    """Return affine couplings in a scan, with the halves exchanged after each one."""
    import jax
    import jax.numpy as jnp

    h = n // 2
    params = {
        "first": drawn(layers, width, h, scale=h**-0.5),
        "second": drawn(layers, width, width, scale=width**-0.5),
        "third": drawn(layers, n, width, scale=0.3 * width**-0.5),
    }

    def net(p, a):
        z = jax.nn.relu(p["second"] @ jax.nn.relu(p["first"] @ a))
        out = p["third"] @ z
        return jnp.tanh(out[:h]), out[h:]

    def forward(x, params):
        def layer(x, p):
            a, b = x[:h], x[h:]
            s, t = net(p, a)
            return jnp.concatenate([b * jnp.exp(s) + t, a]), None

        return jax.lax.scan(layer, x, params)[0]

    def by_hand(x, params):
        def layer(carry, p):
            x, log_det = carry
            a, b = x[:h], x[h:]
            s, t = net(p, a)
            return (jnp.concatenate([b * jnp.exp(s) + t, a]), log_det + s.sum()), None

        return jax.lax.scan(layer, (x, jnp.zeros(())), params)[0]

    def inverse(y, params):
        def layer(y, p):
            a, b = y[h:], y[:h]
            s, t = net(p, a)
            return jnp.concatenate([a, (b - t) * jnp.exp(-s)]), None

        return jax.lax.scan(layer, y, params, reverse=True)[0]

    return Map("RealNVP in a scan", forward, by_hand, params, inverse)


def planar(n: int, layers: int, _: int) -> Map:
    """Return a sequence of planar layers."""
    import jax.numpy as jnp

    w = drawn(layers, n, scale=n**-0.5)
    params = {"w": w, "u": 0.5 * w, "b": drawn(layers)}

    def forward(x, params):
        for w, u, b in zip(*map(params.get, "wub")):
            x = x + u * jnp.tanh(w @ x + b)
        return x

    def by_hand(x, params):
        log_det = 0.0
        for w, u, b in zip(*map(params.get, "wub")):
            h = jnp.tanh(w @ x + b)
            log_det += jnp.log(jnp.abs(1 + (w @ u) * (1 - h**2)))
            x = x + u * h
        return x, log_det

    return Map("planar", forward, by_hand, params)


def autoregressive(n: int, _: int, __: int) -> Map:
    """Return one affine layer whose scales and shifts come from a masked net."""
    import jax.numpy as jnp

    mask = np.tril(np.ones((n, n), np.float32), -1)
    params = {name: drawn(n, n, scale=n**-0.5, seed=k) for k, name in enumerate("abc")}

    def net(x, p):
        hidden = jnp.tanh((mask * p["a"]) @ x + x)  # number i depends on those up to i
        return jnp.tanh((mask * p["b"]) @ hidden), (mask * p["c"]) @ hidden

    def forward(x, p):
        s, t = net(x, p)
        return x * jnp.exp(s) + t

    def by_hand(x, p):
        s, t = net(x, p)
        return x * jnp.exp(s) + t, s.sum()

    return Map("masked autoregressive", forward, by_hand, params)


def solve(n: int, _: int, __: int) -> Map:
    """Return a triangular solve and a softplus."""
    import jax
    import jax.numpy as jnp

    factor = jnp.tril(drawn(n, n, scale=0.3 * n**-0.5), -1) + jnp.diag(1 + drawn(n) ** 2)

    def solved(x, factor):
        return jax.scipy.linalg.solve_triangular(factor, x, lower=True)

    def by_hand(x, factor):
        z = solved(x, factor)
        log_det = jax.nn.log_sigmoid(z).sum() - jnp.log(jnp.diag(factor)).sum()
        return jax.nn.softplus(z), log_det

    forward = lambda x, factor: jax.nn.softplus(solved(x, factor))
    return Map("triangular solve, softplus", forward, by_hand, factor)


def elementwise(n: int, _: int, __: int) -> Map:
    """Return a chain of functions of single numbers."""
    import jax
    import jax.numpy as jnp

    params = {"a": drawn(n, seed=1), "b": drawn(n, seed=2)}

    def forward(x, p):
        return jnp.sinh(jax.nn.sigmoid(x * jnp.exp(p["a"]) + p["b"])) ** 3

    def by_hand(x, p):
        z = x * jnp.exp(p["a"]) + p["b"]
        s = jax.nn.sigmoid(z)
        sinh = jnp.sinh(s)
        slopes = p["a"] + jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)
        slopes += jnp.log(jnp.cosh(s)) + jnp.log(3.0) + 2 * jnp.log(sinh)
        return sinh**3, slopes.sum()

    return Map("elementwise chain", forward, by_hand, params)
