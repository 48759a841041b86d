"""Sparse Jacobians and Hessians by coloring (extra ``sparse``)."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from funcdl import _tree
from funcdl._typing import Array, Function, PyTree, ScalarFunction
from funcdl.autodiff._bind import Bound, bind, form, scalar


def sparse_jacobian(f: Function) -> Callable:
    r"""Compute a Jacobian that is mostly zeros, :math:`\partial f_i / \partial x_j`, as a BCOO.

    The sparsity pattern is read from the operations of f and holds for all values of x and
    ``args``; columns (or rows) that share no entry are computed in one product. It needs ``asdex``,
    the extra ``sparse``. The pattern is computed once per f and structure of its arguments.

    Args:
        f: ``f(x, *args)``; x and the result are pytrees of floats. Leaves of x that are Python
            numbers are carried along. Arrays of integers must be closed over, not passed: asdex
            cannot differentiate next to them, so their values are part of the pattern.

    Returns:
        A function ``derivative(x, *args)`` that returns a ``jax.experimental.sparse.BCOO`` of shape
        (n of f, n of x), both in the order of ``jax.flatten_util.ravel_pytree``. ``args`` are held
        fixed. It raises ``TypeError`` if x or ``args`` hold arrays of integers.

    Raises:
        ImportError: If ``asdex`` is not installed.
    """
    _asdex()

    def derivative(x: PyTree, *args: Any) -> Any:
        bound = bind(f, x, args)
        form(bound)
        _check_no_integers(bound.g)
        return _compressed("jacobian", bound)

    return derivative


def sparse_hessian(f: ScalarFunction) -> Callable:
    r"""Compute a Hessian that is mostly zeros, as a BCOO.

    Like ``sparse_jacobian``, with a coloring that uses the symmetry, and forward over reverse.

    Args:
        f: Scalar-valued ``f(x, *args)``, as in ``sparse_jacobian``.

    Returns:
        A function ``second_derivative(x, *args)`` that returns a ``jax.experimental.sparse.BCOO``
        of shape (n, n), in the order of ``hessian_matrix``. ``args`` are held fixed.

    Raises:
        ImportError: If ``asdex`` is not installed.
    """
    _asdex()

    def second_derivative(x: PyTree, *args: Any) -> Any:
        bound = bind(f, x, args)
        jax.eval_shape(scalar(bound.g), bound.leaves)
        return _compressed("hessian", bound)

    return second_derivative


def _check_no_integers(g: Partial) -> None:
    for leaf in jax.tree.leaves(g):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"x or args hold an array of dtype {jnp.result_type(leaf)}; expected floats: let f "
                "close over it, so that its values are part of the pattern"
            )


def _asdex() -> Any:
    try:
        return importlib.import_module("asdex")
    except ImportError as error:
        raise ImportError(
            "sparse derivatives need asdex: pip install 'funcdl[sparse]'. If it is installed, it "
            f"does not support jax {jax.__version__}: {error}"
        ) from error


def _compressed(kind: str, bound: Bound) -> Any:
    flat = ravel_pytree(bound.leaves)[0]
    forms, treedef = jax.tree.flatten(jax.eval_shape(_same, (flat, bound.g, bound.leaves)))
    return _program(kind, treedef, tuple(forms))(flat, bound.g)


def _same(tree: PyTree) -> PyTree:
    return tree


@functools.lru_cache(maxsize=64)
def _program(kind: str, treedef: Any, forms: tuple) -> Callable:
    """Return the compiled derivative; the coloring, which is slow, is kept with it."""
    with jax.ensure_compile_time_eval():  # asdex only reads shapes, but requires arrays
        flat, g, leaves = jax.tree.unflatten(treedef, _tree.zeros(forms))
    unravel = _tree.ravel(leaves)[1]

    def h(flat: Array, g: Partial) -> Array:
        y = ravel_pytree(g(unravel(flat)))[0]
        return y if kind == "jacobian" else y[0]

    return jax.jit(getattr(_asdex(), kind)(h, flat, g))
