"""Losses in which examples see each other are refused, by operation and line; others pass."""

import jax
import jax.numpy as jnp
import pytest

from funcdl.autodiff import MixedError, per_example_grad_norm
from funcdl.autodiff._mixing import require_independent
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
}
MIXED = {
    "normalised": (lambda w, x, y: ((z(w, x) - z(w, x).mean(axis=0)[None]) ** 2).mean(), "sub"),
    "pairs": (lambda w, x, y: jnp.matmul(z(w, x), z(w, x).T).mean(), "dot_general"),
    "log of a mean": (lambda w, x, y: jnp.log(z(w, x).mean()), "log"),
    "product of means": (lambda w, x, y: z(w, x).mean() * z(w, x).mean(), "mul"),
    "ratio": (lambda w, x, y: z(w, x).sum() / x.sum(), "div"),
    "reversed": (lambda w, x, y: (z(w, x) * z(w, x)[::-1]).mean(), "rev"),
    "sorted": (lambda w, x, y: jnp.sort(z(w, x), axis=0)[0].mean(), "sort"),
    "cumulated": (lambda w, x, y: jnp.cumsum(z(w, x), axis=0).mean(), "cumsum"),
    "maximum": (lambda w, x, y: jnp.max(z(w, x)), "reduce_max"),
    "neighbours": (lambda w, x, y: (z(w, x)[1:] - z(w, x)[:-1]).mean(), "slice"),
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
    with pytest.raises(MixedError, match=rf"{operation} at .*test_mixing\.py:\d+"):
        per_example_grad_norm(lambda w, batch: loss(w, *batch))(W, (X, LABEL))


def test_what_computes_differently_for_each_size_is_refused():
    def loss(w, batch):
        y = z(w, batch[0])
        for _ in range(len(y)):
            y = jnp.tanh(y)
        return y.mean()

    with pytest.raises(MixedError, match="different sizes"):
        per_example_grad_norm(loss)(W, (X, LABEL))
