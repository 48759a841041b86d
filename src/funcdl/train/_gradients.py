"""Gradients of objectives: over the batch at once, in microbatches, or clipped per example."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl import _batching, _mean, _tree
from funcdl._check import at_least, not_negative
from funcdl._typing import Array, PyTree
from funcdl.per_example import clipped_grad
from funcdl.train._objective import Objective, check_objective

Gradients = Callable[..., tuple]  # (params, state, batch, key) -> (grads, loss, (state, metrics))
GradientTransform = Callable[[Objective], Gradients]


def gradient(objective: Objective) -> Gradients:
    """Differentiate an objective with respect to its parameters.

    Args:
        objective: The objective.

    Returns:
        A function ``(params, state, batch, key) -> (grads, loss, (state, metrics))``. The gradients
        are those of the mean, also where the objective returns a ``Mean``; the loss and the metrics
        are returned in the objective's own form.
    """

    def mean_loss(params, state, batch, key):
        result = objective.loss(params, state, batch, key)
        check_objective(result)
        return _mean.value(result[0]), result

    def gradients(params, state, batch, key):
        grads, (loss, aux) = jax.grad(mean_loss, has_aux=True)(params, state, batch, key)
        return grads, loss, aux

    return gradients


def accumulated(k: int) -> GradientTransform:
    r"""Differentiate in k microbatches, one after the other, in the memory of one.

    .. math:: \nabla \frac{\sum_j T_j}{\sum_j W_j} = \frac{\sum_j \nabla T_j}{\sum_j W_j}

    Totals and weights are summed, so masked tokens and a microbatch of weight 0 count as they do in
    the whole batch. Microbatch j consists of every k-th example starting from j. It has its own key
    and receives the state that the previous microbatch left, so batch statistics are those of
    microbatches. The weights must not depend on the parameters. The optimizer and its schedules
    count steps, not microbatches.

    Args:
        k: The number of microbatches.

    Returns:
        The function ``gradient(objective)`` for ``train.program``.

    Raises:
        TypeError: If k is not an integer.
        ValueError: If ``k < 1``; during tracing, if k does not divide the batch.

    >>> import optax
    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: jnp.zeros(()), lambda w, x: jnp.mean((w - x) ** 2))
    >>> program = train.program(line, optax.sgd(0.25), accumulated(2))
    >>> run = program.init(jax.random.key(0), jnp.ones(4))
    >>> program.step(run, jnp.asarray([1.0, 2.0, 3.0, 6.0]))[0].params.item()
    1.5
    """
    at_least("k", k, 1, "microbatch")

    # The carry of the scan is (state, sums): the model's state moves from one microbatch to the
    # next, and ``sums`` holds the summed gradients of the totals and the summed means, so that one
    # division by the total weight at the end gives the gradient of the whole batch's mean. (The
    # mean of the microbatches' means would weight a short or masked microbatch too much.) The sums
    # are kept in at least float32: in bfloat16 the later terms would be rounded away.
    def gradient(objective: Objective) -> Gradients:
        def total(params, state, batch, key):
            result = objective.loss(params, state, batch, key)
            check_objective(result)
            loss, (state, metrics) = result
            means = {n: _mean.weighted(x, batch) for n, x in {"loss": loss, **metrics}.items()}
            return means["loss"].total, (state, means)

        def gradients(params, state, batch, key):
            parts = _microbatches(batch, k)

            def add(carry, j):
                state, sums = carry
                part = _part(parts, j)
                grads, (state, means) = jax.grad(total, has_aux=True)(
                    params, state, part, jax.random.fold_in(key, j)
                )
                return (state, _tree.add(sums, (grads, means))), None

            wide = jax.tree.map(
                lambda p: jax.ShapeDtypeStruct(p.shape, _tree.wide(p.dtype)), params
            )
            means = jax.eval_shape(lambda: total(params, state, _part(parts, 0), key)[1][1])
            start = state, _tree.zeros((wide, means))
            (state, (sums, means)), _ = jax.lax.scan(add, start, jnp.arange(k))
            weight = means["loss"].weight
            grads = jax.tree.map(lambda total, p: (total / weight).astype(p.dtype), sums, params)
            return grads, means["loss"], (state, {n: x for n, x in means.items() if n != "loss"})

        return gradients

    return gradient


def clipped_per_example(bound: float, noise: float = 0.0) -> GradientTransform:
    r"""Differentiate with per-example clipping and Gaussian noise (DP-SGD).

    .. math:: \Big(\sum_i g_i \min(1, c / \|g_i\|) + \sigma c\, z\Big) \Big/ b, \quad
        z \sim \mathcal N(0, I)

    Every example is a batch of one with its own key. The norms come from one backward pass, so the
    gradient of a single example is never stored. To sum up the privacy spent, use an accountant of
    your choice: the noise multiplier is ``noise``, and the sampling rate is the batch's share of
    the data. The loss and the metrics that a step reports are not private.

    Args:
        bound: c, the largest norm of the gradient of an example; positive.
        noise: σ, the noise in units of the bound.

    Returns:
        The function ``gradient(objective)`` for ``train.program``. Tracing it raises ``ValueError``
        for an objective with state, since batch norm mixes the examples.

    Raises:
        ValueError: If the bound is not positive and finite, or the noise is negative.

    Source: Abadi et al., "Deep learning with differential privacy", CCS (2016).

    >>> import optax
    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: jnp.zeros(()), lambda w, x: jnp.mean((w - x) ** 2))
    >>> program = train.program(line, optax.sgd(1.0), clipped_per_example(1.0))
    >>> run = program.init(jax.random.key(0), jnp.ones(2))
    >>> program.step(run, jnp.asarray([0.25, 9.0]))[0].params.item()
    0.75
    """
    not_negative("noise", noise)
    if not 0 < bound < float("inf"):
        raise ValueError(f"bound is {bound}; expected a positive and finite norm")

    # Clipping needs the norm of each example's gradient before the gradients are summed.
    # per_example.clipped_grad computes both the norms and the weighted sum from the factors of one
    # backward pass, so vmap(grad), which stores b gradients, is not needed. It needs a loss in
    # which each example has its own term and its own key: ``mean`` below. The noise is divided by
    # the summed weight, as the sum of the clipped gradients is.
    def gradient(objective: Objective) -> Gradients:
        def gradients(params, state, batch, key):
            if jax.tree.leaves(state):
                raise ValueError(
                    f"the objective has state {_tree.paths(state)}, in which examples mix; "
                    "clipped_per_example needs an objective without state: use layer norm in place "
                    "of batch norm"
                )
            key_examples, key_noise = jax.random.split(key)
            keys = jax.random.split(key_examples, _batching.examples(batch))

            def mean(params, pair):
                total, weight = _of_each(objective, params, state, *pair)["loss"]
                return _mean.Mean(total.sum(), weight.sum())

            grads = clipped_grad(mean, bound)(params, (batch, keys))
            each = _of_each(objective, params, state, batch, keys)
            sums = jax.tree.map(lambda x: x.sum(axis=0), each)
            if noise:
                draws = _tree.random(key_noise, grads, jax.random.normal)
                grads = _tree.axpy(noise * bound / sums["loss"].weight, draws, grads)
            return grads, sums["loss"], (state, {n: x for n, x in sums.items() if n != "loss"})

        return gradients

    return gradient


def _of_each(
    objective: Objective, params: PyTree, state: PyTree, batch: PyTree, keys: Array
) -> dict:
    """Measure the loss and the metrics of every example as a batch of one with its own key."""

    def one(key, example):
        result = objective.loss(params, state, example, key)
        check_objective(result)
        loss, (_, metrics) = result
        return {n: _mean.weighted(x, example) for n, x in {"loss": loss, **metrics}.items()}

    return _batching.one_by_one(lambda pair: one(pair[0][0], pair[1]), (keys, batch))


def _microbatches(batch: PyTree, k: int) -> PyTree:
    """Reshape the examples to ``(b / k, k, ...)``; each device keeps its own rows."""
    b = _batching.examples(batch)
    if b % k:
        raise ValueError(
            f"the batch has {b} examples, which k = {k} microbatches do not divide; choose a "
            "divisor of the batch size"
        )
    split = lambda x: x.reshape(b // k, k, *x.shape[1:]) if x.ndim else x
    return jax.tree.map(lambda x: split(jnp.asarray(x)), batch)


def _part(parts: PyTree, j: Array | int) -> PyTree:
    return jax.tree.map(lambda x: x[:, j] if x.ndim else x, parts)
