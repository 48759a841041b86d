"""Sparse Jacobians and Hessians by colouring (extra ``sparse``)."""

import functools
import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from funcdl import _tree
from funcdl._typing import Array, PyTree
from funcdl.autodiff._bind import Bound, bind, form, scalar


def sparse_jacobian(f: Callable) -> Callable:
    r"""Write out a Jacobian that is mostly zeros, :math:`\partial f_i / \partial x_j`, as a BCOO.

    The pattern of zeros is read from the operations of f, whatever the values of x and ``args``;
    columns (or rows) that share no entry are taken in one product. Needs ``asdex``, the extra
    ``sparse``. The pattern is found once for each f and form of its arguments.

    Args:
        f: ``f(x, *args)``; x and what it returns are pytrees of floats. Leaves of x that are
            numbers of Python are carried along; arrays of integers are closed over, not passed:
            asdex cannot differentiate beside them, and so their values are part of the pattern.

    Returns:
        ``derivative(x, *args)``: a ``jax.experimental.sparse.BCOO`` of shape (n of f, n of x), both
        in the order of ``jax.flatten_util.ravel_pytree``. ``args`` are held fixed. It raises
        ``TypeError`` where x or ``args`` hold arrays of integers.

    Raises:
        ImportError: Without ``asdex``.
    """
    _asdex()

    def derivative(x: PyTree, *args):
        bound = bind(f, x, args)
        form(bound)
        _check_no_integers(bound.g)
        return _compressed("jacobian", bound)

    return derivative


def sparse_hessian(f: Callable) -> Callable:
    r"""Write out a Hessian that is mostly zeros, as a BCOO.

    As ``sparse_jacobian``, with a colouring that uses the symmetry, and forward over reverse.

    Args:
        f: Scalar-valued ``f(x, *args)``, as of ``sparse_jacobian``.

    Returns:
        ``second_derivative(x, *args)``: a ``jax.experimental.sparse.BCOO`` of shape (n, n), in the
        order of ``hessian_matrix``. ``args`` are held fixed.

    Raises:
        ImportError: Without ``asdex``.
    """
    _asdex()

    def second_derivative(x: PyTree, *args):
        bound = bind(f, x, args)
        jax.eval_shape(scalar(bound.g), bound.leaves)
        return _compressed("hessian", bound)

    return second_derivative


def _check_no_integers(g: Partial) -> None:
    for leaf in jax.tree.leaves(g):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"x or args hold an array of dtype {jnp.result_type(leaf)}; expected floats: let f "
                "close over it, and its values are part of the pattern"
            )


def _asdex():
    try:
        return importlib.import_module("asdex")
    except ImportError as error:
        raise ImportError(
            "sparse derivatives need asdex: pip install 'funcdl[sparse]'. If it is installed, it "
            f"does not support jax {jax.__version__}: {error}"
        ) from error


def _compressed(kind: str, bound: Bound):
    flat = ravel_pytree(bound.leaves)[0]
    forms, treedef = jax.tree.flatten(jax.eval_shape(_same, (flat, bound.g, bound.leaves)))
    return _program(kind, treedef, tuple(forms))(flat, bound.g)


def _same(tree: PyTree) -> PyTree:
    return tree


@functools.lru_cache(maxsize=64)
def _program(kind: str, treedef, forms: tuple) -> Callable:
    """Return the compiled derivative; the colouring, which is slow, is kept with it."""
    with jax.ensure_compile_time_eval():  # asdex reads shapes, but wants arrays
        flat, g, leaves = jax.tree.unflatten(treedef, _tree.zeros(forms))
    unravel = _tree.ravel(leaves)[1]

    def h(flat: Array, g: Partial) -> Array:
        y = ravel_pytree(g(unravel(flat)))[0]
        return y if kind == "jacobian" else y[0]

    return jax.jit(getattr(_asdex(), kind)(h, flat, g))
