"""How sharp a minimum is: the largest eigenvalue, and the worst loss nearby."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _batching, _tree
from funcdl._check import at_least, check_key, concrete
from funcdl._closure import hoisted
from funcdl._typing import Array, Key, PyTree
from funcdl.curvature._hessian import hessian
from funcdl.curvature._mean_operator import check_function, check_scalar, weighted
from funcdl.operators import EigenPairs, eigsh


def sharpness(
    loss: Callable,
    params: PyTree,
    data: PyTree = None,
    *,
    key: Key[Array, ""],
    tol: float = 1e-3,
    max_matvecs: int = 1000,
) -> EigenPairs:
    r"""Find the largest eigenvalue of the Hessian, :math:`\lambda_{\max}`, and its vector.

    Gradient descent with step η is stable where it is below 2 / η (Cohen et al., "Gradient descent
    on neural networks typically occurs at the edge of stability", ICLR 2021).

    Args:
        loss: As in ``hessian``.
        params: Any pytree of float arrays.
        data: One batch of arrays, or ``Batches``.
        key: Draws the start vector.
        tol: Relative tolerance of the residual.
        max_matvecs: Stop after this many products.

    Returns:
        One pair: ``values[0]``, its true residual, and whether it converged.

    Raises:
        ValueError: If the loss is not scalar, or there are no parameters.
        TypeError: If a parameter is not a float array, or the key not typed.

    >>> import jax.numpy as jnp
    >>> found = sharpness(lambda x: x[0] ** 2 - 3 * x[1] ** 2, jnp.ones(2), key=jax.random.key(0))
    >>> found.values.round(3).tolist(), found.converged.tolist()
    ([2.0], [True])
    """
    A = hessian(loss, params, data)
    return eigsh(A, 1, key=key, which="LA", tol=tol, max_matvecs=max_matvecs)


def stability_ratio(
    sharpness: Array | np.ndarray, learning_rate: Array | float, *, momentum: Array | float = 0.0
) -> Array:
    r"""Compare the sharpness with the edge, :math:`\lambda_{\max}\, \eta / (2 + 2 \beta)`.

    On a quadratic, gradient descent with step η and heavy-ball momentum β diverges where the ratio
    exceeds 1; while a net is trained with full batches it tends to rise to 1 and stay there.

    Args:
        sharpness: The largest eigenvalue of the Hessian, of one step or of a whole history.
        learning_rate: η.
        momentum: β, 0 for plain gradient descent.

    Returns:
        The ratio, of the shape of ``sharpness``.

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
        value: The loss there.
        increase: By how much it exceeds that at the center.
        displacement: From the center, a tree like the parameters.
    """

    value: Array
    increase: Array
    displacement: PyTree


def worst_loss(
    loss: Callable,
    params: PyTree,
    data: PyTree = None,
    *,
    radius: float,
    key: Key[Array, ""],
    steps: int = 30,
) -> WorstLoss:
    r"""Search the worst loss in a ball, :math:`\max_{\|\delta\| \le \rho} \ell(\theta + \delta)`.

    Each step goes to the point of the sphere in the direction of the gradient at the one before,
    :math:`\delta \leftarrow \rho\, g / \|g\|`. A loss that is convex in the ball never falls so;
    of any other the best point met is returned: a lower bound of the maximum.

    Args:
        loss: As in ``hessian``.
        params: Any pytree of float arrays, :math:`\theta`.
        data: One batch of arrays, or ``Batches``.
        radius: ρ, positive.
        key: Draws the first direction: at a minimum the gradient gives none.
        steps: How many, each a gradient.

    Returns:
        The worst that was met.

    Raises:
        ValueError: If the loss is not scalar, there are no parameters, or radius or steps are not
            positive.
        TypeError: If a parameter is not a float array, or the key not typed.

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
        raise ValueError(f"radius is {radius}; expected a positive length")
    at_least("steps", steps, 1)
    examples = [(params,)] if data is None else [(params, form) for form in _batching.forms(data)]
    loss = hoisted(loss, *examples)
    check_scalar(jax.eval_shape(loss, *examples[0]))
    return _worst(loss, params, data, jnp.asarray(radius), key, jnp.arange(steps))


@jax.jit
def _worst(loss, params, data, radius, key, steps) -> WorstLoss:
    def whole(delta):
        point = _tree.axpy(1, delta, params)
        total = lambda point, *batch: weighted(loss, *batch)(point)
        one = lambda *batch: jax.value_and_grad(total, has_aux=True)(point, *batch)
        (value, weight), gradient = one() if data is None else _batching.total(one, data)
        return value / weight, _tree.scale(1 / weight, gradient)

    def on_sphere(direction):
        length = _tree.norm(direction)
        return _tree.scale(radius / jnp.where(length == 0, 1, length), direction)

    def step(carry, _):
        delta, best, where = carry
        value, gradient = whole(delta)
        better = value > best
        where = jax.tree.map(lambda a, b: jnp.where(better, a, b), delta, where)
        return (on_sphere(gradient), jnp.where(better, value, best), where), None

    center = _tree.scale(0, params)
    value = whole(center)[0]
    first = on_sphere(_tree.random(key, params, jax.random.normal))
    first = jax.tree.map(lambda x, p: x.astype(p.dtype), first, params)
    (_, best, where), _ = jax.lax.scan(step, (first, value, center), steps)
    return WorstLoss(best, best - value, where)
