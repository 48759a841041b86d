"""Derivatives of a function of a matrix, judged by differences of numpy in float64."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from _ties import RNG, Row

WEIGHTS = RNG.normal(size=(5, 5))
DIRECTION = RNG.normal(size=25)


class Verdict(NamedTuple):
    """What came out at one matrix; ``error`` is relative, NaN as it is, None where undefined."""

    kind: str
    order: int
    error: float | None
    finite: bool


def judge(row: Row, shape: dict, f: Callable, dtype) -> list[Verdict]:
    """Differentiate twice at all matrices of a shape, in one compilation, and compare.

    Returns:
        Two verdicts a matrix.
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
    """Return the fixed weights of a value, so that the derivative is of one number."""
    if not shape:
        return np.ones(())
    return WEIGHTS[tuple(slice(n) for n in (*shape, 1)[:2])].reshape(shape)


def distance(got: np.ndarray, true: np.ndarray) -> float:
    """Measure a relative error; absolute below 1."""
    return np.abs(got - true).max() / max(np.abs(true).max(), 1)


def references(f: Callable, a: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Differentiate by differences in float64; None where there is no derivative to be found.

    That is where two step sizes disagree, or the slope along a direction is not linear in it.
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
    """Take central differences of fourth order along every coordinate."""
    rows = []
    for e in np.eye(x.size):
        near, far = f(x + h * e) - f(x - h * e), f(x + 2 * h * e) - f(x - 2 * h * e)
        rows.append((8 * near - far) / (12 * h))
    return np.asarray(rows)


TOLERANCE = {"float32": (1e-3, 2e-2), "float64": (1e-5, 1e-3)}
