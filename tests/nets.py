"""Small nets of every kind, each with a loss and its data: what a user may bring."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

import cases
from funcdl import losses
from funcdl import nn as funcdl_nn


class Net(NamedTuple):
    """A model, a loss of its outputs, parameters and data."""

    f: Callable
    head: Callable
    params: dict
    batch: tuple | dict

    def loss(self, params, batch):
        return self.head(self.f(params, batch), batch)


class _Layers(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.gelu(nn.Dense(5)(x)))
        return nn.Dense(3)(x)


class _Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Conv(4, (3, 3), strides=2, feature_group_count=2)(x))
        x = nn.tanh(funcdl_nn.Conv(3, (3, 3))(x))
        return nn.Dense(3)(x.reshape(len(x), -1))


class _Attention(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        table = nn.Embed(7, 4)
        x = table(tokens)
        x = x + nn.MultiHeadDotProductAttention(2, qkv_features=4)(x, x)
        return table.attend(nn.LayerNorm()(x)).mean(axis=1)


class _Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(nn.GRUCell(3, param_dtype=jnp.result_type(float)))(x)[:, -1])


def _of(module, x, classes=3) -> Net:
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    # away from the zeros of a fresh bias
    params = jax.tree.map(lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)

    f = lambda params, batch: module.apply({"params": params}, batch[0])
    return Net(f, _cross_entropy, params, (x, jnp.arange(len(x)) % classes))


def _cross_entropy(z, batch):
    return losses.softmax_cross_entropy(z, batch[1])


def _squares(z, batch):
    return losses.squared_error(z[:, 0], batch[1]) + 0.1 * losses.squared_error(
        jnp.tanh(z[:, 1]), batch[1]
    )


def _per_token(logits, batch):
    return losses.masked_softmax_cross_entropy(logits, batch["next"], batch["mask"])


def _layers_in_a_scan(params, batch):
    def layer(x, p):
        return jnp.tanh(jnp.matmul(x, p["w"]) + p["b"][None] + params["shared"][None]), None

    x, _ = jax.lax.scan(layer, batch[0], params["layers"])
    return jnp.einsum("bi,oi->bo", x, params["out"])


def _odd(params, batch):
    """Parameters used in ways of which no factors are known, twice, inverted, or not at all."""
    x, at = batch
    w = jnp.concatenate([params["w"][:1], params["w"][::-1]])[1:]
    inverse = jnp.linalg.inv(params["a"])
    x = jnp.matmul(jnp.matmul(x, w), inverse) + jnp.matmul(jnp.sin(x), params["w"])
    x = x * jnp.exp(params["scale"]) + params["table"][at.astype(int)]
    return x + 0.1 * (params["w"] ** 2).sum()


def _tokens(params, batch):
    x = params["embedding"][batch["tokens"]]
    x = jax.nn.softplus(jnp.matmul(x, params["out"]["kernel"]))
    return jnp.matmul(x, params["embedding"].T)


def _x(seed, *shape):
    return jnp.asarray(cases.normal(seed, *shape), jnp.float32)


def nets() -> dict[str, Net]:
    return dict(_nets(jnp.result_type(float)))


@functools.cache
def _nets(_dtype) -> dict[str, Net]:
    tokens = jnp.asarray([[0, 1, 2], [3, 3, 3], [6, 0, 6], [1, 5, 1]])
    masked = cases.LOSSES["masked tokens"].cast(jnp.float32)
    layers = {
        "layers": {"w": _x(3, 2, 3, 3), "b": _x(4, 2, 3)},
        "shared": _x(5, 3),
        "out": _x(6, 2, 3),
    }
    odd = {
        "w": _x(7, 3, 3),
        "a": _x(8, 3, 3) + 3 * jnp.eye(3),
        "scale": _x(9, 3)[None],
        "table": _x(10, 4, 3),
        "unused": _x(11, 2),
        "count": jnp.arange(3),
    }
    return {
        "layers": _of(_Layers(), _x(0, 4, 3)),
        "convolutions": _of(_Convolutions(), _x(1, 4, 5, 5, 2)),
        "attention": _of(_Attention(), tokens, 7),
        "recurrent": _of(_Recurrent(), _x(2, 4, 3, 2)),
        "layers in a scan": Net(_layers_in_a_scan, _squares, layers, (_x(12, 4, 3), _x(13, 4))),
        "odd": Net(_odd, _squares, odd, (_x(14, 4, 3), jnp.asarray([0.0, 1.0, 3.0, 1.0]))),
        "masked tokens": Net(_tokens, _per_token, masked.params, masked.data),
    }
