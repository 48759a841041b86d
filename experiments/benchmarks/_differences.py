"""Derivatives of matrix functions, compared with differences of NumPy in float64."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from _ties import RNG, Row

WEIGHTS = RNG.normal(size=(5, 5))
DIRECTION = RNG.normal(size=25)


class Verdict(NamedTuple):
    """The result at one matrix; ``error`` is relative, and None where no derivative exists."""

    kind: str
    order: int
    error: float | None
    finite: bool


def judge(row: Row, shape: dict, f: Callable, dtype) -> list[Verdict]:
    """Differentiate twice at all matrices of a shape, in one compilation, and compare.

    Returns:
        Two verdicts per matrix.
    """
    import jax
    import jax.numpy as jnp

    def scalar(a):
        y = f(a)
        return jnp.sum(jnp.asarray(weights(y.shape), a.dtype) * y)

    points = [(kind, a) for kind, matrices in shape.items() for a in matrices]

    def slope(a):
        return (jax.grad(scalar)(a),) * 2

    both = jax.jit(jax.vmap(jax.jacfwd(slope, has_aux=True)))
    stacked = jnp.asarray(np.stack([a for _, a in points]), dtype)
    hessian, gradient = both(stacked)
    results = [np.asarray(x, float).reshape(len(points), -1) for x in (gradient, hessian)]
    verdicts = []
    for i, (kind, a) in enumerate(points):
        for order, (got, true) in enumerate(zip(results, references(row.reference, a)), 1):
            finite = bool(np.isfinite(got[i]).all())
            error = None if true is None else float(distance(got[i], true))
            verdicts.append(Verdict(kind, order, error, finite))
    return verdicts


def weights(shape: tuple[int, ...]) -> np.ndarray:
    """Return fixed weights that turn a value into one number to differentiate."""
    if not shape:
        return np.ones(())
    return WEIGHTS[tuple(slice(n) for n in (*shape, 1)[:2])].reshape(shape)


def distance(got: np.ndarray, true: np.ndarray) -> float:
    """Return the relative error, or the absolute error if the true norm is below 1."""
    return np.abs(got - true).max() / max(np.abs(true).max(), 1)


def references(f: Callable, a: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Differentiate by differences in float64, or return None where no derivative exists.

    A derivative is taken not to exist if two step sizes disagree, or if the slope along a direction
    is not linear in the direction.
    """
    x, direction = a.ravel(), DIRECTION[: a.size]

    def scalar(x):
        y = f(x.reshape(a.shape))
        return np.sum(weights(np.shape(y)) * y)

    def slope(x, h=1e-3):
        return differences(scalar, x, h)

    with np.errstate(all="ignore"):
        first = slope(x)
        along = [(scalar(x + h * direction) - scalar(x)) / h for h in (1e-6, -1e-6)]
        smooth = max(distance(np.asarray(one), first @ direction) for one in along) < 1e-3
        smooth = smooth and distance(slope(x, 2e-3), first) < 1e-6
        second = [differences(partial(slope, h=h), x, h) for h in (2e-3, 4e-3)]
        twice = smooth and distance(second[1], second[0]) < 1e-4
    return first if smooth else None, second[0].ravel() if twice else None


def differences(f: Callable, x: np.ndarray, h: float) -> np.ndarray:
    """Compute fourth-order central differences along every coordinate."""
    rows = []
    for e in np.eye(x.size):
        near, far = f(x + h * e) - f(x - h * e), f(x + 2 * h * e) - f(x - 2 * h * e)
        rows.append((8 * near - far) / (12 * h))
    return np.asarray(rows)


TOLERANCE = {"float32": (1e-3, 2e-2), "float64": (1e-5, 1e-3)}
