"""Checks of single arguments, shared by all rooms.

Each check takes the argument's name, which its error message starts with.
"""

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._typing import Array

F = TypeVar("F", bound=Callable)

_KINDS = {0: "a scalar", 1: "a vector", 2: "a matrix"}


def check_key(key: Any) -> None:
    """Raise an error if a key is not typed.

    Raises:
        TypeError: If it is not; the message names ``jax.random.key``.
    """
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        kind = f"dtype {key.dtype}" if hasattr(key, "dtype") else f"{key!r}"
        raise TypeError(f"key has {kind}; expected a typed key, from jax.random.key(seed)")


def integer(name: str, value: Any) -> int:
    """Return an integer of any kind as a Python int; bool is rejected.

    Args:
        name: The argument's name in the message.
        value: The value that the caller passed.

    Returns:
        The integer.

    Raises:
        TypeError: If it is not an integer.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; expected an integer")
    return number


def integer_in(name: str, value: Any, low: int, high: int) -> int:
    """Return an integer within bounds, both included.

    Args:
        name: The argument's name in the message.
        value: The value that the caller passed.
        low: The smallest allowed integer.
        high: The largest allowed integer.

    Returns:
        The integer.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is out of bounds.
    """
    number = integer(name, value)
    if not low <= number <= high:
        raise ValueError(f"{name} is {number}; expected {low} to {high}")
    return number


def at_least(name: str, value: Any, low: int, unit: str = "") -> int:
    """Return an integer that is not below a bound.

    Args:
        name: The argument's name in the message.
        value: The value that the caller passed.
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


def static_number(name: str, value: object) -> None:
    """Raise an error if a value is not a number of Python or NumPy.

    Raises:
        TypeError: If it is not; the message shows the value.
    """
    if not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} is {value!r}; expected a static number, or inf")


def in_two_steps(f: F) -> F:
    """Explain a function that returns a function, where it is called with all arguments at once.

    Returns:
        The same function; it raises ``TypeError`` with both calls if it gets too many arguments.
    """
    names = list(inspect.signature(f).parameters)
    positional = [p for p in inspect.signature(f).parameters.values() if p.kind != p.KEYWORD_ONLY]

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) > len(positional):
            first = ", ".join(names[: len(positional)])
            raise TypeError(
                f"{f.__name__} got {len(args)} positional arguments; it returns a function: "
                f"call {f.__name__}({first})(params, batch)"
            )
        return f(*args, **kwargs)

    return cast(F, call)


def function(name: str, f: object, expected: str = "a function") -> None:
    """Raise an error if an argument is not callable.

    Args:
        name: The argument's name in the message.
        f: The value that the caller passed.
        expected: What the message asks for.

    Raises:
        TypeError: If it is not; the message names its type, since arguments are easily swapped.
    """
    if not callable(f):
        raise TypeError(f"{name} is a {type(f).__name__}; expected {expected}")


def returns_array(name: str, result: Any) -> None:
    """Raise an error if a function of the caller does not return a single array.

    Args:
        name: The name of the argument that is the function.
        result: What it returned, or its form by ``jax.eval_shape``.

    Raises:
        ValueError: If it is anything else, such as a tuple; the message names its type.
    """
    if not hasattr(result, "shape") and not isinstance(result, (bool, int, float, complex)):
        what = "nothing (None)" if result is None else f"a {type(result).__name__}"
        raise ValueError(
            f"{name} returns {what}; expected a single array of numbers, so return one of several "
            "results, or use one function for each"
        )


def record(name: str, value: Any, kind: type, source: str) -> None:
    """Raise an error if an argument is not a record of one kind, such as a result.

    Args:
        name: The argument's name in the message.
        value: The value that the caller passed.
        kind: The class of the record.
        source: Where the record comes from, which the message ends with.

    Raises:
        TypeError: If it is not; the message names its type, since arguments are easily swapped.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a {kind.__name__}, {source}")


def array(name: str, x: Any) -> None:
    """Raise an error if an argument is not an array of numbers, in NumPy or JAX.

    Args:
        name: The argument's name in the message.
        x: The value that the caller passed.

    Raises:
        TypeError: If it is not; the message names its type or its dtype.
    """
    if not (hasattr(x, "shape") and hasattr(x, "dtype") and hasattr(x, "ndim")):
        raise TypeError(f"{name} is a {type(x).__name__}; expected an array, jnp.asarray(...)")
    if not (jnp.issubdtype(x.dtype, jnp.number) or jnp.issubdtype(x.dtype, jnp.bool_)):
        raise TypeError(f"{name} has dtype {x.dtype}; expected an array of numbers")


def real_array(name: str, x: Any, ndim: int) -> Array:
    """Return a float array with a fixed number of axes, that of one example.

    Args:
        name: The argument's name in the message.
        x: The value that the caller passed.
        ndim: The number of axes of one example.

    Returns:
        The array.

    Raises:
        TypeError: If its dtype is integer, boolean or complex.
        ValueError: If it has another number of axes; for more axes, the message names ``jax.vmap``.
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


def matrix(name: str, a: Any) -> Array:
    """Return a matrix that can be decomposed.

    Args:
        name: The argument's name in the message.
        a: The value that the caller passed.

    Returns:
        The matrix.

    Raises:
        TypeError: If its dtype is not float32 or float64.
        ValueError: If it is not 2-D, or empty.
    """
    a = real_array(name, a, 2)
    if a.dtype.itemsize < 4:
        raise TypeError(f"{name} has dtype {a.dtype}; expected float32 or float64")
    if not a.size:
        raise ValueError(f"{name} has shape {a.shape}; expected at least one row and one column")
    return a


def square(name: str, a: Any) -> Array:
    """Return a square matrix.

    Args:
        name: The argument's name in the message.
        a: The value that the caller passed.

    Returns:
        The matrix.

    Raises:
        TypeError: If its dtype is not float32 or float64.
        ValueError: If it is not 2-D, or not square.
    """
    a = matrix(name, a)
    if a.shape[0] != a.shape[1]:
        raise ValueError(f"{name} has shape {a.shape}; expected a square matrix")
    return a


def concrete(x: Any) -> np.ndarray | None:
    """Return the values of an array on the host, or ``None`` for a tracer."""
    try:
        return np.asarray(x)
    except jax.errors.TracerArrayConversionError:
        return None


def finite(name: str, x: Any) -> None:
    """Raise an error if data contain NaN or infinity; tracers are not checked.

    Raises:
        ValueError: If they do; the message says how many values, and where the first one is.
    """
    values = concrete(x)
    if values is None or np.isfinite(values).all():
        return
    bad = np.argwhere(~np.isfinite(values))
    first = tuple(bad[0].tolist())
    raise ValueError(f"{name} has {len(bad)} values that are not finite, the first at {first}")


def narrowed(x: Any) -> str:
    """Describe how JAX would change the values of a host array whose dtype it narrows.

    Rounding of floats is not a change; wrapped integers, overflow, and underflow of a whole array
    are.

    Returns:
        The end of a message, ``has int64 values ...``, or an empty text if nothing changes.

    >>> narrowed(np.asarray([0, 2**40]))[:39]
    'has int64 values from 0 to 109951162777'
    """
    if not isinstance(x, (np.ndarray, np.generic)) or not x.size or x.dtype.kind not in "iufc":
        return ""
    narrow = jax.dtypes.canonicalize_dtype(x.dtype)
    if narrow == x.dtype:
        return ""
    remedy = "set jax_enable_x64, or"
    if x.dtype.kind in "iu":
        info = np.iinfo(narrow)
        if x.min() >= info.min and x.max() <= info.max:
            return ""
        return (
            f"has {x.dtype} values from {x.min()} to {x.max()}, which do not fit {narrow}; "
            f"{remedy} remap them to {narrow}"
        )
    sizes = np.abs(x)
    peak, info = sizes.max(initial=0, where=np.isfinite(sizes)), jnp.finfo(narrow)
    if peak > info.max or 0 < peak < info.tiny:
        change = "overflow" if peak > info.max else "underflow"
        return (
            f"has {x.dtype} values up to {peak:.3g}, which {change} in {narrow}; {remedy} rescale "
            "them"
        )
    return ""


def penalty(name: str, value: Any) -> None:
    """Raise an error if a value is not one finite number >= 0; of a tracer, check the shape only.

    Raises:
        ValueError: If it is not; the message shows the shape or the number.
    """
    if jnp.shape(value):
        raise ValueError(
            f"{name} has shape {jnp.shape(value)}; expected one number; for several, use jax.vmap"
        )
    not_negative(name, value)
    number = concrete(value)
    if number is not None and not np.isfinite(number):
        raise ValueError(f"{name} is {value}; expected a finite number")


def not_negative(name: str, value: Any) -> None:
    """Raise an error if a number is negative or NaN; tracers are not checked.

    Raises:
        ValueError: If it is; the message shows the number.
    """
    number = concrete(value)
    if number is not None and not (number >= 0).all():
        raise ValueError(f"{name} is {value}; expected a number >= 0")
