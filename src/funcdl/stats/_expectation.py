"""Means over draws, each with its standard error."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _tree
from funcdl._check import at_least, check_key
from funcdl._closure import as_partial
from funcdl._typing import Array, Key
from funcdl.operators import Estimate, sample_mean

_BLOCK = 1024  # draws that are computed at once


def expectation(
    f: Callable, sample: Callable, *, key: Key[Array, ""], samples: int = 1024
) -> Estimate:
    r"""Estimate :math:`E[f(x)]` by the mean over independent draws.

    A family with its parameters is a sampler, ``jax.tree_util.Partial(gaussian.sample,
    params=params)``. A function made anew at each call is a new compilation; what changes goes into
    a ``Partial``. Derivatives go through f and the draws, as far as these are differentiable:
    labels and bits are not.

    Args:
        f: ``f(x) -> array``, of any shape.
        sample: ``sample(key) -> x``, one draw.
        key: Draws them.
        samples: How many, at least 2. The standard error falls with their square root.

    Returns:
        The mean and its standard error, of the shape of f; the error is meaningless where f has no
        finite variance.

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
    return _expectation(as_partial(f), as_partial(sample), key, samples)


@partial(jax.jit, static_argnums=3)
def _expectation(f: Partial, sample: Partial, key, samples: int) -> Estimate:
    def one(key):
        y = jnp.asarray(f(sample(key)))
        return y.astype(_tree.wide(y.dtype))

    keys = jax.random.split(key, samples)
    return sample_mean(jax.lax.map(one, keys, batch_size=min(samples, _BLOCK)))
