"""Continuous flows whose steps diffrax chooses (extra ``ode``)."""

import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcdl._check import not_negative
from funcdl.flows._ode import check_times, point, with_trace


def flow_ode_adaptive(
    velocity: Callable, *, tol: float = 1e-5, t0: float | int = 0.0, t1: float | int = 1.0
) -> Callable:
    r"""Follow a velocity with steps as long as a tolerance allows, by diffrax's Tsit5.

    As ``flow_ode``, whose cost is known beforehand and which is differentiable in both modes.
    Gradients here are those of the steps taken, from diffrax's recursive checkpoints, in reverse
    mode only.

    Args:
        velocity: ``velocity(t, x, *args)``, like ``x``.
        tol: Error of a step, relative and absolute.
        t0: Where it starts.
        t1: Where it ends.

    Returns:
        ``f(x, *args)`` of one point, an array of floats; NaN where 4096 steps do not suffice.

    Raises:
        ImportError: Without ``diffrax``.
        TypeError: If ``velocity`` is no function.
        ValueError: If ``t0`` or ``t1`` is not finite, or ``tol`` negative.

    Source: Kidger, "On neural differential equations" (2021).
    """
    follow = _follow(velocity, tol, t0, t1)

    def f(x, *args):
        x = point(velocity, x, args)
        return follow(lambda t, x: velocity(t, x, *args), x)

    return f


def flow_ode_log_det_adaptive(
    velocity: Callable, *, tol: float = 1e-5, t0: float | int = 0.0, t1: float | int = 1.0
) -> Callable:
    r"""Follow a velocity as ``flow_ode_adaptive``, and integrate the exact trace of its Jacobian.

    Args:
        velocity: As of ``flow_ode_adaptive``.
        tol: Error of a step, relative and absolute, of the point and of the log-determinant.
        t0: Where it starts.
        t1: Where it ends.

    Returns:
        ``g(x, *args) -> (z, log_det)``.

    Raises:
        ImportError: Without ``diffrax``.
        TypeError: If ``velocity`` is no function.
        ValueError: If ``t0`` or ``t1`` is not finite, or ``tol`` negative.

    Source: Chen et al., "Neural ordinary differential equations" (2018), theorem 1.
    """
    follow = _follow(velocity, tol, t0, t1)

    def g(x, *args):
        x = point(velocity, x, args)
        return follow(with_trace(velocity, x, args), (x, jnp.zeros((), x.dtype)))

    return g


def _follow(velocity, tol, t0, t1) -> Callable:
    """Return ``follow(velocity, state)`` from ``t0`` to ``t1``."""
    check_times(velocity, t0, t1)
    not_negative("tol", tol)
    diffrax = _diffrax()

    def follow(velocity, state):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, state, _: velocity(t, state)),
            diffrax.Tsit5(),
            t0,
            t1,
            dt0=None,
            y0=state,
            stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol),
            throw=False,
        )
        sound = jnp.where(solution.result == diffrax.RESULTS.successful, 1, jnp.nan)
        return jax.tree.map(lambda a: a[-1] * sound.astype(a.dtype), solution.ys)

    return follow


def _diffrax():
    try:
        return importlib.import_module("diffrax")
    except ImportError as error:
        raise ImportError(
            "steps by tolerance need diffrax: pip install 'funcdl[ode]'. If it is installed, it "
            f"does not support jax {jax.__version__}: {error}"
        ) from error
