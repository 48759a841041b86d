"""Checks of a data set when it enters; nothing is checked again afterwards."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _batching, _tree
from funcdl._check import narrowed
from funcdl._typing import Array, ArrayLike, PyTree


class DataError(ValueError):
    """A data set is unusable: empty, damaged, not finite, or with labels out of range."""


def check(arrays: PyTree) -> int:
    """Check every leaf of a data set once, on the host or on its device.

    Args:
        arrays: A pytree of arrays with a leading axis of examples. The values of tracers are not
            checked.

    Returns:
        The number of examples.

    Raises:
        DataError: If the data is empty, leaves differ in the number of examples, a value is not
            finite, or JAX would change values of a 64-bit array because it narrows the dtype. The
            message names the path, and the number and the first index of values that are not
            finite.
        TypeError: If a leaf is not a numeric array.
    """
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    if not leaves:
        raise DataError("the data is empty: a pytree without arrays")
    for path, leaf in leaves:
        where = f" at path {_tree.path_text(path)!r}" if path else ""
        if not hasattr(getattr(leaf, "dtype", None), "kind"):
            kind = f"{type(leaf).__module__}.{type(leaf).__qualname__}".removeprefix("builtins.")
            raise TypeError(
                f"the data{where} is {kind}; expected an array of NumPy or JAX; convert it first, "
                "such as np.asarray(x)"
            )
        if leaf.dtype.kind in "OUSM":
            raise TypeError(
                f"the data{where} is {leaf.dtype}; expected an array of numbers (objects would "
                "need pickle, which is not supported)"
            )
        if leaf.ndim == 0:
            raise DataError(f"the data{where} is a scalar; expected a leading axis of examples")
    try:
        count = _batching.examples(arrays)
    except ValueError as error:
        raise DataError(str(error)) from None
    if count == 0:
        raise DataError(f"the data is empty: its arrays have the shapes {_shapes(arrays)}")
    for path, leaf in leaves:
        _check_finite(leaf, f" at path {_tree.path_text(path)!r}" if path else "")
    return count


def arrays(x: PyTree, labels: ArrayLike | Sequence, *, classes: int | None = None) -> tuple:
    """Check a labeled data set and return it as the batch ``(x, labels)``.

    Args:
        x: A pytree of arrays with a leading axis n.
        labels: ``(n,)`` integers in 0..classes-1; they become int32.
        classes: The number of classes; the default is the largest label + 1.

    Returns:
        ``(x, labels)``.

    Raises:
        DataError: As in ``check``, and if a label is out of range; the message names the first such
            label, its index and the range.
        TypeError: If the labels are not integers.

    >>> x, y = arrays(np.zeros((2, 3), np.float32), np.asarray([0, 1]), classes=2)
    >>> y.dtype.name
    'int32'
    """
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels have dtype {labels.dtype}; expected integer class indices")
    check((x, labels))
    classes = min(int(labels.max()) + 1, 2**31) if classes is None else classes
    wrong = np.argwhere((labels < 0) | (labels >= classes))
    if wrong.size:
        first = tuple(int(i) for i in wrong[0])
        index = first[0] if len(first) == 1 else first
        raise DataError(
            f"label {int(labels[first])} at index {index} is out of range; expected 0 to "
            f"{classes - 1} ({classes} classes)"
        )
    return x, labels.astype(np.int32)


def _check_finite(leaf: Array | np.ndarray, where: str) -> None:
    problem = narrowed(leaf)
    if problem:
        raise DataError(f"the data{where} {problem}")
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return
    numpy = jnp if isinstance(leaf, jax.Array) else np  # arrays on a device are checked there
    try:
        if bool(numpy.isfinite(leaf).all()):
            return
    except jax.errors.ConcretizationTypeError:
        return
    wrong = np.argwhere(~np.isfinite(np.asarray(leaf)))
    first = tuple(int(i) for i in wrong[0])
    raise DataError(
        f"the data{where} has {len(wrong)} values that are not finite, the first is "
        f"{np.asarray(leaf)[first]} at index {first}"
    )


def _shapes(arrays: PyTree) -> list:
    return [leaf.shape for leaf in jax.tree.leaves(arrays)]
