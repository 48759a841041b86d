"""The sharpness of a minimum: the largest eigenvalue, and the worst loss nearby."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from funcdl import _batching, _tree
from funcdl._check import at_least, check_key, concrete
from funcdl._closure import hoisted
from funcdl._typing import Array, Key, LossFunction, PyTree
from funcdl.curvature._hessian import hessian
from funcdl.curvature._mean_operator import check_function, check_scalar, weighted
from funcdl.operators import EigenPairs, LinearOperator, eigsh


def sharpness(
    loss: LossFunction,
    params: PyTree,
    data: PyTree = None,
    *,
    key: Key[Array, ""],
    tol: float = 1e-3,
    max_matvecs: int = 1000,
) -> EigenPairs:
    r"""Compute the largest eigenvalue of the Hessian, :math:`\lambda_{\max}`, and its eigenvector.

    Gradient descent with step size η is stable where it is below 2 / η (Cohen et al., "Gradient
    descent on neural networks typically occurs at the edge of stability", ICLR 2021).

    Args:
        loss: The loss, as in ``hessian``.
        params: Any pytree of float arrays.
        data: One batch of arrays, or ``Batches``.
        key: The random key for the start vector.
        tol: The relative tolerance of the residual.
        max_matvecs: The largest number of products.

    Returns:
        One pair: ``values[0]``, its true residual, and whether it converged.

    Raises:
        ValueError: If the loss is not scalar, or ``params`` is empty.
        TypeError: If a parameter is not a float array, or the key is not typed.

    >>> import jax.numpy as jnp
    >>> pair = sharpness(lambda x: x[0] ** 2 - 3 * x[1] ** 2, jnp.ones(2), key=jax.random.key(0))
    >>> pair.values.round(3).tolist(), pair.converged.tolist()
    ([2.0], [True])
    """
    A = cast(LinearOperator, hessian(loss, params, data))  # eigsh rejects a StreamOperator
    return eigsh(A, 1, key=key, which="LA", tol=tol, max_matvecs=max_matvecs)


def stability_ratio(
    sharpness: Array | np.ndarray, learning_rate: Array | float, *, momentum: Array | float = 0.0
) -> Array:
    r"""Divide the sharpness by its stability limit, :math:`\lambda_{\max}\, \eta / (2 + 2 \beta)`.

    On a quadratic, gradient descent with step size η and heavy-ball momentum β diverges where the
    ratio exceeds 1; while a network is trained with full batches, it tends to rise to 1 and stay.

    Args:
        sharpness: The largest eigenvalue of the Hessian, of one step or of a whole history.
        learning_rate: The step size η.
        momentum: The momentum β, 0 for plain gradient descent.

    Returns:
        The ratio, with the shape of ``sharpness``.

    Raises:
        ValueError: If the momentum is not in [0, 1).

    Source: Cohen, Kaur, Li, Kolter and Talwalkar, "Gradient descent on neural networks typically
    occurs at the edge of stability", ICLR (2021), section 2.

    >>> stability_ratio(jnp.asarray([10.0, 20.0]), 0.1).tolist()
    [0.5, 1.0]
    """
    known = concrete(momentum)
    if known is not None and not ((known >= 0) & (known < 1)).all():
        raise ValueError(f"momentum is {momentum}; expected 0 <= momentum < 1")
    return jnp.asarray(sharpness) * learning_rate / (2 + 2 * momentum)


class WorstLoss(NamedTuple):
    """The largest loss that was found in a ball around parameters.

    Attributes:
        value: The loss at that point.
        increase: The difference to the loss at the center.
        displacement: The point minus the center, a tree like the parameters.
    """

    value: Array
    increase: Array
    displacement: PyTree


def worst_loss(
    loss: LossFunction,
    params: PyTree,
    data: PyTree = None,
    *,
    radius: float,
    key: Key[Array, ""],
    steps: int = 30,
) -> WorstLoss:
    r"""Search for the worst loss in a ball, :math:`\max_{\|\delta\| \le \rho} \ell(\theta+\delta)`.

    Each step moves to the point of the sphere in the direction of the previous gradient,
    :math:`\delta \leftarrow \rho\, g / \|g\|`. If the loss is convex in the ball, it never falls
    along these steps; in any case the best point visited is returned: a lower bound of the maximum.

    Args:
        loss: The loss, as in ``hessian``.
        params: Any pytree of float arrays, :math:`\theta`.
        data: One batch of arrays, or ``Batches``.
        radius: The radius ρ, positive.
        key: The random key for the first direction, since the gradient at a minimum gives none.
        steps: The number of steps, one gradient each.

    Returns:
        The worst loss that was found.

    Raises:
        ValueError: If the loss is not scalar, ``params`` is empty, or radius or steps are not
            positive.
        TypeError: If a parameter is not a float array, or the key is not typed.

    Source: Journée, Nesterov, Richtárik and Sepulchre, "Generalized power method for sparse
    principal component analysis", JMLR 11 (2010); Foret et al., "Sharpness-aware minimization",
    ICLR (2021).

    >>> import jax.numpy as jnp
    >>> loss = lambda x: 3 * x[0] ** 2 + x[1] ** 2
    >>> worst_loss(loss, jnp.zeros(2), radius=0.5, key=jax.random.key(0)).value.round(4).item()
    0.75
    """
    check_function(loss, "loss", "params, batch")
    check_key(key)
    _tree.check_floating(params, "params")
    if isinstance(radius, (int, float)) and not radius > 0:
        raise ValueError(f"radius is {radius}; expected a positive number")
    at_least("steps", steps, 1)
    examples = [(params,)] if data is None else [(params, form) for form in _batching.forms(data)]
    loss = hoisted(loss, *examples)
    check_scalar(jax.eval_shape(loss, *examples[0]))
    return _worst(loss, params, data, jnp.asarray(radius), key, jnp.arange(steps))


@jax.jit
def _worst(
    loss: Partial, params: PyTree, data: PyTree, radius: Array, key: Key[Array, ""], steps: Array
) -> WorstLoss:
    def value_and_grad(delta):
        point = _tree.axpy(1, delta, params)
        total = lambda point, *batch: weighted(loss, *batch)(point)
        one = lambda *batch: jax.value_and_grad(total, has_aux=True)(point, *batch)
        (value, weight), gradient = one() if data is None else _batching.total(one, data)
        return value / weight, _tree.scale(1 / weight, gradient)

    def on_sphere(direction):
        length = _tree.norm(direction)
        return _tree.scale(radius / jnp.where(length == 0, 1, length), direction)

    def step(carry, _):
        delta, best, best_delta = carry
        value, gradient = value_and_grad(delta)
        is_worse = value > best
        best_delta = jax.tree.map(lambda a, b: jnp.where(is_worse, a, b), delta, best_delta)
        return (on_sphere(gradient), jnp.where(is_worse, value, best), best_delta), None

    center = _tree.scale(0, params)
    value = value_and_grad(center)[0]
    first = on_sphere(_tree.random(key, params, jax.random.normal))
    first = jax.tree.map(lambda x, p: x.astype(p.dtype), first, params)
    (_, best, best_delta), _ = jax.lax.scan(step, (first, value, center), steps)
    return WorstLoss(value=best, increase=best - value, displacement=best_delta)
