"""The names of array types that signatures use; shapes are strings, ``Float[Array, "n d"]``."""

from jaxtyping import Array, Bool, Float, Int, Key, PyTree

Scalar = Float[Array, ""]
Shaped = PyTree  # a pytree of arrays or of jax.ShapeDtypeStruct: only shapes and dtypes are read

__all__ = ["Array", "Bool", "Float", "Int", "Key", "PyTree", "Scalar", "Shaped"]
