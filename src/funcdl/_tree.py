"""Pytrees as vectors, and the language of paths: ``a/b/0/kernel`` with globs.

The solvers only use ``dot``, ``project``, ``combine`` and ``axpy``; a flat vector is a tree with
one leaf, so the same code runs on raveled vectors and on trees.
"""

import difflib
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from funcdl._typing import Array, ArrayLike, DTypeLike, Globs, Key, PyTree


def wide(dtype: DTypeLike) -> jnp.dtype:
    """Return ``dtype``, or float32 if that is wider: the precision of sums and Krylov vectors."""
    return jnp.promote_types(dtype, jnp.float32)


def widened(tree: PyTree) -> PyTree:
    """Convert the float leaves of a tree to at least float32; other leaves stay."""

    def one(x):
        return x.astype(wide(x.dtype)) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(one, tree)


def strong(tree: PyTree) -> PyTree:
    """Drop weak types: a compiled step drops them too, so its second call would compile again."""

    def one(x):
        x = jnp.asarray(x)
        return x.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.number) else x

    return jax.tree.map(one, tree)


def dot(x: PyTree, y: PyTree) -> Array:
    r"""Multiply two trees as vectors, :math:`\langle x, y \rangle`, in at least float32."""
    terms = jax.tree.map(
        lambda a, b: jnp.vdot(a.astype(wide(a.dtype)), b.astype(wide(b.dtype))), x, y
    )
    return functools.reduce(jnp.add, jax.tree.leaves(terms))


def norm(x: PyTree) -> Array:
    """Return the Euclidean norm of a tree; its derivative at 0 is 0, not NaN."""
    # scaled by the largest entry: squares of numbers below 1e-19 underflow in float32
    peaks = [jnp.abs(leaf).max(initial=0).astype(wide(leaf.dtype)) for leaf in jax.tree.leaves(x)]
    peak = jax.lax.stop_gradient(functools.reduce(jnp.maximum, peaks))
    unit = jnp.where((peak > 0) & jnp.isfinite(peak), peak, 1)
    small = jax.tree.map(lambda leaf: leaf.astype(wide(leaf.dtype)) / unit, x)
    return unit * sqrt(dot(small, small))


def sqrt(x: Array) -> Array:
    """Return the square root of non-negative numbers; its derivative at 0 is 0, NaN stays NaN."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def axpy(a: ArrayLike, x: PyTree, y: PyTree) -> PyTree:
    """Compute ``a x + y`` in the dtypes of ``y``."""
    return jax.tree.map(lambda xi, yi: (a * xi + yi).astype(yi.dtype), x, y)


def scale(a: ArrayLike, x: PyTree) -> PyTree:
    """Compute ``a x`` in the dtypes of ``x``."""
    return jax.tree.map(lambda xi: (a * xi).astype(xi.dtype), x)


def add(x: PyTree, y: PyTree) -> PyTree:
    """Add two trees leaf by leaf (``+`` on two NamedTuples would concatenate them)."""
    return jax.tree.map(jnp.add, x, y)


def subtract(x: PyTree, y: PyTree) -> PyTree:
    """Subtract two trees leaf by leaf."""
    return jax.tree.map(jnp.subtract, x, y)


def project(basis: PyTree, x: PyTree) -> Array:
    """Multiply ``x`` by every vector of a basis (leading axis m of each leaf): ``(m,)``."""
    # in full precision on accelerators too, since orthogonality depends on it
    product = functools.partial(jnp.matmul, precision="highest")
    terms = jax.tree.map(lambda b, v: product(b.reshape(b.shape[0], -1), v.reshape(-1)), basis, x)
    return functools.reduce(jnp.add, jax.tree.leaves(terms))


def combine(basis: PyTree, coefficients: Array) -> PyTree:
    """Return linear combinations of a basis: ``(m,)`` gives one vector, ``(k, m)`` gives k."""
    product = functools.partial(jnp.tensordot, axes=1, precision="highest")
    return jax.tree.map(lambda b: product(coefficients, b), basis)


def zeros(like: PyTree) -> PyTree:
    """Return the zero vector with the structure of ``like``."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)


def all_finite(x: PyTree) -> Array:
    """Check that all numbers of a tree are finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(x)]).all()


def random(key: Key[Array, ""], like: PyTree, draw: Callable) -> PyTree:
    """Draw a vector like ``like`` in at least float32, by ``draw(key, shape, dtype)`` per leaf."""
    leaves, treedef = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    draws = [draw(k, x.shape, wide(x.dtype)) for k, x in zip(keys, leaves)]
    return jax.tree.unflatten(treedef, draws)


def normalized(x: PyTree) -> PyTree:
    """Scale a vector to length 1."""
    return scale(1 / norm(x), x)


def size(x: PyTree) -> int:
    """Count the entries of a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(x))


def ravel(like: PyTree) -> tuple[Callable, Callable]:
    """Return ``(flatten, unflatten)`` between trees like ``like`` and vectors of one dtype."""
    unflatten = ravel_pytree(zeros(like))[1]
    return lambda x: ravel_pytree(x)[0], unflatten


def paths(tree: PyTree) -> list[str]:
    """List the path of every leaf.

    Returns:
        The paths, in the order of the leaves.

    >>> paths({"a": [jnp.zeros(2), {"kernel": jnp.ones(1)}]})
    ['a/0', 'a/1/kernel']
    """
    return [path_text(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def path_text(path: tuple) -> str:
    """Return a key path of jax as text, ``a/b/0/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def matches(tree: PyTree, where: Globs) -> list[bool]:
    """Determine for each leaf whether one of the globs matches it or a branch above it.

    ``*`` matches inside one name, ``**`` across names.

    Returns:
        One bool per leaf.

    Raises:
        ValueError: If a glob matches nothing; the message names the nearest path.
    """
    names = paths(tree)
    chosen = [False] * len(names)
    for glob in (where,) if isinstance(where, str) else where:
        hits = [_pattern(glob).fullmatch(name) is not None for name in names]
        if not any(hits):
            near = difflib.get_close_matches(glob, names, n=1, cutoff=0)
            hint = f"the nearest path is {near[0]!r}" if near else "the tree has no leaves"
            raise ValueError(f"path {glob!r} matches nothing; {hint}")
        chosen = [a or b for a, b in zip(chosen, hits)]
    return chosen


def _pattern(glob: str) -> re.Pattern:
    """Translate a glob; a branch stands for all the leaves below it."""
    parts = re.split(r"(\*\*/?|\*)", glob.strip("/"))
    names = {"**": ".*", "**/": "(?:.*/)?", "*": "[^/]*"}
    return re.compile("".join(names.get(p, re.escape(p)) for p in parts) + "(?:/.*)?")


class Selection(NamedTuple):
    """Chosen leaves, and a function that puts them back.

    Attributes:
        chosen: The tree with ``None`` in place of the leaves that were not chosen.
        merge: ``merge(chosen) -> tree`` puts the chosen leaves back among the others.
    """

    chosen: PyTree
    merge: Callable


def select(tree: PyTree, where: Globs) -> Selection:
    """Choose leaves by path.

    Args:
        tree: Any pytree.
        where: One or several globs, such as ``"**/kernel"`` or ``("0", "1/bias")``.

    Returns:
        ``(chosen, merge)``.

    >>> chosen, merge = select({"a": 1.0, "b": {"c": 2.0}}, "b")
    >>> chosen, merge({"a": None, "b": {"c": 5.0}})
    ({'a': None, 'b': {'c': 2.0}}, {'a': 1.0, 'b': {'c': 5.0}})
    """
    mask = matches(tree, where)
    leaves, treedef = jax.tree.flatten(tree)
    chosen = jax.tree.unflatten(treedef, [leaf if m else None for leaf, m in zip(leaves, mask)])

    def merge(chosen: PyTree) -> PyTree:
        new = iter(jax.tree.leaves(chosen))
        return jax.tree.unflatten(
            treedef, [next(new) if m else leaf for leaf, m in zip(leaves, mask)]
        )

    return Selection(chosen, merge)


def check_like(x: PyTree, like: PyTree, name: str, expected: str) -> None:
    """Raise an error if a tree differs from ``like`` in structure or shapes.

    Args:
        x: The tree that was passed.
        like: The tree to compare with: arrays or ``jax.ShapeDtypeStruct``.
        name: The name of ``x`` in the message.
        expected: The name of ``like`` in the message.

    Raises:
        ValueError: If they differ; the message names the first such path and both shapes.
    """
    have = {path_text(p): jnp.shape(a) for p, a in jax.tree_util.tree_leaves_with_path(x)}
    want = {path_text(p): jnp.shape(a) for p, a in jax.tree_util.tree_leaves_with_path(like)}
    for path in [*want, *have]:
        if have.get(path) != want.get(path):
            at = f" at path {path!r}" if path else ""
            raise ValueError(
                f"{name} differs from {expected}{at}: expected {_shape(want.get(path))}, "
                f"got {_shape(have.get(path))}"
            )
    structures = jax.tree.structure(like), jax.tree.structure(x)
    if structures[0] != structures[1]:
        path, *kinds = _first_difference(*structures)
        at = f" at path {path!r}" if path else ""
        raise ValueError(
            f"{name} differs from {expected}{at}: expected the structure {kinds[0]}, got {kinds[1]}"
        )


def _first_difference(a: Any, b: Any, path: str = "") -> tuple[str, ...]:
    """Return the path of the first nodes that differ, and a description of both."""
    nodes = a.node_data(), b.node_data()
    kinds = [f"a {data[0].__name__}" if data else "an array or None" for data in nodes]
    if nodes[0] != nodes[1]:
        same = kinds[0] == kinds[1]
        return path, *([f"{k} with {data[1]}" for k, data in zip(kinds, nodes)] if same else kinds)
    children = a.children(), b.children()
    if len(children[0]) != len(children[1]):
        return path, *(f"{k} of {len(c)}" for k, c in zip(kinds, children))
    kind, keys = nodes[0] or (None, ())
    names = getattr(kind, "_fields", keys if kind is dict else range(len(children[0])))
    for key, c, d in zip(names, *children):
        if c != d:
            return _first_difference(c, d, f"{path}/{key}".lstrip("/"))
    return path, *kinds


def _shape(shape: tuple | None) -> str:
    return "nothing" if shape is None else f"shape {shape}"


def check_shaped(tree: PyTree, name: str) -> None:
    """Raise an error if a leaf has no shape or dtype.

    Raises:
        TypeError: If it has not; the message names the first such leaf.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            at = f" at path {path_text(path)!r}" if path else ""
            raise TypeError(
                f"{name}{at} is {leaf!r}; expected an array, jnp.asarray(x), or a "
                "jax.ShapeDtypeStruct"
            )


def check_floating(tree: PyTree, name: str) -> None:
    """Raise an error if a leaf cannot be differentiated.

    Raises:
        TypeError: If a leaf is not a float array; the message names the first one and its dtype.
        ValueError: If the tree has no leaves.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError(f"{name} has no leaves; expected a pytree of float arrays")
    for path, leaf in leaves:
        at = f" at path {path_text(path)!r}" if path else ""
        if callable(leaf) or isinstance(leaf, str):
            hint = "; for an Equinox or NNX module, use nn.from_equinox or nn.from_nnx"
            raise TypeError(f"{name}{at} is {leaf!r}; expected a float array{hint}")
        if name == "params" and not hasattr(leaf, "shape"):
            raise TypeError(
                f"{name}{at} is {leaf!r}, a Python number; expected a float array, jnp.asarray(x)"
            )
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"{name}{at} has dtype {dtype}; expected a float array: store the real and the "
                "imaginary part as two leaves"
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            hint = ", put the rest into state" if name == "params" else ""
            raise TypeError(f"{name}{at} has dtype {dtype}; expected a float array{hint}")
