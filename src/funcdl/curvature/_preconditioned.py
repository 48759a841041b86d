"""Curvature as a preconditioner of optax: measured now and then, averaged, inverted, applied."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from funcdl import _tree
from funcdl._check import at_least
from funcdl._typing import Array, PyTree
from funcdl.operators import LinearOperator


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Preconditioner:
    """A way to precondition, as a pair of pure functions.

    Attributes:
        measure: ``measure(params, batch, step) -> statistics``, a tree of float arrays; they are
            averaged over the steps.
        invert: ``invert(params, statistics) -> LinearOperator`` that gradients are multiplied
            with; of params only the form is read.
    """

    measure: Callable
    invert: Callable


class PreconditionedState(NamedTuple):
    """The state of ``preconditioned``.

    Attributes:
        step: How many gradients came.
        measured: How many measurements were made.
        statistics: Their exponential mean, not yet corrected for its start at 0.
        inverse: Made of the last mean.
    """

    step: Array
    measured: Array
    statistics: PyTree
    inverse: LinearOperator


def preconditioned(
    preconditioner: Preconditioner, batch: PyTree, *, every: int = 10, decay: float = 0.95
) -> optax.GradientTransformationExtraArgs:
    r"""Multiply gradients by the inverse of a curvature matrix, measured every so many steps.

    Chain it with what scales the step, ``optax.chain(preconditioned(...), kl_clip(0.1),
    optax.sgd(rate))``. It takes the batch of the step from the extra argument ``batch``, which
    ``train.program`` gives; wrappers of optax must pass extra arguments on, which
    ``MultiSteps(...).gradient_transformation()`` does not. A measurement that is not finite is
    left out.

    Args:
        preconditioner: ``kfac_preconditioner``, ``ggn_diagonal_preconditioner``,
            ``hutchinson_preconditioner``, or another of that form.
        batch: A batch of the form that will come; only shapes are read.
        every: Steps between two measurements, each with an inversion.
        decay: Of the exponential mean of the measurements; 0 keeps the last one alone.

    Returns:
        An optax transformation.

    Raises:
        TypeError: If ``every`` is no integer.
        ValueError: If ``every < 1`` or ``decay`` is not in [0, 1), or an update comes without
            ``batch``.

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
    measure, invert = preconditioner.measure, preconditioner.invert

    def init(params: PyTree) -> PreconditionedState:
        form = jax.eval_shape(measure, params, batch, jnp.int32(0))
        inverse = jax.eval_shape(invert, params, form)
        zero = jnp.int32(0)
        return PreconditionedState(zero, zero, _tree.zeros(form), _tree.zeros(inverse))

    def renew(state: PreconditionedState, params, batch) -> PreconditionedState:
        measured = state.measured + 1
        found = measure(params, batch, state.step)
        mean = _tree.add(_tree.scale(decay, state.statistics), _tree.scale(1 - decay, found))
        corrected = jax.tree.map(lambda x: x / _weight(decay, measured, x.dtype), mean)
        new = state._replace(measured=measured, statistics=mean, inverse=invert(params, corrected))
        sound = _tree.all_finite(found)  # one bad batch must not spoil the mean for ever
        return jax.tree.map(lambda x, old: jnp.where(sound, x, old), new, state)

    def update(gradients, state: PreconditionedState, params=None, *, batch=None, step=None, **_):
        if batch is None or params is None:
            missing = "batch" if batch is None else "params"
            raise ValueError(
                f"preconditioned.update got no {missing}; train.program gives it, by hand it is "
                "update(gradients, state, params, batch=batch)"
            )
        keep = lambda state, params, batch: state
        # the step of the run is one for all members of an ensemble, so that this stays a cond
        due = (state.step if step is None else step) % every == 0
        state = jax.lax.cond(due, renew, keep, state, params, batch)
        updates = state.inverse @ gradients
        updates = jax.tree.map(lambda u, g: u.astype(g.dtype), updates, gradients)
        return updates, state._replace(step=state.step + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def _weight(decay: float, measured: Array, dtype) -> Array:
    """Return what the weights of an exponential mean add up to, 1 - decayᵐ."""
    if decay == 0:
        return jnp.ones((), dtype)
    return -jnp.expm1(measured.astype(dtype) * jnp.asarray(math.log(decay), dtype))


def kl_clip(bound: float) -> optax.GradientTransformationExtraArgs:
    r"""Shorten preconditioned gradients whose step the quadratic model holds for too long.

    For a gradient g and :math:`u = A^{-1} g` it limits :math:`u^\top A\, u = u^\top g`, which for
    a Fisher matrix A is twice the divergence of the model from itself before the step. Place it
    after ``preconditioned`` and before the learning rate; it takes g from the extra argument
    ``grad``, which ``train.program`` gives.

    Args:
        bound: The largest :math:`u^\top g`, in units of the loss.

    Returns:
        An optax transformation.

    Raises:
        ValueError: If the bound is not positive, or an update comes without ``grad``.

    Source: Ba, Grosse and Martens, "Distributed second-order optimization using Kronecker-factored
    approximations", ICLR (2017).

    >>> clip, g, u = kl_clip(1.0), jnp.asarray([2.0, 0.0]), jnp.asarray([8.0, 5.0])
    >>> clip.update(u, clip.init(u), grad=g)[0].tolist()
    [2.0, 1.25]
    """
    if not bound > 0:
        raise ValueError(f"bound is {bound}; expected it to be positive")

    def update(updates, state, params=None, *, grad=None, **_):
        del params
        if grad is None:
            raise ValueError(
                "kl_clip.update got no grad; train.program gives it, by hand it is "
                "update(updates, state, grad=gradients)"
            )
        size = _tree.dot(updates, grad)
        tiny = jnp.finfo(size.dtype).tiny
        shorter = jnp.minimum(1, jnp.sqrt(bound / jnp.maximum(size, tiny)))
        return _tree.scale(shorter, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
