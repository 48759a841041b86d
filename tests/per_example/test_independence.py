"""Losses in which examples see each other are refused, by operation and line; others pass."""

import jax
import jax.numpy as jnp
import pytest

from funcdl.per_example import ExamplesInteractError, grad_norm
from funcdl.per_example._independence import require_independent
from nets import nets

X, LABEL = jnp.ones((5, 4)), jnp.asarray([0, 1, 2, 0, 1])
W = jnp.ones((4, 3))


def z(w, x):
    return jnp.matmul(x, w)


KEPT = {
    "picked by arange": lambda w, x, y: -jax.nn.log_softmax(z(w, x))[jnp.arange(len(x)), y].mean(),
    "taken along": lambda w, x, y: jnp.take_along_axis(z(w, x), y[:, None], axis=1).mean(),
    "one-hot": lambda w, x, y: (z(w, x) * jax.nn.one_hot(y, 3)).sum(axis=1).mean(),
    "decay": lambda w, x, y: z(w, x).sum(axis=1).mean() + (w**2).sum(),
    "map": lambda w, x, y: jax.lax.map(lambda x: z(w, x).sum(), x).mean(),
    "vmap": lambda w, x, y: jax.vmap(lambda x: z(w, x).sum())(x).mean(),
    "sort of features": lambda w, x, y: jnp.sort(z(w, x), axis=1)[:, 0].mean(),
    "branch on a constant": lambda w, x, y: jax.lax.cond(
        w[0, 0] > 0, lambda x: x, jnp.tanh, z(w, x)
    ).mean(),
    "steps": lambda w, x, y: jax.lax.scan(
        lambda h, _: (jnp.tanh(h + z(w, x)), None), jnp.zeros((len(x), 3)), length=2
    )[0].mean(),
    "a key for each": lambda w, x, y: jax.vmap(
        lambda x, y: (x * jax.random.normal(jax.random.key(y), (4,))).sum()
    )(x, y).mean(),
    "spectrum of features": lambda w, x, y: jnp.abs(jnp.fft.fft(z(w, x))).mean(),
    "set by arange": lambda w, x, y: z(w, x).at[jnp.arange(len(x)), y].add(-1.0).mean(),
    "set in each": lambda w, x, y: jax.vmap(lambda z, y: z.at[y].set(0.0))(z(w, x), y).mean(),
    "last first": lambda w, x, y: jnp.tanh(z(w, x).T.reshape(-1, 1)).reshape(3, -1).sum(0).mean(),
    "tiled": lambda w, x, y: (jnp.tile(z(w, x), (2, 1)) * jnp.tile(x[:, :1], (2, 1))).mean(),
    "loop": lambda w, x, y: jax.lax.fori_loop(
        0, y.size * 0 + 2, lambda i, h: h * i, z(w, x)
    ).mean(),
}
MIXED = {
    "normalized": (lambda w, x, y: ((z(w, x) - z(w, x).mean(axis=0)[None]) ** 2).mean(), "sub"),
    "pairs": (lambda w, x, y: jnp.matmul(z(w, x), z(w, x).T).mean(), "dot_general"),
    "log of a mean": (lambda w, x, y: jnp.log(z(w, x).mean()), "log"),
    "product of means": (lambda w, x, y: z(w, x).mean() * z(w, x).mean(), "mul"),
    "ratio": (lambda w, x, y: z(w, x).sum() / x.sum(), "div"),
    "reversed": (lambda w, x, y: (z(w, x) * z(w, x)[::-1]).mean(), "rev"),
    "sorted": (lambda w, x, y: jnp.sort(z(w, x), axis=0)[0].mean(), "sort"),
    "cumulated": (lambda w, x, y: jnp.cumsum(z(w, x), axis=0).mean(), "cumsum"),
    "maximum": (lambda w, x, y: jnp.max(z(w, x)), "reduce_max"),
    "neighbors": (lambda w, x, y: (z(w, x)[1:] - z(w, x)[:-1]).mean(), "slice"),
    "doubled": (lambda w, x, y: z(w, jnp.concatenate([x, x])).mean(), "concatenate"),
    "permuted": (lambda w, x, y: (z(w, x) * z(w, x)[y]).mean(), "gather"),
    "carried": (
        lambda w, x, y: jax.lax.scan(lambda c, x: (c * z(w, x), None), jnp.ones(3), x)[0].sum(),
        "scan",
    ),
    "dropout": (
        lambda w, x, y: (jax.random.bernoulli(jax.random.key(0), 0.5, x.shape) * x @ w).mean(),
        "random_bits",
    ),
    "decomposed": (lambda w, x, y: jnp.linalg.svd(z(w, x), compute_uv=False).sum(), "svd"),
    "numbered": (lambda w, x, y: (z(w, x) * jnp.arange(len(x))[:, None]).mean(), "mul"),
    "the first": (
        lambda w, x, y: jnp.where(jnp.arange(len(x)) == 0, z(w, x)[:, 0], 0).mean(),
        "eq",
    ),
    "the next": (lambda w, x, y: z(w, x)[(jnp.arange(len(x)) + 1) % len(x)].mean(), "add"),
    "a row for each number": (lambda w, x, y: (w[jnp.arange(len(x))] * x[:, :3]).mean(), "add"),
    "segments": (
        lambda w, x, y: jax.ops.segment_sum(z(w, x), y, num_segments=len(x)).mean(),
        "scatter-add",
    ),
    "one set": (lambda w, x, y: z(w, x).at[0].set(0.0).mean(), "scatter"),
    "a slice set": (
        lambda w, x, y: jax.lax.dynamic_update_slice(z(w, x), w[:1], (0, 0)).mean(),
        "dynamic_update_slice",
    ),
    "cut when flat": (lambda w, x, y: z(w, x).reshape(-1)[: len(x)].mean(), "slice"),
    "reshaped": (lambda w, x, y: (z(w, x).T.reshape(-1, 3) * z(w, x)).mean(), "reshape"),
    "tiled and repeated": (
        lambda w, x, y: (jnp.tile(z(w, x), (2, 1)) * jnp.repeat(z(w, x), 2, axis=0)).mean(),
        "mul",
    ),
    "spectrum": (
        lambda w, x, y: jnp.abs(jnp.fft.fftn(z(w, x)[..., None], axes=(0, 1, 2))).mean(),
        "fft",
    ),
    "carried by a loop": (
        lambda w, x, y: jax.lax.while_loop(
            lambda c: c[2] < 3,
            lambda c: (c[0] * c[1], c[0].sum(), c[2] + 1),
            (z(w, x), jnp.ones(()), 0),
        )[0].mean(),
        "mul",
    ),
    "keys split": (
        lambda w, x, y: jax.vmap(lambda k, x: jax.random.normal(k) * x)(
            jax.random.split(jax.random.key(0), len(x)), x
        ).mean(),
        "random_split",
    ),
    "decided": (
        lambda w, x, y: jax.lax.cond(x.sum() > 0, lambda x: x, jnp.tanh, z(w, x)).mean(),
        "gt",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_mean_of_losses_of_single_examples_passes(name):
    require_independent(lambda w, batch: KEPT[name](w, *batch), W, (X, LABEL))


@pytest.mark.parametrize("name", nets())
def test_so_do_nets_as_people_write_them(name):
    net = nets()[name]
    require_independent(net.loss, net.params, net.batch)


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_examples_is_refused_by_operation_and_line(name):
    loss, operation = MIXED[name]
    with pytest.raises(ExamplesInteractError, match=rf"{operation} at .*test_independence\.py:\d+"):
        grad_norm(lambda w, batch: loss(w, *batch))(W, (X, LABEL))


def test_what_computes_differently_for_each_size_is_refused():
    def loss(w, batch):
        y = z(w, batch[0])
        for _ in range(len(y)):
            y = jnp.tanh(y)
        return y.mean()

    with pytest.raises(ExamplesInteractError, match="different sizes"):
        grad_norm(loss)(W, (X, LABEL))
