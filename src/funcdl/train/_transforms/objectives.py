"""Transforms of objectives: precision, memory and augmentation."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from funcdl._check import at_least, function
from funcdl._rematerialize import in_segments
from funcdl._typing import Array, PyTree
from funcdl.nn import Model
from funcdl.train._objective import Objective, check_objective

Pair = TypeVar("Pair", Objective, Model)


def mixed_precision(pair: Pair, dtype: DTypeLike = jnp.bfloat16) -> Pair:
    """Compute in a narrow dtype and keep the dtypes of parameters, gradients and state.

    The parameters and the floats of the batch are cast to the narrow dtype, and the results are
    cast back to float32, so an optimizer sees float32 gradients of float32 parameters. The state is
    not cast, because running means would lose their updates. For a ``Model``, only the network is
    narrow; loss, metrics and targets stay float32. ``bfloat16`` needs no loss scaling; the smaller
    range of ``float16`` would need it.

    Args:
        pair: The objective or the model to compute in the narrow dtype.
        dtype: The narrow dtype, ``bfloat16`` (or ``float32``).

    Returns:
        A pair of the same kind.

    Raises:
        TypeError: If ``pair`` is not an ``Objective`` or a ``Model``, or ``dtype`` is not
            ``bfloat16`` or ``float32``.

    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: jnp.ones(()), lambda w, x: (w * x).mean())
    >>> loss, _ = mixed_precision(line).loss(jnp.float32(1.001), {}, jnp.ones(2))
    >>> loss.item(), loss.dtype
    (1.0, dtype('float32'))
    """
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.bfloat16, jnp.float32):
        raise TypeError(
            f"dtype is {dtype}; expected bfloat16 or float32, since the loss is not scaled"
        )
    narrow = lambda tree: _cast(tree, lambda x: dtype)
    widened = lambda tree: _cast(tree, lambda x: jnp.float32 if x.dtype == dtype else x.dtype)

    def wrap(call: Callable) -> Callable:
        def narrowed(params, state, data, key=None):
            result = call(narrow(params), state, narrow(data), key)
            if isinstance(pair, Model):
                y, new = result
                return widened(y), _typed_as(state, new)
            check_objective(result)
            loss, (new, metrics) = result
            return widened(loss), (_typed_as(state, new), widened(metrics))

        return narrowed

    return _mapped(pair, wrap)


def rematerialized(pair: Pair, *, segments: int) -> Pair:
    """Store only the values that pass between segments, and recompute the others (checkpointing).

    The operations are cut into consecutive segments whose results take equal memory, regardless of
    layers. For a loop (layers under ``lax.scan``, time steps), only the carry is stored. The
    gradient recomputes each segment, and each step of a loop, once: this takes a third more time,
    and the memory falls with the square root of the depth. XLA on a CPU merges the second
    computation with the first unless it is in a loop, so on a CPU only loops take less memory.

    Args:
        pair: The objective or the model that will be differentiated.
        segments: The number of segments: about the square root of the number of layers, or 1 for a
            loop over layers.

    Returns:
        A pair of the same kind, which computes the same numbers.

    Raises:
        TypeError: If ``pair`` is not an ``Objective`` or a ``Model``, or ``segments`` is not an
            integer.
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


def augmented(objective: Objective, f: Callable[..., PyTree]) -> Objective:
    """Transform the batches at random in training; evaluation sees them unchanged.

    Args:
        objective: The objective.
        f: A function ``f(key, batch) -> batch``; use ``jax.vmap`` over split keys to transform each
            example on its own.

    Returns:
        The objective with augmentation.

    Raises:
        TypeError: If ``objective`` is not an ``Objective``, or ``f`` is not callable.

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


def _mapped(pair: Pair, wrap: Callable[[Callable], Callable]) -> Pair:
    """Wrap the second function of a pair, which takes ``(params, state, data, key)``."""
    if isinstance(pair, Objective):
        return dataclasses.replace(pair, loss=wrap(pair.loss))
    if isinstance(pair, Model):
        return dataclasses.replace(pair, apply=wrap(pair.apply))
    raise TypeError(f"pair is a {type(pair).__name__}; expected a train.Objective or an nn.Model")


def _typed_as(old: PyTree, new: PyTree) -> PyTree:
    """Cast the floats of the new state to the dtypes of the old one."""
    return jax.tree.map(lambda before, x: _cast(x, lambda _: before.dtype), old, new)


def _cast(tree: PyTree, dtype_of: Callable[[Array], DTypeLike]) -> PyTree:
    def cast(x):
        x = jnp.asarray(x)
        return x.astype(dtype_of(x)) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)
