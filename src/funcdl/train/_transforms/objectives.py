"""Functions from objective to objective: precision, memory, augmentation."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl._check import at_least, function
from funcdl._rematerialize import in_segments
from funcdl._typing import PyTree
from funcdl.nn import Model
from funcdl.train._objective import Objective, check_objective


def mixed_precision(pair: Objective | Model, dtype=jnp.bfloat16) -> Objective | Model:
    """Compute in a narrow dtype, keep parameters, gradients and state as they are.

    Parameters, and the floats of the batch, are cast on the way in, what comes out is cast back to
    float32: an optimizer sees float32 gradients of float32 parameters. State is not cast: running
    means would lose their updates. Of a ``Model`` only the network is narrow; loss, metrics and
    targets stay float32. ``bfloat16`` needs no scaling of the loss; the range of ``float16`` does.

    Args:
        pair: What is computed.
        dtype: The narrow dtype.

    Returns:
        A pair of the same kind.

    Raises:
        TypeError: If ``pair`` is neither, or ``dtype`` is not ``bfloat16`` or ``float32``.

    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: jnp.ones(()), lambda w, x: (w * x).mean())
    >>> loss, _ = mixed_precision(line).loss(jnp.float32(1.001), {}, jnp.ones(2))
    >>> loss.item(), loss.dtype
    (1.0, dtype('float32'))
    """
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.bfloat16, jnp.float32):
        raise TypeError(f"dtype is {dtype}; expected bfloat16, or float32: nothing scales the loss")
    narrow = lambda tree: _cast(tree, lambda x: dtype)
    restored = lambda tree: _cast(tree, lambda x: jnp.float32 if x.dtype == dtype else x.dtype)

    def wrap(call: Callable) -> Callable:
        def narrowed(params, state, data, key=None):
            out = call(narrow(params), state, narrow(data), key)
            if isinstance(pair, Model):
                y, new = out
                return restored(y), _typed_as(state, new)
            check_objective(out)
            loss, (new, metrics) = out
            return restored(loss), (_typed_as(state, new), restored(metrics))

        return narrowed

    return _mapped(pair, wrap)


def rematerialized(pair: Objective | Model, *, segments: int) -> Objective | Model:
    """Keep only what passes between segments of the computation; compute the rest again.

    The operations are cut into consecutive segments whose results take equal memory, whatever
    layers they belong to; of a loop (layers under ``lax.scan``, time steps) only what it carries is
    kept. The gradient computes each segment, and each step of a loop, once more: a third more
    time, for memory that falls with the square root of the depth. XLA on a CPU merges the second
    computation with the first unless it is in a loop: there only loops take less memory.

    Args:
        pair: What is differentiated later.
        segments: How many; about the square root of the number of layers, 1 for a loop of layers.

    Returns:
        A pair of the same kind; its numbers are the same.

    Raises:
        TypeError: If ``pair`` is neither, or ``segments`` is no integer.
        ValueError: If ``segments < 1``.

    Source: Chen et al., "Training deep nets with sublinear memory cost" (2016).

    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: jnp.ones(()), lambda w, x: jnp.sin(w * x).mean())
    >>> less = train.gradient(rematerialized(line, segments=2))
    >>> less(jnp.ones(()), {}, jnp.zeros(2), jax.random.key(0))[0].item()
    0.0
    """
    at_least("segments", segments, 1)
    return _mapped(pair, lambda call: in_segments(call, segments))


def augmented(objective: Objective, f: Callable) -> Objective:
    """Change the batches at random while training; evaluation sees them as they are.

    Args:
        objective: What is minimized.
        f: ``f(key, batch) -> batch``; ``jax.vmap`` over split keys changes each example alone.

    Returns:
        The objective.

    Raises:
        TypeError: If ``objective`` is none, or ``f`` no function.

    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: jnp.ones(()), lambda w, x: (w * x).mean())
    >>> flipped = augmented(line, lambda key, x: -x)
    >>> params, state = flipped.init(jax.random.key(0), jnp.ones(3))
    >>> flipped.loss(params, state, jnp.ones(3))[0].item()
    1.0
    >>> flipped.loss(params, state, jnp.ones(3), jax.random.key(1))[0].item()
    -1.0
    """
    function("f", f)
    if not isinstance(objective, Objective):
        raise TypeError(f"objective is a {type(objective).__name__}; expected a train.Objective")

    def init(key, batch):
        return objective.init(key, jax.eval_shape(f, jax.random.key(0), batch))

    def loss(params, state, batch, key=None):
        if key is None:
            return objective.loss(params, state, batch)
        key_batch, key = jax.random.split(key)
        return objective.loss(params, state, f(key_batch, batch), key)

    return Objective(init, loss)


def _mapped(pair: Objective | Model, wrap: Callable) -> Objective | Model:
    """Wrap what a pair computes: both take ``(params, state, data, key)``."""
    if isinstance(pair, Objective):
        return dataclasses.replace(pair, loss=wrap(pair.loss))
    if isinstance(pair, Model):
        return dataclasses.replace(pair, apply=wrap(pair.apply))
    raise TypeError(f"pair is a {type(pair).__name__}; expected a train.Objective or an nn.Model")


def _typed_as(old: PyTree, new: PyTree) -> PyTree:
    """Give floats of the new state the dtype that they had."""
    return jax.tree.map(lambda before, x: _cast(x, lambda _: before.dtype), old, new)


def _cast(tree: PyTree, dtype_of: Callable) -> PyTree:
    def cast(x):
        x = jnp.asarray(x)
        return x.astype(dtype_of(x)) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)
