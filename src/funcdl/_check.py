"""Checks of single arguments that every room makes."""

import operator

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._typing import Array

_KINDS = {0: "a scalar", 1: "a vector", 2: "a matrix"}


def check_key(key) -> None:
    """Refuse what is no typed key.

    Raises:
        TypeError: Names ``jax.random.key``.
    """
    if not (hasattr(key, "dtype") and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)):
        kind = f"dtype {key.dtype}" if hasattr(key, "dtype") else f"{key!r}"
        raise TypeError(f"key has {kind}; expected a typed key, from jax.random.key(seed)")


def integer(name: str, value) -> int:
    """Return an integer of any kind as one of Python's; a boolean is none.

    Args:
        name: How the message calls it.
        value: What was given.

    Returns:
        The integer.

    Raises:
        TypeError: If it is none.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; expected an integer")
    return number


def integer_in(name: str, value, low: int, high: int) -> int:
    """Return an integer within bounds, both included.

    Args:
        name: How the message calls it.
        value: What was given.
        low: The smallest allowed.
        high: The largest allowed; the message says what it is made of, as ``name`` does.

    Returns:
        The integer.

    Raises:
        TypeError: If it is none.
        ValueError: If it is out of bounds.
    """
    number = integer(name, value)
    if not low <= number <= high:
        raise ValueError(f"{name} is {number}; expected {low} to {high}")
    return number


def at_least(name: str, value, low: int, unit: str = "") -> int:
    """Return an integer that is not below a bound.

    Args:
        name: The argument's name in the message.
        value: What the caller passed.
        low: The smallest allowed integer.
        unit: The thing counted, or the reason for the bound, which the message ends with.

    Returns:
        The integer.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is below ``low``.
    """
    number = integer(name, value)
    if number < low:
        raise ValueError(f"{name} is {number}; expected at least {low}{unit and ' ' + unit}")
    return number


def static_number(name: str, value) -> None:
    """Refuse what is no number of Python's or NumPy's.

    Raises:
        TypeError: Says what it is.
    """
    if not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} is {value!r}; expected a static number, or inf")


def function(name: str, f) -> None:
    """Refuse what cannot be called.

    Raises:
        TypeError: Says what it is; where a function comes first, arguments are easily swapped.
    """
    if not callable(f):
        raise TypeError(f"{name} is a {type(f).__name__}; expected a function, as first argument")


def real_array(name: str, x, ndim: int) -> Array:
    """Return one example of a float array with a fixed number of axes.

    Args:
        name: How the message calls it.
        x: What was given.
        ndim: How many axes one example has.

    Returns:
        The array.

    Raises:
        TypeError: If it is of integers, booleans or complex numbers.
        ValueError: If it has another number of axes; ``jax.vmap`` is named where it has more.
    """
    if isinstance(x, (list, tuple)):
        raise TypeError(f"{name} is a {type(x).__name__}; expected a float array, jnp.asarray(...)")
    dtype, shape = jnp.result_type(x), jnp.shape(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} has dtype {dtype}; expected a float array, x.astype(float)")
    if len(shape) != ndim:
        hint = "; for a batch, use jax.vmap" if len(shape) > ndim else ""
        kind = _KINDS.get(ndim, f"{ndim} axes")
        raise ValueError(f"{name} has shape {shape}; expected {kind} ({ndim}-D){hint}")
    return jnp.asarray(x)


def matrix(name: str, a) -> Array:
    """Return a matrix that can be decomposed.

    Args:
        name: How the message calls it.
        a: What was given.

    Returns:
        The matrix.

    Raises:
        TypeError: If it is not of float32 or float64.
        ValueError: If it is no matrix, or empty.
    """
    a = real_array(name, a, 2)
    if a.dtype.itemsize < 4:
        raise TypeError(f"{name} has dtype {a.dtype}; expected float32 or float64")
    if not a.size:
        raise ValueError(f"{name} has shape {a.shape}; expected at least one row and one column")
    return a


def square(name: str, a) -> Array:
    """Return a square matrix.

    Args:
        name: How the message calls it.
        a: What was given.

    Returns:
        The matrix.

    Raises:
        TypeError: If it is not of floats.
        ValueError: If it is no matrix, or not square.
    """
    a = matrix(name, a)
    if a.shape[0] != a.shape[1]:
        raise ValueError(f"{name} has shape {a.shape}; expected a square matrix")
    return a


def concrete(x) -> np.ndarray | None:
    """Return the values of an array on the host, or ``None`` for a tracer."""
    try:
        return np.asarray(x)
    except jax.errors.TracerArrayConversionError:
        return None


def finite(name: str, x) -> None:
    """Refuse NaN and infinity in data; tracers are taken on trust.

    Raises:
        ValueError: Says how many, and where the first one is.
    """
    values = concrete(x)
    if values is None or np.isfinite(values).all():
        return
    bad = np.argwhere(~np.isfinite(values))
    first = tuple(bad[0].tolist())
    raise ValueError(f"{name} has {len(bad)} values that are not finite, the first at {first}")


def penalty(name: str, value) -> None:
    """Refuse what is no single finite number >= 0; of a tracer only the shape is seen.

    Raises:
        ValueError: Names the shape or the number.
    """
    if jnp.shape(value):
        raise ValueError(
            f"{name} has shape {jnp.shape(value)}; expected one number; for several, use jax.vmap"
        )
    not_negative(name, value)
    number = concrete(value)
    if number is not None and not np.isfinite(number):
        raise ValueError(f"{name} is {value}; expected a finite number")


def not_negative(name: str, value) -> None:
    """Refuse a number below zero, or NaN; tracers are taken on trust.

    Raises:
        ValueError: Names the number.
    """
    number = concrete(value)
    if number is not None and not (number >= 0).all():
        raise ValueError(f"{name} is {value}; expected a number >= 0")
