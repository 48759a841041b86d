"""Optimizers by path: one optimizer for each leaf of the parameters."""

import jax
import optax

from funcdl import _tree
from funcdl._typing import PyTree


def optimizers_by_path(
    optimizers: dict[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Update the leaves that a glob matches with an optimizer of their own.

    If several globs match a leaf, the first one counts, so ``"**"`` at the end takes the remaining
    leaves. ``optax.set_to_zero()`` freezes leaves: they do not change and have no optimizer state.

    Args:
        optimizers: A dict ``{glob: optimizer}``; ``*`` matches inside one name, ``**`` across
            names, and a branch stands for all leaves below it.

    Returns:
        An optax transformation; extra arguments reach every optimizer. Its ``init`` raises
        ``ValueError`` if a glob matches no leaf (the message names the nearest path), if earlier
        globs match all of its leaves, or if a leaf has no optimizer.

    Raises:
        TypeError: If a value is not an optax transformation.
        ValueError: If ``optimizers`` is empty.

    >>> import jax.numpy as jnp
    >>> halves = optimizers_by_path({"head": optax.sgd(0.5), "**": optax.set_to_zero()})
    >>> params = {"body": jnp.ones(()), "head": jnp.ones(())}
    >>> updates, _ = halves.update(params, halves.init(params), params)
    >>> {name: x.item() for name, x in updates.items()}
    {'body': 0.0, 'head': -0.5}
    """
    if not isinstance(optimizers, dict):
        raise TypeError(
            f"optimizers is a {type(optimizers).__name__}; expected a dict from globs to "
            "optimizers, such as {'head/**': optax.sgd(0.1)}"
        )
    if not optimizers:
        raise ValueError("optimizers is empty; expected at least one glob and its optimizer")
    for glob, optimizer in optimizers.items():
        if not isinstance(optimizer, optax.GradientTransformation):
            raise TypeError(
                f"optimizers[{glob!r}] is a {type(optimizer).__name__}; expected an "
                "optax.GradientTransformation"
            )
    return optax.partition(
        {**optimizers},
        lambda params: first_match(params, tuple(optimizers)),
    )


def first_match(params: PyTree, globs: tuple[str, ...]) -> PyTree:
    """Label every leaf with the first glob that matches it.

    Returns:
        A tree of globs with the structure of the parameters.

    Raises:
        ValueError: If a glob labels no leaf, or a leaf has no label.
    """
    labels: list[str | None] = [None] * len(jax.tree.leaves(params))
    for glob in globs:
        hits = _tree.matches(params, glob)
        if not any(hit and label is None for hit, label in zip(hits, labels)):
            raise ValueError(
                f"earlier globs already match all leaves that {glob!r} matches; put the narrower "
                f"glob first: {globs}"
            )
        labels = [glob if hit and label is None else label for hit, label in zip(hits, labels)]
    if None in labels:
        path = _tree.paths(params)[labels.index(None)]
        raise ValueError(
            f"no glob of {globs} matches {path!r}; add '**' at the end for the remaining leaves"
        )
    return jax.tree.unflatten(jax.tree.structure(params), labels)
