"""Whether a map is injective: proved, assumed or refuted, before it runs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from funcdl._closure import as_partial
from funcdl._typing import PyTree
from funcdl.density._inversion import injectivity as _injective
from funcdl.density._inversion.invert import judge_each
from funcdl.density._trace import traced


def require_injective(f: Callable, x: PyTree, args: tuple) -> None:
    """Refuse a function of which the structure shows that it is not injective.

    Raises:
        NotInjectiveError: With the operation, file and line.
    """
    shapes = jax.tree.map(
        lambda l: jax.ShapeDtypeStruct(np.shape(l), jnp.result_type(l)), (x, args)
    )
    jax.eval_shape(_judged, as_partial(f), *shapes)


@jax.jit
def _judged(f: Partial, x: PyTree, args: tuple) -> list:
    known = traced(f, x, args)
    _injective.require_square(known.analysis)
    for verdict in judge_each(known.analysis):
        if verdict.startswith("refuted: "):
            raise _injective.NotInjectiveError(verdict.removeprefix("refuted: "))
    return []
