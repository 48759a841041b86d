"""Curvature as an optax preconditioner: measured every few steps, averaged, inverted, applied."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from funcdl import _tree
from funcdl._check import at_least, record
from funcdl._typing import Array, DTypeLike, PyTree
from funcdl.operators import LinearOperator


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Preconditioner:
    """A preconditioner, as a pair of pure functions.

    Attributes:
        measure: ``measure(params, batch, step) -> statistics``, a tree of float arrays, which are
            averaged over the steps.
        invert: ``invert(params, statistics) -> LinearOperator``, the operator that multiplies the
            gradients; only the structure of params is read.
    """

    measure: Callable
    invert: Callable


class PreconditionedState(NamedTuple):
    """The state of ``preconditioned``.

    Attributes:
        step: The number of gradients so far.
        measured: The number of measurements so far.
        statistics: The exponential mean of the measurements, before the correction for its start
            at 0.
        inverse: The operator from the last mean.
    """

    step: Array
    measured: Array
    statistics: PyTree
    inverse: LinearOperator


# The mean of the measurements starts at 0 and is divided by the sum of its weights, as in Adam,
# but over measurements, not over steps. The inverse is a part of the state, so that a step between
# two measurements costs one product with it; measuring and inverting happen under cond. The first
# step is due, so the operator of zeros from init is replaced before it is used; if that
# measurement is not finite, the update is 0. Optimizer and damping are left to the chain and to
# the preconditioner. Source: Martens and Grosse (2015), for the mean and the intervals.
def preconditioned(
    preconditioner: Preconditioner, batch: PyTree, *, every: int = 10, decay: float = 0.95
) -> optax.GradientTransformationExtraArgs:
    r"""Multiply gradients by the inverse of a curvature matrix, measured at regular intervals.

    Chain it with the transformations that scale the step, ``optax.chain(preconditioned(...),
    kl_clip(0.1), optax.sgd(rate))``. It takes the batch of the step from the extra argument
    ``batch``, which ``train.program`` passes; wrappers of optax must pass extra arguments on, which
    ``MultiSteps(...).gradient_transformation()`` does not. A measurement that is not finite is
    left out.

    Args:
        preconditioner: ``kfac_preconditioner``, ``ggn_diagonal_preconditioner``,
            ``hutchinson_preconditioner``, or another ``Preconditioner``.
        batch: A batch with the structure of all later ones; only shapes are read.
        every: The number of steps between two measurements, each of which costs an inversion.
        decay: The decay of the exponential mean of the measurements; 0 keeps only the last one.

    Returns:
        An optax transformation.

    Raises:
        TypeError: If ``every`` is not an integer.
        ValueError: If ``every < 1`` or ``decay`` is not in [0, 1), or if ``update`` is called
            without ``batch``.

    Source: Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate
    curvature", ICML (2015).

    >>> from funcdl import curvature
    >>> f = lambda w, batch: batch[0] @ w
    >>> loss = lambda z, batch: 0.5 * ((z - batch[1]) ** 2).sum(axis=1).mean()
    >>> batch = jnp.asarray([[1.0, 0.0], [0.0, 3.0]]), jnp.asarray([[1.0], [6.0]])
    >>> newton = preconditioned(curvature.kfac_preconditioner(f, loss, damping=0.0), batch)
    >>> w = jnp.zeros((2, 1))
    >>> g = jax.grad(lambda w: loss(f(w, batch), batch))(w)
    >>> update, _ = newton.update(g, newton.init(w), w, batch=batch)  # one step to the minimum
    >>> update.round(4).tolist()
    [[-1.0], [-2.0]]
    """
    at_least("every", every, 1, "step")
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}; expected 0 <= decay < 1")
    source = "such as curvature.kfac_preconditioner(f, loss, damping=1e-3)"
    record("preconditioner", preconditioner, Preconditioner, source)
    measure, invert = preconditioner.measure, preconditioner.invert

    def init(params: PyTree) -> Any:
        form = jax.eval_shape(measure, params, batch, jnp.int32(0))
        inverse = jax.eval_shape(invert, params, form)
        zero = jnp.int32(0)
        return PreconditionedState(zero, zero, _tree.zeros(form), _tree.zeros(inverse))

    def renew(state: PreconditionedState, params, batch) -> PreconditionedState:
        measured = state.measured + 1
        statistics = measure(params, batch, state.step)
        mean = _tree.add(_tree.scale(decay, state.statistics), _tree.scale(1 - decay, statistics))
        corrected = jax.tree.map(lambda x: x / _weight(decay, measured, x.dtype), mean)
        new = state._replace(measured=measured, statistics=mean, inverse=invert(params, corrected))
        is_finite = _tree.all_finite(statistics)  # one bad batch would spoil the mean forever
        return jax.tree.map(lambda x, old: jnp.where(is_finite, x, old), new, state)

    def update(updates, state: Any, params=None, *, batch=None, step=None, **_) -> Any:
        if batch is None or params is None:
            missing = "batch" if batch is None else "params"
            raise ValueError(
                f"preconditioned.update got no {missing}; train.program passes it, and in a direct "
                "call it is required: update(gradients, state, params, batch=batch)"
            )
        keep = lambda state, params, batch: state
        # `step` of the run is shared by all members of an ensemble, so that this stays a cond
        due = (state.step if step is None else step) % every == 0
        state = jax.lax.cond(due, renew, keep, state, params, batch)
        direction = jax.tree.map(lambda u, g: u.astype(g.dtype), state.inverse @ updates, updates)
        return direction, state._replace(step=state.step + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def _weight(decay: float, measured: Array, dtype: DTypeLike) -> Array:
    """Return the sum of the weights of an exponential mean, 1 - decayᵐ."""
    if decay == 0:
        return jnp.ones((), dtype)
    return -jnp.expm1(measured.astype(dtype) * jnp.asarray(math.log(decay), dtype))


def kl_clip(bound: float) -> optax.GradientTransformationExtraArgs:
    r"""Shorten preconditioned gradients whose step is too long by the quadratic model.

    For a gradient g and :math:`u = A^{-1} g` it limits :math:`u^\top A\, u = u^\top g`, which for
    a Fisher matrix A is twice the divergence of the model from itself before the step. Place it
    after ``preconditioned`` and before the learning rate; it takes g from the extra argument
    ``grad``, which ``train.program`` passes.

    Args:
        bound: The largest :math:`u^\top g`, in units of the loss.

    Returns:
        An optax transformation.

    Raises:
        ValueError: If the bound is not positive, or if ``update`` is called without ``grad``.

    Source: Ba, Grosse and Martens, "Distributed second-order optimization using Kronecker-factored
    approximations", ICLR (2017).

    >>> clip, g, u = kl_clip(1.0), jnp.asarray([2.0, 0.0]), jnp.asarray([8.0, 5.0])
    >>> clip.update(u, clip.init(u), grad=g)[0].tolist()
    [2.0, 1.25]
    """
    if not bound > 0:
        raise ValueError(f"bound is {bound}; expected a positive number")

    def update(updates, state, params=None, *, grad=None, **_):
        del params
        if grad is None:
            raise ValueError(
                "kl_clip.update got no grad; train.program passes it, and in a direct call it is "
                "required: update(updates, state, grad=gradients)"
            )
        size = _tree.dot(updates, grad)
        tiny = jnp.finfo(size.dtype).tiny
        shorter = jnp.minimum(1, jnp.sqrt(bound / jnp.maximum(size, tiny)))
        return _tree.scale(shorter, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
