"""Coupling flows: one half of a point says what is done to the other."""

import jax
import jax.numpy as jnp

from funcdl._check import real_array
from funcdl.flows._conditioner import Conditioner
from funcdl.flows._elements import Element, affine_element, spline_element
from funcdl.flows._flow import Flow, check_form, repeat


def real_nvp(layers: int, conditioner: Conditioner) -> Flow:
    r"""Build affine couplings, each followed by a rotation of the coordinates.

    .. math:: z_a = x_a, \qquad z_b = x_b\, e^{s(x_a)} + t(x_a)

    with :math:`|s| < 3`. One ``scan`` runs the layers.

    Args:
        layers: How many.
        conditioner: Of vectors; gives s and t from the first half, of ``d // 2`` numbers.

    Returns:
        A flow of points ``(d,)``.

    Raises:
        ValueError: If ``layers < 1``.
        TypeError: If it is no integer.

    Source: Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP" (2017).

    >>> from funcdl import density, flows
    >>> flow = flows.real_nvp(2, flows.mlp(8))
    >>> params = flow.init(jax.random.key(0), jnp.ones(4))
    >>> flow.forward(params, jnp.arange(4.0)).tolist()  # starts as the identity
    [0.0, 1.0, 2.0, 3.0]
    """
    return repeat(_coupling(conditioner, affine_element()), layers)


def neural_spline(
    layers: int, conditioner: Conditioner, *, bins: int = 8, bound: float = 4.0
) -> Flow:
    r"""Build couplings by monotone splines, each followed by a rotation of the coordinates.

    :math:`z_b` is a ``rational_quadratic`` spline of :math:`x_b`, the identity beyond ``bound``:
    standardize the data first. One ``scan`` runs the layers.

    Args:
        layers: How many.
        conditioner: Of vectors; gives the ``3 bins - 1`` numbers of each spline from the first
            half.
        bins: Pieces of a spline.
        bound: The splines act on numbers between ``-bound`` and ``bound``.

    Returns:
        A flow of points ``(d,)``; it starts as the identity, but for the rotations.

    Raises:
        ValueError: If ``layers < 1``, ``bins < 2`` or ``bound`` is not positive.
        TypeError: If a number is no integer.

    Source: Durkan, Bekasov, Murray and Papamakarios, "Neural spline flows" (2019).

    >>> from funcdl import density, flows
    >>> flow = flows.neural_spline(2, flows.mlp(8))
    >>> params = flow.init(jax.random.key(0), jnp.ones(4))
    >>> flow.forward(params, jnp.arange(4.0)).round(4).tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    return repeat(_coupling(conditioner, spline_element(bins, bound)), layers)


def _coupling(conditioner: Conditioner, element: Element) -> Flow:
    def init(key, x, context=None):
        check_form(x, 1)
        held = x.shape[0] // 2
        half = jax.ShapeDtypeStruct((held,), x.dtype)
        return conditioner.init(key, half, element.size * (x.shape[0] - held), context)

    def forward(params, x, context=None):
        x = real_array("x", x, 1)
        a, b = jnp.split(x, [len(x) // 2])
        raw = conditioner.apply(params, a, context).reshape(element.size, len(b))
        return jnp.concatenate([element.apply(raw, b), a])  # rotated, so that each has its turn

    return Flow(init, forward)
