"""A function of ``(x, *args)`` as one of the float leaves of x; the rest is carried along."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _tree
from funcdl._closure import as_partial
from funcdl._typing import Array, PyTree


class Bound(NamedTuple):
    """What the transforms of this room are written on.

    Attributes:
        g: ``g(leaves)`` is f at x with these float leaves: what it holds are leaves, so that the
            same f is the same compilation.
        leaves: The float leaves of x.
        fill: ``fill(leaves)`` puts a list back into the form of x, beside the leaves of x that are
            no floats.
        pick: ``pick(v)`` takes from a tree like x the leaves that are floats in x, in their dtypes;
            what v holds elsewhere is not read.
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
        args: Pytrees; floats and arrays in them are data, all else (integers of Python, functions,
            strings) is as fixed as f is.
        name: How a message calls x.

    Returns:
        The function of the float leaves, and the ways there and back.

    Raises:
        TypeError: If f is no function, or a leaf is complex: its path is named.
        ValueError: If x has no leaves.
    """
    if not callable(f):
        raise TypeError(f"f is a {type(f).__name__}; expected a function f({name}, *args)")
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
    """Return g, which refuses to be anything but a float scalar."""

    def checked(leaves):
        y = g(leaves)
        shapes = jax.tree.map(jnp.shape, y)
        if shapes != ():
            raise ValueError(f"f returned shape {shapes}; expected a scalar")
        return floats(y)

    return checked


def floats(y: PyTree) -> PyTree:
    """Return what a function returned, if it can be differentiated.

    Raises:
        TypeError: If a leaf is no float; its path is named.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(y):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            at = f" at path {_tree.path_text(path)!r}" if path else ""
            raise TypeError(f"f returned dtype {dtype}{at}; expected floats")
    return y


def form(bound: Bound) -> PyTree:
    """Return the shapes and dtypes of f(x); the same f is not traced again.

    Raises:
        TypeError: If there is a leaf that is no float.
    """
    return floats(jax.eval_shape(_value, bound.g, bound.leaves))


@jax.jit
def _value(g: Callable, leaves: list) -> PyTree:
    return g(leaves)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Form:
    """Which leaves of a tree are floats."""

    treedef: jax.tree_util.PyTreeDef
    mask: tuple[bool, ...]

    def split(self, leaves: list) -> tuple[list, list]:
        """Return the floats, and the others."""
        pairs = list(zip(leaves, self.mask))
        return [a for a, m in pairs if m], [a for a, m in pairs if not m]

    def join(self, floats: list, others: list) -> PyTree:
        floats, others = iter(floats), iter(others)
        return jax.tree.unflatten(
            self.treedef, [next(floats) if m else next(others) for m in self.mask]
        )


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Still:
    """A value that is part of the function, not of its data."""

    value: object


def _is_data(a) -> bool:
    return hasattr(a, "dtype") or isinstance(a, float | complex)


def _still(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a if _is_data(a) else _Still(a), tree)


def _moving(tree: PyTree) -> PyTree:
    is_still = lambda a: isinstance(a, _Still)
    return jax.tree.map(lambda a: a.value if is_still(a) else a, tree, is_leaf=is_still)


def _apply(f: Callable, form: _Form, others: list, args: tuple, leaves: list) -> PyTree:
    return f(form.join(leaves, _moving(others)), *_moving(args))


def _float_leaves(x: PyTree, name: str) -> tuple[bool, ...]:
    found = jax.tree_util.tree_leaves_with_path(x)
    if not found:
        raise ValueError(f"{name} has no leaves; expected a pytree of float arrays")
    mask = []
    for path, leaf in found:
        dtype = jnp.result_type(leaf)
        at = f" at path {_tree.path_text(path)!r}" if path else ""
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"{name}{at} has dtype {dtype}; expected floats: make the real and the imaginary "
                "part two leaves, and the complex number inside f"
            )
        mask.append(bool(jnp.issubdtype(dtype, jnp.floating)))
    if not any(mask):
        raise TypeError(f"{name}{at} has dtype {dtype}; expected a float array in {name}")
    return tuple(mask)
