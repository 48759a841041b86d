"""Pytrees as vectors, and the one language of paths: ``a/b/0/kernel`` with globs.

The solvers are written on ``dot``, ``project``, ``combine`` and ``axpy``; a flat vector is the
tree with one leaf, so the same code runs raveled and as trees.
"""

import difflib
import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from funcdl._typing import Array, PyTree


def wide(dtype) -> jnp.dtype:
    """Return ``dtype``, at least float32: in this precision sums and Krylov vectors are kept."""
    return jnp.promote_types(dtype, jnp.float32)


def dot(x: PyTree, y: PyTree) -> Array:
    r"""Multiply two trees as vectors, :math:`\langle x, y \rangle`, in at least float32."""
    terms = jax.tree.map(
        lambda a, b: jnp.vdot(a.astype(wide(a.dtype)), b.astype(wide(b.dtype))), x, y
    )
    return functools.reduce(jnp.add, jax.tree.leaves(terms))


def norm(x: PyTree) -> Array:
    """Measure the Euclidean length of a tree; its derivative at 0 is 0, not NaN."""
    # scaled by the largest entry: squares of numbers below 1e-19 vanish in float32
    peaks = [jnp.abs(leaf).max(initial=0).astype(wide(leaf.dtype)) for leaf in jax.tree.leaves(x)]
    peak = jax.lax.stop_gradient(functools.reduce(jnp.maximum, peaks))
    unit = jnp.where((peak > 0) & jnp.isfinite(peak), peak, 1)
    small = jax.tree.map(lambda leaf: leaf.astype(wide(leaf.dtype)) / unit, x)
    return unit * sqrt(dot(small, small))


def sqrt(x: Array) -> Array:
    """Take the root of what is not negative; its derivative at 0 is 0, NaN stays NaN."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def axpy(a, x: PyTree, y: PyTree) -> PyTree:
    """Compute ``a x + y`` in the dtypes of ``y``."""
    return jax.tree.map(lambda xi, yi: (a * xi + yi).astype(yi.dtype), x, y)


def scale(a, x: PyTree) -> PyTree:
    """Compute ``a x`` in the dtypes of ``x``."""
    return jax.tree.map(lambda xi: (a * xi).astype(xi.dtype), x)


def add(x: PyTree, y: PyTree) -> PyTree:
    """Add two trees leaf by leaf (``+`` on two NamedTuples would concatenate them)."""
    return jax.tree.map(jnp.add, x, y)


def subtract(x: PyTree, y: PyTree) -> PyTree:
    """Subtract two trees leaf by leaf."""
    return jax.tree.map(jnp.subtract, x, y)


def project(basis: PyTree, x: PyTree) -> Array:
    """Multiply ``x`` with every vector of a basis (leading axis m of each leaf): ``(m,)``."""
    # in full precision also on accelerators: orthogonality rests on it
    product = functools.partial(jnp.matmul, precision="highest")
    terms = jax.tree.map(lambda b, v: product(b.reshape(b.shape[0], -1), v.reshape(-1)), basis, x)
    return functools.reduce(jnp.add, jax.tree.leaves(terms))


def combine(basis: PyTree, coefficients: Array) -> PyTree:
    """Sum the vectors of a basis, weighted: ``(m,)`` gives a vector, ``(k, m)`` gives k."""
    product = functools.partial(jnp.tensordot, axes=1, precision="highest")
    return jax.tree.map(lambda b: product(coefficients, b), basis)


def zeros(like: PyTree) -> PyTree:
    """Make the zero vector of a form."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)


def all_finite(x: PyTree) -> Array:
    """Tell whether no number of a tree is NaN or infinite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(x)]).all()


def random(key, like: PyTree, draw: Callable) -> PyTree:
    """Draw a vector of a form, at least float32: ``draw(key, shape, dtype)`` for each leaf."""
    leaves, treedef = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    draws = [draw(k, x.shape, wide(x.dtype)) for k, x in zip(keys, leaves)]
    return jax.tree.unflatten(treedef, draws)


def normalized(x: PyTree) -> PyTree:
    """Scale a vector to length 1."""
    return scale(1 / norm(x), x)


def size(x: PyTree) -> int:
    """Count the numbers in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(x))


def ravel(like: PyTree) -> tuple[Callable, Callable]:
    """Return ``(flatten, unflatten)`` between trees like ``like`` and vectors of one dtype."""
    unflatten = ravel_pytree(zeros(like))[1]
    return lambda x: ravel_pytree(x)[0], unflatten


def paths(tree: PyTree) -> list[str]:
    """Write the path of every leaf.

    Returns:
        In the order of the leaves.

    >>> paths({"a": [jnp.zeros(2), {"kernel": jnp.ones(1)}]})
    ['a/0', 'a/1/kernel']
    """
    return [path_text(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def path_text(path) -> str:
    """Write one key path of jax as ``a/b/0/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def matches(tree: PyTree, where: str | tuple[str, ...]) -> list[bool]:
    """Tell for each leaf whether one of the globs names it or a branch above it.

    ``*`` matches inside one name, ``**`` across names.

    Returns:
        One answer a leaf.

    Raises:
        ValueError: If a glob matches nothing; the nearest path is named.
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
    """Chosen leaves, and the way back.

    Attributes:
        chosen: The tree with ``None`` where a leaf was not chosen.
        merge: ``merge(chosen) -> tree`` puts them back among the others.
    """

    chosen: PyTree
    merge: Callable


def select(tree: PyTree, where: str | tuple[str, ...]) -> Selection:
    """Choose leaves by path.

    Args:
        tree: Any pytree.
        where: One glob or several, ``"**/kernel"`` or ``("0", "1/bias")``.

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
    """Refuse a tree whose structure or shapes are not those of ``like``.

    Args:
        x: What was given.
        like: What was expected: arrays or ``jax.ShapeDtypeStruct``.
        name: How the message calls ``x``.
        expected: How the message calls ``like``.

    Raises:
        ValueError: Names the first differing path, both shapes.
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
    if jax.tree.structure(x) != jax.tree.structure(like):
        raise ValueError(
            f"{name} differs from {expected}: expected the structure {jax.tree.structure(like)}, "
            f"got {jax.tree.structure(x)}"
        )


def _shape(shape: tuple | None) -> str:
    return "nothing" if shape is None else f"shape {shape}"


def check_floating(tree: PyTree, name: str) -> None:
    """Refuse leaves that cannot be differentiated.

    Raises:
        TypeError: Names the path and the dtype of the first leaf that is not a float array.
        ValueError: If there are no leaves.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError(f"{name} has no leaves; expected a pytree of float arrays")
    for path, leaf in leaves:
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            at = f" at path {path_text(path)!r}" if path else ""
            hint = ", put the rest into state" if name == "params" else ""
            raise TypeError(f"{name}{at} has dtype {dtype}; expected a float array{hint}")
