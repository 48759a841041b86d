"""Checks of single arguments that every room makes."""

import operator

import jax


def check_key(key) -> None:
    """Refuse what is no typed key.

    Raises:
        TypeError: Names ``jax.random.key``.
    """
    if not (hasattr(key, "dtype") and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)):
        kind = f"dtype {key.dtype}" if hasattr(key, "dtype") else f"{key!r}"
        raise TypeError(f"key has {kind}; expected a typed key, from jax.random.key(seed)")


def integer(name: str, value) -> int:
    """Return an integer of any kind as one of Python's.

    Args:
        name: How the message calls it.
        value: What was given.

    Returns:
        The integer.

    Raises:
        TypeError: If it is none.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; expected an integer") from None
