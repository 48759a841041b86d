"""The types that signatures name: arrays with their shapes, ``Float[Array, "n d"]``, and functions.

A function that the caller passes is annotated by the alias that says how it is called.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Integer, Key, PyTree

Scalar = Float[Array, ""]
Shaped = PyTree  # a pytree of arrays or of jax.ShapeDtypeStruct: only shapes and dtypes are read

Function = Callable[..., PyTree]  # f(x, *args) -> any pytree of arrays
ScalarFunction = Callable[..., Scalar]  # f(x, *args) -> scalar
LossFunction = Callable[..., Any]  # loss(params, batch) -> scalar mean, or Mean(total, weight)
ModelFunction = Callable[..., PyTree]  # f(params, batch) -> outputs, a leading axis of examples
LogProb = Callable[..., Scalar]  # log_prob(x, *args) -> scalar, in nats
Sampler = Callable[[Key[Array, ""]], PyTree]  # sample(key) -> x
Matvec = Callable[[PyTree], PyTree]  # v -> A v
Elementwise = Callable[[Array], Array]  # f(x), of the shape of x
Globs = str | Sequence[str]  # paths such as "**/kernel", one or several

__all__ = [
    "Array",
    "ArrayLike",
    "Bool",
    "DTypeLike",
    "Elementwise",
    "Float",
    "Function",
    "Globs",
    "Int",
    "Integer",
    "Key",
    "LogProb",
    "LossFunction",
    "Matvec",
    "ModelFunction",
    "PyTree",
    "Sampler",
    "Scalar",
    "ScalarFunction",
    "Shaped",
]
