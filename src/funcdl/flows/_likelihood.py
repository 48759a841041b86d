"""Training of a flow by maximum likelihood."""

from collections.abc import Callable

import jax
from jax.tree_util import Partial

from funcdl._typing import LogProb, LossFunction, PyTree
from funcdl.density import pullback
from funcdl.flows._flow import Flow


def likelihood(flow: Flow, log_base: LogProb) -> tuple[Callable[..., PyTree], LossFunction]:
    r"""Return the two arguments of ``train.objective`` that fit a flow to data.

    .. math:: \ell(\theta) = -\frac1b \sum_i \log p_\theta(x_i), \qquad
              \log p_\theta(x) = \log q(f_\theta(x)) + \log|\det \partial f_\theta / \partial x|

    Args:
        flow: The flow from data to base; its log-determinant is derived from its operations.
        log_base: The log-density of the base, ``log_base(z) -> scalar``, such as
            ``standard_normal``.

    Returns:
        ``init(key, batch) -> params`` and ``loss(params, batch)``, in nats. A batch is ``x`` or
        ``(x, context)``, with a leading axis of examples.

    Source: Papamakarios et al., "Normalizing flows for probabilistic modeling and inference"
    (2021).

    >>> import jax.numpy as jnp
    >>> from funcdl import density, flows
    >>> flow = flows.real_nvp(2, flows.mlp(4))
    >>> init, loss = flows.likelihood(flow, flows.standard_normal)
    >>> x = jnp.zeros((3, 2))
    >>> loss(init(jax.random.key(0), x), x).round(4).item()  # log 2 pi
    1.8379
    """

    def init(key, batch):
        one = jax.eval_shape(lambda parts: [part[0] for part in parts], _parts(batch))
        return flow.init(key, *one)

    def loss(params, batch):
        log_prob = pullback(log_base, Partial(flow.forward, params))
        return -jax.vmap(log_prob)(*_parts(batch)).mean()

    return init, loss


def _parts(batch: PyTree) -> tuple:
    return batch if isinstance(batch, tuple) else (batch,)
