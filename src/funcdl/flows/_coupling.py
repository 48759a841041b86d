"""Coupling flows: one half of a point determines the transformation of the other half."""

import jax
import jax.numpy as jnp

from funcdl._check import real_array
from funcdl.flows._conditioner import Conditioner
from funcdl.flows._elements import Element, affine_element, spline_element
from funcdl.flows._flow import Flow, check_form, repeat


def real_nvp(layers: int, conditioner: Conditioner) -> Flow:
    r"""Build affine coupling layers, each followed by a cyclic shift of the coordinates.

    .. math:: z_a = x_a, \qquad z_b = x_b\, e^{s(x_a)} + t(x_a)

    with :math:`|s| < 3`. The layers run in one ``scan``.

    Args:
        layers: The number of layers.
        conditioner: A conditioner of vectors, such as ``mlp``. It computes s and t from the first
            half of the point, ``d // 2`` numbers.

    Returns:
        A flow of points ``(d,)``.

    Raises:
        ValueError: If ``layers < 1``.
        TypeError: If ``layers`` is not an integer.

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
    r"""Build coupling layers of monotone splines, each followed by a cyclic shift.

    :math:`z_b` is a ``rational_quadratic`` spline of :math:`x_b` and the identity beyond ``bound``,
    so standardize the data first. The layers run in one ``scan``.

    Args:
        layers: The number of layers.
        conditioner: A conditioner of vectors, such as ``mlp``. It computes the ``3 bins - 1``
            parameters of each spline from the first half of the point.
        bins: The number of pieces of a spline.
        bound: The splines act on numbers between ``-bound`` and ``bound``.

    Returns:
        A flow of points ``(d,)``. At initialization it is the identity up to the shifts.

    Raises:
        ValueError: If ``layers < 1``, ``bins < 2`` or ``bound`` is not positive.
        TypeError: If ``layers`` or ``bins`` is not an integer.

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
        # in the other order, so that the next layer transforms the other half
        return jnp.concatenate([element.apply(raw, b), a])

    return Flow(init, forward)
