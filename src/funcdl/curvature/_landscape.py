"""Losses along lines and planes through parameters."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl import _batching, _tree
from funcdl._check import check_key
from funcdl._closure import hoisted
from funcdl._typing import Array, Float, Key, LossFunction, PyTree
from funcdl.curvature._mean_operator import check_function, check_scalar, weighted


def loss_landscape(
    loss: LossFunction,
    params: PyTree,
    directions: Sequence[PyTree],
    grid: Float[Array, " g"],
    data: PyTree = None,
) -> Array:
    r"""Evaluate the loss on a grid, :math:`\ell(\theta + \sum_k t_k d_k)`.

    Args:
        loss: ``loss(params, batch)``, or ``loss(params)`` without data.
        params: Any pytree of float arrays, :math:`\theta`.
        directions: One or several trees like ``params``, :math:`d_k`: from ``filter_normalized``,
            or eigenvectors, or the difference of two solutions.
        grid: The steps t along every direction, ``(g,)``.
        data: One batch of arrays, or ``Batches``.

    Returns:
        The mean loss over all examples, with one axis of length g per direction.

    Raises:
        ValueError: If ``directions`` is empty, one is not like ``params``, or the loss not scalar.
        TypeError: If a parameter is not a float array; the message names its path.

    >>> import jax.numpy as jnp
    >>> loss = lambda x: x[0] ** 2 + 10 * x[1] ** 2
    >>> axes = jnp.asarray([1.0, 0.0]), jnp.asarray([0.0, 1.0])
    >>> loss_landscape(loss, jnp.zeros(2), axes, jnp.asarray([0.0, 1.0])).tolist()
    [[0.0, 10.0], [1.0, 11.0]]
    """
    check_function(loss, "loss", "params, batch")
    _tree.check_floating(params, "params")
    if not directions:
        raise ValueError("directions is empty; expected at least one tree like params")
    for k, direction in enumerate(directions):
        _tree.check_like(direction, params, f"directions[{k}]", "params")
    examples = [(params,)] if data is None else [(params, form) for form in _batching.forms(data)]
    loss = hoisted(loss, *examples)
    check_scalar(jax.eval_shape(loss, *examples[0]))
    return _landscape(loss, params, tuple(directions), grid, data)


@jax.jit
def _landscape(
    loss: Partial, params: PyTree, directions: tuple, grid: Array, data: PyTree
) -> Array:
    def at(steps):
        point = params
        for t, direction in zip(steps, directions):
            point = _tree.axpy(t, direction, point)
        one = lambda *batch: weighted(loss, *batch)(point)
        total, weight = one() if data is None else _batching.total(one, data)
        return total / weight

    mesh = jnp.meshgrid(*[grid] * len(directions), indexing="ij")
    steps = jnp.stack([t.reshape(-1) for t in mesh], axis=1)
    return jax.lax.map(at, steps).reshape(mesh[0].shape)


def filter_normalized(key: Key[Array, ""], params: PyTree) -> PyTree:
    """Draw a direction in which every filter is as long as that of the parameters.

    The picture then does not change when a layer and its successor are rescaled. A filter produces
    one output: it is the slice at one index of the last axis. Vectors and scalars (biases, and the
    scales of normalizations) do not move.

    Args:
        key: The random key for the direction.
        params: Any pytree of float arrays.

    Returns:
        A tree like ``params``.

    Raises:
        TypeError: If a parameter is not a float array, or the key is not typed.

    Source: Li, Xu, Taylor, Studer and Goldstein, "Visualizing the loss landscape of neural nets",
    NeurIPS (2018).

    >>> import jax.numpy as jnp
    >>> d = filter_normalized(jax.random.key(0), jnp.asarray([[3.0, 0.0], [4.0, 1.0]]))
    >>> jnp.linalg.norm(d, axis=0).round(5).tolist()
    [5.0, 1.0]
    """
    check_key(key)
    _tree.check_floating(params, "params")

    def scaled(draw, p):
        if p.ndim < 2:
            return jnp.zeros_like(p)
        length = lambda x: _tree.sqrt((x**2).sum(axis=tuple(range(x.ndim - 1)), keepdims=True))
        return (draw * (length(p) / length(draw))).astype(p.dtype)

    return jax.tree.map(scaled, _tree.random(key, params, jax.random.normal), params)


def subspace_overlap(vectors: PyTree, others: PyTree) -> Array:
    r"""Measure the overlap of two subspaces, :math:`\|U^\top V\|_F^2 / k`.

    Args:
        vectors: k orthonormal vectors, a leading axis k on every leaf, as in ``EigenPairs``.
        others: Further orthonormal vectors, as many or more.

    Returns:
        A number from 0 to 1, where the other subspace contains the first. Random subspaces of
        dimension k of n overlap by k / n.

    Raises:
        ValueError: If the vectors differ in structure.

    Source: Gur-Ari, Roberts and Dyer, "Gradient descent happens in a tiny subspace" (2018).

    >>> import jax.numpy as jnp
    >>> subspace_overlap(jnp.eye(3)[:2], jnp.eye(3)[1:]).item()
    0.5
    """
    for name, tree in (("vectors", vectors), ("others", others)):
        if not jax.tree.leaves(tree) or any(jnp.ndim(x) == 0 for x in jax.tree.leaves(tree)):
            raise ValueError(
                f"{name} has shapes {jax.tree.map(jnp.shape, tree)}; expected vectors along a "
                "leading axis, such as eigsh(...).vectors"
            )
    one = lambda tree: jax.tree.map(lambda x: x[0], tree)
    _tree.check_like(one(others), one(vectors), "others", "vectors")
    products = jax.vmap(lambda v: _tree.project(others, v))(vectors)
    return (products**2).sum() / len(products)
