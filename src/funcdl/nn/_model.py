"""The pair ``Model(init, apply)``: a network as two pure functions."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax

from funcdl._typing import PyTree


class Variables(NamedTuple):
    """What a network carries: ``params`` are differentiated, ``state`` is only passed on.

    Attributes:
        params: Any pytree of float arrays.
        state: Everything else (running means, counters); ``{}`` where there is none.
    """

    params: PyTree
    state: PyTree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Model:
    """A network as a pair of pure functions.

    A key means training, ``key=None`` means evaluation; there is no other switch.
    In evaluation ``apply`` returns ``state`` as it came.

    Attributes:
        init: ``init(key, x) -> Variables``; reads only shapes, ``jax.ShapeDtypeStruct`` is enough.
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

    init: Callable
    apply: Callable
