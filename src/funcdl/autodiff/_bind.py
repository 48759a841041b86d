"""A function of ``(x, *args)`` as one of the float leaves of x; the rest is carried along."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _tree
from funcdl._check import function
from funcdl._closure import as_partial
from funcdl._typing import Array, PyTree


class Bound(NamedTuple):
    """The form of a function that the transforms of this room work on.

    Attributes:
        g: ``g(leaves)`` is f at x with these float leaves. Everything that it holds is a leaf, so
            that the same f is not compiled again.
        leaves: The float leaves of x.
        fill: ``fill(leaves)`` puts a list back into the structure of x, next to the leaves of x
            that are not floats.
        pick: ``pick(v)`` returns the leaves of a tree like x that are floats in x, in their dtypes;
            the other leaves of v are not read.
    """

    g: Partial
    leaves: list[Array]
    fill: Callable
    pick: Callable


def bind(f: Callable, x: PyTree, args: tuple, name: str = "x") -> Bound:
    """Fix everything but the float leaves of x.

    Args:
        f: ``f(x, *args)``, or a ``Partial`` of it.
        x: Any pytree with a float leaf. Integers, booleans and keys are carried along.
        args: Pytrees. Floats and arrays in them are data; everything else (Python integers,
            functions, strings) is as static as f itself.
        name: The name of x in messages.

    Returns:
        The function of the float leaves, and the maps between x and its float leaves.

    Raises:
        TypeError: If f is not callable, or a leaf is complex; the message names its path.
        ValueError: If x has no leaves.
    """
    function("f", f, f"a function f({name}, *args)")
    leaves, treedef = jax.tree.flatten(x)
    parts = _Form(treedef, _float_leaves(x, name))
    values, others = parts.split(leaves)
    g = Partial(_apply, as_partial(f), parts, _still(others), _still(args))

    def pick(v: PyTree) -> list[Array]:
        _tree.check_like(v, x, "direction v", name)
        return [jnp.asarray(a, b.dtype) for a, b in zip(parts.split(jax.tree.leaves(v))[0], values)]

    values = [jnp.asarray(a) for a in values]
    return Bound(g, values, lambda values: parts.join(values, others), pick)


def scalar(g: Callable) -> Callable:
    """Return g with a check that its value is a float scalar."""

    def checked(leaves):
        y = g(leaves)
        shapes = jax.tree.map(jnp.shape, y)
        if shapes != ():
            raise ValueError(f"f returned shape {shapes}; expected a scalar")
        return floats(y)

    return checked


def floats(y: PyTree) -> PyTree:
    """Return the value of a function, if it can be differentiated.

    Raises:
        TypeError: If a leaf is not a float; the message names its path.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(y):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            at = f" at path {_tree.path_text(path)!r}" if path else ""
            raise TypeError(f"f returned dtype {dtype}{at}; expected floats")
    return y


def form(bound: Bound) -> PyTree:
    """Return the shapes and dtypes of f(x), without tracing the same f again.

    Raises:
        TypeError: If a leaf is not a float.
    """
    return floats(jax.eval_shape(_value, bound.g, bound.leaves))


@jax.jit
def _value(g: Callable, leaves: list) -> PyTree:
    return g(leaves)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Form:
    """A tree and a mask of its float leaves."""

    treedef: Any  # a jax.tree_util.PyTreeDef, a name that type checkers reject
    mask: tuple[bool, ...]

    def split(self, leaves: list) -> tuple[list, list]:
        """Return the float leaves, and the others."""
        pairs = list(zip(leaves, self.mask))
        return [a for a, m in pairs if m], [a for a, m in pairs if not m]

    def join(self, floats: list, others: list) -> PyTree:
        next_float, next_other = iter(floats), iter(others)
        leaves = [next(next_float) if m else next(next_other) for m in self.mask]
        return jax.tree.unflatten(self.treedef, leaves)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Still:
    """A static value: a part of the function, not of its data."""

    value: object


def _is_data(a: Any) -> bool:
    return hasattr(a, "dtype") or isinstance(a, float | complex)


def _still(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a if _is_data(a) else _Still(a), tree)


def _moving(tree: PyTree) -> PyTree:
    is_still = lambda a: isinstance(a, _Still)
    return jax.tree.map(lambda a: a.value if is_still(a) else a, tree, is_leaf=is_still)


def _apply(f: Callable, form: _Form, others: list, args: tuple, leaves: list) -> PyTree:
    return f(form.join(leaves, _moving(others)), *_moving(args))


def _float_leaves(x: PyTree, name: str) -> tuple[bool, ...]:
    leaves = jax.tree_util.tree_leaves_with_path(x)
    if not leaves:
        raise ValueError(f"{name} has no leaves; expected a pytree of float arrays")
    mask, at, dtype = [], "", None
    for path, leaf in leaves:
        dtype = jnp.result_type(leaf)
        at = f" at path {_tree.path_text(path)!r}" if path else ""
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"{name}{at} has dtype {dtype}; expected floats: pass the real and the imaginary "
                "part as two leaves, and form the complex number inside f"
            )
        mask.append(bool(jnp.issubdtype(dtype, jnp.floating)))
    if not any(mask):
        raise TypeError(f"{name}{at} has dtype {dtype}; expected a float array in {name}")
    return tuple(mask)
