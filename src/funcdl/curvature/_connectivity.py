"""Curves of low loss between two solutions."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from funcdl import _batching, _mean, _tree
from funcdl._check import array, at_least, check_key, record
from funcdl._closure import hoisted
from funcdl._typing import Array, ArrayLike, Key, LossFunction, PyTree
from funcdl.curvature._mean_operator import check_function, check_scalar, weighted


class Connection(NamedTuple):
    """The loss between two solutions.

    Attributes:
        bend: The control point of the curve, a tree like the parameters; pass it to ``bezier``.
        grid: ``(g,)``, positions from 0 to 1.
        curve: ``(g,)``, the loss along the curve.
        line: ``(g,)``, the loss along the straight line.
    """

    bend: PyTree
    grid: Array
    curve: Array
    line: Array


def mode_connectivity(
    loss: LossFunction,
    ends: tuple[PyTree, PyTree],
    data: PyTree = None,
    *,
    key: Key[Array, ""],
    steps: int,
    optimizer: optax.GradientTransformation,
) -> Connection:
    r"""Bend the line between two solutions until the loss along it is low.

    The curve is :math:`\gamma(t) = (1-t)^2 \theta_0 + 2 t (1-t)\, \beta + t^2 \theta_1`; the bend β
    starts in the middle and minimizes :math:`E_{t \sim U(0, 1)}\, \ell(\gamma(t))` by stochastic
    gradients, in a single loop on the device.

    Args:
        loss: ``loss(params, batch)``, or ``loss(params)`` without data: a scalar mean over the
            examples, or ``Mean(total, weight)``.
        ends: Two trees of float arrays with the same structure, :math:`\theta_0` and
            :math:`\theta_1`.
        data: One batch, used in every step; or ``Batches``, of which step i uses ``data.at(i)``.
            The losses returned are means over all examples.
        key: The random key for the positions t.
        steps: The number of steps.
        optimizer: An optax transformation; each new one causes a new compilation.

    Returns:
        The curve and the loss along it; ``loss_barrier`` measures how far it rises.

    Raises:
        ValueError: If the ends differ in structure, the loss is not scalar, or ``steps < 1``.
        TypeError: If a parameter is not a float array, or the key is not typed.

    Source: Garipov, Izmailov, Podoprikhin, Vetrov and Wilson, "Loss surfaces, mode connectivity,
    and fast ensembling of DNNs", NeurIPS (2018).

    >>> ring = lambda x: (jnp.linalg.norm(x) - 1) ** 2  # the ends lie on opposite sides of it
    >>> ends = jnp.asarray([1.0, 0.1]), jnp.asarray([-1.0, 0.1])
    >>> options = {"key": jax.random.key(0), "steps": 200, "optimizer": optax.adam(0.1)}
    >>> connection = mode_connectivity(ring, ends, **options)
    >>> bool(loss_barrier(connection.line) > 0.8), bool(loss_barrier(connection.curve) < 0.1)
    (True, True)
    """
    check_function(loss, "loss", "params, batch")
    check_key(key)
    record("optimizer", optimizer, optax.GradientTransformation, "such as optax.adam(1e-2)")
    start, end = _checked_ends(ends)
    _tree.check_floating(start, "ends[0]")
    _tree.check_like(end, start, "ends[1]", "ends[0]")
    at_least("steps", steps, 1)
    examples = [(start,)] if data is None else [(start, form) for form in _batching.forms(data)]
    loss = hoisted(loss, *examples)
    check_scalar(jax.eval_shape(loss, *examples[0]))
    return _connect(optimizer, steps, loss, (start, end), data, key)


def _checked_ends(ends: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
    if not isinstance(ends, (tuple, list)) or len(ends) != 2:
        raise TypeError(f"ends is a {type(ends).__name__}; expected a pair of trees (start, end)")
    return ends[0], ends[1]


def bezier(ends: tuple[PyTree, PyTree], bend: PyTree, t: ArrayLike) -> PyTree:
    """Return a point of a quadratic Bézier curve.

    Args:
        ends: The start and the end of the curve.
        bend: The control point.
        t: The position, from 0 to 1.

    Returns:
        A tree like the ends.

    >>> bezier((jnp.zeros(()), jnp.ones(())), jnp.ones(()), 0.5).item()
    0.75
    """
    ends = _checked_ends(ends)
    weights = (1 - t) ** 2, 2 * t * (1 - t), t**2
    point = lambda a, b, c: (weights[0] * a + weights[1] * b + weights[2] * c).astype(a.dtype)
    return jax.tree.map(point, ends[0], bend, ends[1])


def loss_barrier(losses: Array) -> Array:
    """Measure how far the loss on a path rises above the line between the losses at its ends.

    Args:
        losses: ``(g,)`` losses at equal distances, including both ends.

    Returns:
        The largest rise, at least 0.

    Raises:
        ValueError: If ``losses`` is not a vector.

    Source: Entezari, Sedghi, Saukh and Neyshabur, "The role of permutation invariance in linear
    mode connectivity of neural networks", ICLR (2022).

    >>> loss_barrier(jnp.asarray([0.0, 3.0, 2.0])).item()
    2.0
    """
    array("losses", losses)
    if losses.ndim != 1:
        raise ValueError(f"losses has shape {losses.shape}; expected (g,), use jax.vmap for more")
    return (losses - jnp.linspace(losses[0], losses[-1], len(losses))).max()


# Only the bend is trained. It starts in the middle, where the curve is the line itself, so every
# improvement over the line is the optimizer's. Each step draws one position t, a function of key
# and step alone: its gradient is an unbiased estimate of that of the mean loss over t in U(0, 1),
# the tractable objective of Garipov et al. (2018), instead of the mean over the length of the
# curve. Steps are a scan, and the losses on the grid are mapped one point at a time, so memory is
# that of a few parameters for any number of steps and points.
@partial(jax.jit, static_argnums=(0, 1))
def _connect(
    optimizer: optax.GradientTransformation,
    steps: int,
    loss: Partial,
    ends: tuple[PyTree, PyTree],
    data: PyTree,
    key: Key[Array, ""],
) -> Connection:
    middle = bezier(ends, _tree.scale(0.5, _tree.add(*ends)), 0.5)

    def batch(step) -> tuple:
        if data is None:
            return ()
        return (data.at(step) if _batching.is_many(data) else data,)

    def bent(bend, t, step):
        return _mean.value(loss(bezier(ends, bend, t), *batch(step)))

    def advance(carry, step):
        bend, state = carry
        t = jax.random.uniform(jax.random.fold_in(key, step))
        gradient = jax.grad(bent)(bend, t, step)
        updates, state = optimizer.update(gradient, state, bend)
        return (optax.apply_updates(bend, updates), state), None

    (bend, _), _ = jax.lax.scan(advance, (middle, optimizer.init(middle)), jnp.arange(steps))

    def mean_loss(point):
        one = lambda *batch: weighted(loss, *batch)(point)
        total, weight = one() if data is None else _batching.total(one, data)
        return total / weight

    grid = jnp.linspace(0, 1, 21)
    curve = jax.lax.map(lambda t: mean_loss(bezier(ends, bend, t)), grid)
    straight = lambda t: _tree.add(_tree.scale(1 - t, ends[0]), _tree.scale(t, ends[1]))
    line = jax.lax.map(lambda t: mean_loss(straight(t)), grid)
    return Connection(bend=bend, grid=grid, curve=curve, line=line)
