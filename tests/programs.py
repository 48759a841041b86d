"""Random programs of four numbers, composed from what the density room has rules for."""

import jax
import jax.numpy as jnp
import numpy as np

N = 4
ELEMENTWISE = {
    "exp": lambda x: jnp.exp(0.5 * x),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "sinh": jnp.sinh,
    "asinh": jnp.arcsinh,
    "arctan": jnp.arctan,
    "erf": jax.scipy.special.erf,
    "cube": lambda x: x**3,
    "square": jnp.square,
    "sin": jnp.sin,
    "abs": jnp.abs,
    "relu": jax.nn.relu,
    "leaky": lambda x: jnp.where(x > 0, x, 0.3 * x),
    "gelu": jax.nn.gelu,
    "elu": jax.nn.elu,
    "log1p": lambda x: jnp.log1p(jnp.exp(x)),
    "reciprocal": lambda x: 1 / (2 + jnp.tanh(x)),
    "sqrt": lambda x: jnp.sqrt(1 + x**2) + x,
    "power": lambda x: jnp.exp(x) ** 1.5,
    "clip": lambda x: jnp.clip(x, -2, 2),
    "negative": jnp.negative,
    "ndtri": lambda x: jax.scipy.special.ndtri(jax.nn.sigmoid(x)),
    "maximum": lambda x: jnp.maximum(x, 0.5 * x),
}


def normal(rng, *shape):
    return rng.normal(size=shape)


def matrix(rng):
    a = normal(rng, N, N)
    return lambda x: a @ x


def triangular(rng):
    a = np.tril(normal(rng, N, N))
    return lambda x: a @ x


def affine(rng):
    a, b = normal(rng, 2, N)
    return lambda x: a * x + b


def permutation(rng):
    p = rng.permutation(N)
    return lambda x: x[p]


def coupling(rng):
    w, v = normal(rng, 2, 2, 2) * 0.5

    def f(x):
        kept, moved = jnp.split(x, 2)
        return jnp.concatenate([kept, moved * jnp.exp(jnp.tanh(w @ kept)) + v @ kept])

    return f


def masked_coupling(rng):
    w = normal(rng, N, N) * 0.5
    mask = rng.permutation(N) < 2

    def f(x):
        h = jnp.tanh(w @ (mask * x))
        return mask * x + (1 - mask) * (x * jnp.exp(h) + h)

    return f


def autoregressive(rng):
    w = np.tril(normal(rng, N, N), -1)
    return lambda x: x * jnp.exp(jnp.tanh(w @ x)) + w @ x


def planar(rng):
    u, w = normal(rng, 2, N) * 0.5
    return lambda x: x + u * jnp.tanh(w @ x)


def residual(rng):
    w = normal(rng, N, N) * 0.2
    return lambda x: x + w @ jnp.tanh(x)


def layers(rng):
    w = normal(rng, 3, N) * 0.5
    return lambda x: jax.lax.scan(lambda x, w: (jnp.roll(x + jnp.tanh(w * x), 1), None), x, w)[0]


def recurrent(rng):
    a = normal(rng) * 0.3

    def step(state, x):
        return jnp.tanh(state + x), x * jnp.exp(a * state) + state

    return lambda x: jax.lax.scan(step, jnp.zeros((), x.dtype), x)[1]


def decided(rng):
    w = normal(rng, N)
    return lambda x: jax.lax.cond(w @ x > 0, lambda x: 2 * x, jnp.sinh, x)


def updated(rng):
    i, j = rng.permutation(N)[:2]
    return lambda x: x.at[i].add(jnp.sin(x[j]))


def blocks(rng):
    w = normal(rng, 2, 2)
    return lambda x: jax.vmap(lambda z: jnp.tanh(w @ z) + z)(x.reshape(2, 2)).ravel()


def normalized(rng):
    return lambda x: x / jnp.sqrt(1 + x @ x)


def centered(rng):
    return lambda x: x - x.mean() + 0.1 * x


def circular(rng):
    c = normal(rng, N)
    return lambda x: jnp.fft.irfft(jnp.fft.rfft(c) * jnp.fft.rfft(x), N)


def solved(rng):
    a = np.tril(normal(rng, N, N), -1) + 2 * np.eye(N)
    return lambda x: jax.scipy.linalg.solve_triangular(a, x, lower=True)


def rows_scaled(rng):
    a = normal(rng, 2, 1)
    return lambda x: (x.reshape(2, 2) * a + jnp.sum(x[:1]) * jnp.ones((1, 2))).ravel()


def lost(rng):
    i = rng.integers(N)
    return lambda x: x.at[i].set(x[0])


def products(rng):
    return lambda x: jnp.concatenate([x[:1], x[1:] * x[:-1]])


def ruled(rng):
    """An implicit function: its rule, not its body, has the derivative."""
    call = jax.custom_jvp(lambda x: jnp.arcsinh(jax.lax.stop_gradient(x)))
    call.defjvp(lambda p, t: (call(*p), t[0] / jnp.sqrt(1 + p[0] ** 2)))
    w = normal(rng, N, N) * 0.3
    return (lambda x: x + call(x)) if rng.integers(2) else (lambda x: x + call(w @ x))


def reverse_ruled(rng):
    call = jax.custom_vjp(lambda x: jnp.tanh(jax.lax.stop_gradient(x)))
    call.defvjp(lambda x: (call(x), x), lambda x, w: (w / jnp.cosh(x) ** 2,))
    return lambda x: x + call(x[::-1])


def filled(rng):
    at, value = rng.integers(2 * N, size=N).astype("int32"), float(rng.integers(1, 5))
    return lambda x: x + jnp.exp(0.3 * x).at[at].get(mode="fill", fill_value=value)


def cast(rng):
    a = normal(rng, N)
    return lambda x: x * jnp.exp(a).astype(jnp.bfloat16).astype(x.dtype) + x


def hidden_steps(rng):
    step = [jnp.sign, jnp.floor, lambda x: x.astype(int).astype(x.dtype)][rng.integers(3)]
    return lambda x: x + jax.lax.map(step, x)


def cubes_at_zero(rng):
    i, c = rng.integers(N), 0.1 + 0.1 * rng.integers(3)
    return lambda x: (x - x[i]) ** 3 + c * x.sum()


def lanes(rng):
    trips = rng.integers(4, size=N)
    step = lambda _, v: 1.1 * v + 0.1 * jnp.tanh(v)
    return lambda x: jax.vmap(lambda v, k: jax.lax.fori_loop(0, k, step, v))(x, jnp.asarray(trips))


def indexed(rng):
    return lambda x: jax.lax.dynamic_slice(
        jnp.concatenate([x, 2 * x]), (jnp.abs(x[0]).astype(jnp.uint32),), (N,)
    )


def with_effect(rng):
    def f(x):
        jax.debug.callback(lambda _: None, x.sum())
        return x + jnp.tanh(x)

    return f


def elementwise(f):
    return lambda rng: f


OPERATIONS = {name: elementwise(f) for name, f in ELEMENTWISE.items()} | {
    "matrix": matrix,
    "triangular": triangular,
    "affine": affine,
    "permutation": permutation,
    "coupling": coupling,
    "masked coupling": masked_coupling,
    "autoregressive": autoregressive,
    "planar": planar,
    "residual": residual,
    "layers": layers,
    "recurrent": recurrent,
    "cond": decided,
    "updated": updated,
    "blocks": blocks,
    "normalized": normalized,
    "centered": centered,
    "circular": circular,
    "triangular solve": solved,
    "cumsum": elementwise(jnp.cumsum),
    "sort": elementwise(jnp.sort),
    "softmax": elementwise(jax.nn.softmax),
    "logsumexp": elementwise(lambda x: x - 0.3 * jax.nn.logsumexp(x)),
    "reversed": elementwise(lambda x: x[::-1]),
    "transposed": elementwise(lambda x: x.reshape(2, 2).T.ravel()),
    "rows scaled": rows_scaled,
    "lost": lost,
    "products": products,
    "rule": ruled,
    "reverse rule": reverse_ruled,
    "fill": filled,
    "cast": cast,
    "hidden steps": hidden_steps,
    "cubes at zero": cubes_at_zero,
    "lanes": lanes,
    "index from x": indexed,
    "effect": with_effect,
    "cumprod": elementwise(lambda x: jnp.cumprod(jnp.exp(0.5 * x))),
    "cummax": elementwise(lambda x: jax.lax.cummax(x) + 0.5 * x),
}
JOINS = {
    "then": lambda f, g: lambda x: g(f(x)),
    "sum": lambda f, g: lambda x: f(x) + g(x),
    "plus x": lambda f, g: lambda x: g(x + 0.3 * f(x)),
    "choice": lambda f, g: lambda x: jnp.where(x > 0, f(x), g(x)),
    "halves": lambda f, g: lambda x: jnp.concatenate([f(x)[:2], g(x)[2:]]),
    "jit": lambda f, g: jax.jit(lambda x: g(f(x))),
    "remat": lambda f, g: jax.checkpoint(lambda x: g(f(x))),
}


def program(parts):
    """Compose a program from (join, operation, seed), from the first to the last."""
    f = lambda x: x
    for join, name, seed in parts:
        f = JOINS[join](f, OPERATIONS[name](np.random.default_rng(seed)))
    return f
