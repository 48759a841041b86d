r"""A derivative as a product of powers and an exponential, so that its logarithm is exact.

:math:`\tanh'(100)` is 5e-87, which float32 rounds to 0, but its logarithm -198.6 is an ordinary
number. The factors stay outside the logarithm because they may be 0 and need a gradient there.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from funcdl._typing import Array

Numbers = Any  # a jax array, a NumPy array or a Python number, because operands may be constants


class Slope(NamedTuple):
    r"""A product :math:`\prod_i v_i^{k_i}\, e^{l}`.

    Attributes:
        factors: Pairs of a value and its integer power. Where a Boolean factor is False the product
            is 0 whatever the others are, since a branch that is not taken may be infinite or NaN.
        log: The exponent :math:`l`; None stands for 0.
    """

    factors: tuple = ()
    log: Numbers = None


ONE = Slope()


def of(*factors: Numbers, log: Numbers = None) -> Slope:
    """Build a slope from a logarithm and factors, each a value or a pair (value, power)."""
    pairs = tuple(f if isinstance(f, tuple) else (f, 1) for f in factors)
    return Slope(pairs, log)


def product(a: Slope, b: Slope) -> Slope:
    """Multiply two slopes."""
    logs = [x for x in (a.log, b.log) if x is not None]
    return Slope(a.factors + b.factors, sum(logs) if logs else None)


def inverted(slope: Slope) -> Slope:
    """Return the reciprocal of a slope."""
    factors = tuple((f, -k) for f, k in slope.factors)
    return Slope(factors, None if slope.log is None else -slope.log)


def linear(slope: Slope) -> tuple[Numbers, Numbers]:
    """Return ``(m, l)`` for the slope ``m * exp(l)``; m may be 0, and keeps its gradient."""
    value, log = 1.0, slope.log
    for factor, power in slope.factors:
        value = value if _is_mask(factor) else value * factor**power
    for mask in _masks(slope):
        value = jnp.where(mask, value, 0.0)
        log = None if log is None else jnp.where(mask, log, -jnp.inf)
    return value, log


def log_magnitude(slope: Slope) -> Array | float:
    """Return the logarithm of the magnitude of a slope; -inf where the slope is 0."""
    logs = [k * jnp.log(jnp.abs(f)) for f, k in slope.factors if not _is_mask(f)]
    logs += [] if slope.log is None else [slope.log]
    total = sum(logs) if logs else 0.0
    for mask in _masks(slope):
        total = jnp.where(mask, total, -jnp.inf)
    return total


def _is_mask(factor: Numbers) -> bool:
    return jnp.result_type(factor) == jnp.bool_


def _masks(slope: Slope) -> list:
    return [factor for factor, _ in slope.factors if _is_mask(factor)]
