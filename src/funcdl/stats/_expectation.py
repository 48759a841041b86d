"""Means over draws, each with its standard error."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _tree
from funcdl._check import at_least, check_key
from funcdl._closure import as_partial, current
from funcdl._typing import Array, Function, Key, Sampler
from funcdl.operators import Estimate, sample_mean

_BLOCK = 1024  # the number of draws computed at a time


def expectation(
    f: Function, sample: Sampler, *, key: Key[Array, ""], samples: int = 1024
) -> Estimate:
    r"""Estimate :math:`E[f(x)]` by the mean over independent draws.

    A family with its parameters is a sampler, ``jax.tree_util.Partial(gaussian.sample,
    params=params)``. A new function in each call causes a new compilation; put everything that
    changes into a ``Partial``. Derivatives go through f and the draws, as far as these are
    differentiable: labels and bits are not.

    Args:
        f: ``f(x) -> array``, of any shape.
        sample: ``sample(key) -> x``, one draw.
        key: The random key.
        samples: The number of draws, at least 2. The standard error falls with their root.

    Returns:
        The mean and its standard error, with the shape of f's result; the error is meaningless
        where f has infinite variance.

    Raises:
        ValueError: If ``samples < 2``.
        TypeError: If the key is not typed.

    >>> def uniform(key): return jax.random.uniform(key)
    >>> mean, error, _ = expectation(jnp.square, uniform, key=jax.random.key(0), samples=4096)
    >>> (jnp.abs(mean - 1 / 3) < 3 * error).item(), error.round(3).item()  # sqrt(4 / 45 / 4096)
    (True, 0.005)
    """
    check_key(key)
    at_least("samples", samples, 2, "(one alone has no error bar)")
    sample = current(as_partial(sample), key)
    f = current(as_partial(f), jax.eval_shape(sample, key))
    return _expectation(f, sample, key, samples)


@partial(jax.jit, static_argnums=3)
def _expectation(f: Partial, sample: Partial, key: Key[Array, ""], samples: int) -> Estimate:
    def one(key):
        y = jnp.asarray(f(sample(key)))
        return y.astype(_tree.wide(y.dtype))

    keys = jax.random.split(key, samples)
    return sample_mean(jax.lax.map(one, keys, batch_size=min(samples, _BLOCK)))
