"""Products in full precision on every device."""

import functools
from collections.abc import Callable

import jax


def exact(f: Callable) -> Callable:
    """Let the products inside of ``f`` have the precision of their dtype, as CPUs do anyway.

    GPUs and TPUs round the factors to 10 or 8 bits otherwise: too few for an orthonormal basis.

    Args:
        f: Any function; also a derivative rule, which is traced on its own.

    Returns:
        The same function.
    """

    @functools.wraps(f)
    def call(*args, **kwargs):
        with jax.default_matmul_precision("highest"):
            return f(*args, **kwargs)

    return call
