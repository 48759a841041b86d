"""The pair ``Model(init, apply)``: a network as two pure functions."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax

from funcdl._typing import PyTree


class Variables(NamedTuple):
    """The variables of a network: ``params`` are differentiated, ``state`` is only passed on.

    Attributes:
        params: Any pytree of float arrays.
        state: Everything else (running means, counters); ``{}`` if the network has no state.
    """

    params: PyTree
    state: PyTree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Model:
    """A network as a pair of pure functions.

    A key means training, and ``key=None`` means evaluation; no other switch exists. In evaluation,
    ``apply`` returns ``state`` unchanged.

    Attributes:
        init: ``init(key, x) -> Variables``; it reads only shapes, so ``x`` may be a
            ``jax.ShapeDtypeStruct``.
        apply: ``apply(params, state, x, key=None) -> (y, state)``; ``x`` has a leading batch axis.

    >>> import jax.numpy as jnp
    >>> model = Model(
    ...     init=lambda key, x: Variables({"w": jnp.ones(x.shape[1:])}, {}),
    ...     apply=lambda params, state, x, key=None: (x @ params["w"], state),
    ... )
    >>> params, state = model.init(jax.random.key(0), jnp.zeros((4, 3)))
    >>> model.apply(params, state, jnp.ones((2, 3)))[0].tolist()
    [3.0, 3.0]
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[PyTree, PyTree]]
