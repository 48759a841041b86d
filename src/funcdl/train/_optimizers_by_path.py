"""Optimizers by path: each leaf of the parameters has one."""

import jax
import optax

from funcdl import _tree
from funcdl._typing import PyTree


def optimizers_by_path(
    optimizers: dict[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Give the leaves that a glob names an optimizer of their own.

    Of several globs that name a leaf the first counts, so that ``"**"`` at the end takes the rest.
    ``optax.set_to_zero()`` freezes: such leaves stay as they are, and have no optimizer state.

    Args:
        optimizers: ``{glob: optimizer}``; ``*`` matches inside one name, ``**`` across names, and a
            branch stands for all leaves below it.

    Returns:
        An optax transformation; extra arguments reach every optimizer. Its ``init`` raises
        ``ValueError`` if a glob names no leaf (the nearest path is given), all its leaves are taken
        by globs before it, or a leaf has no optimizer.

    Raises:
        TypeError: If a value is no optax transformation.
        ValueError: If there is none.

    >>> import jax.numpy as jnp
    >>> halves = optimizers_by_path({"head": optax.sgd(0.5), "**": optax.set_to_zero()})
    >>> params = {"body": jnp.ones(()), "head": jnp.ones(())}
    >>> updates, _ = halves.update(params, halves.init(params), params)
    >>> {name: x.item() for name, x in updates.items()}
    {'body': 0.0, 'head': -0.5}
    """
    if not optimizers:
        raise ValueError("optimizers is empty; expected a glob and its optimizer")
    for glob, optimizer in optimizers.items():
        if not isinstance(optimizer, optax.GradientTransformation):
            raise TypeError(
                f"optimizers[{glob!r}] is a {type(optimizer).__name__}; expected an "
                "optax.GradientTransformation"
            )
    return optax.partition(optimizers, lambda params: first_match(params, tuple(optimizers)))


def first_match(params: PyTree, globs: tuple[str, ...]) -> PyTree:
    """Label every leaf with the first glob that names it.

    Returns:
        A tree of globs, like the parameters.

    Raises:
        ValueError: If a glob labels no leaf, or a leaf has none.
    """
    labels = [None] * len(jax.tree.leaves(params))
    for glob in globs:
        hits = _tree.matches(params, glob)
        if not any(hit and label is None for hit, label in zip(hits, labels)):
            raise ValueError(
                f"all that {glob!r} names has an earlier glob; put the narrower one first: {globs}"
            )
        labels = [glob if hit and label is None else label for hit, label in zip(hits, labels)]
    if None in labels:
        path = _tree.paths(params)[labels.index(None)]
        raise ValueError(f"no glob of {globs} names {path!r}; '**' at the end takes the rest")
    return jax.tree.unflatten(jax.tree.structure(params), labels)
