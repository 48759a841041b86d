"""What an operator is to others: its cost as XLA counts it, scipy's and lineax's operators."""

from collections.abc import Callable
from typing import NamedTuple

import jax


class Cost(NamedTuple):
    """What one product costs, as XLA counts it: ``flops`` and temporary ``bytes``."""

    flops: float
    bytes: int


def cost(product: Callable, *args) -> Cost:
    """Compile ``product(*args)`` and count it."""
    compiled = jax.jit(product).lower(*args).compile()
    flops = (compiled.cost_analysis() or {}).get("flops", float("nan"))
    memory = compiled.memory_analysis()
    return Cost(float(flops), memory.temp_size_in_bytes if memory else 0)


def as_scipy(flat, flat_t):
    """Make scipy's operator of one between flat vectors and its transpose."""
    import numpy as np
    from scipy.sparse.linalg import LinearOperator as Scipy

    return Scipy(
        (flat.space_out.size, flat.space_in.size),
        matvec=lambda v: np.asarray(flat @ v.reshape(-1)),
        rmatvec=lambda v: np.asarray(flat_t @ v.reshape(-1)),
        dtype=np.dtype(jax.tree.leaves(flat.shape_in)[0].dtype),
    )


def as_lineax(a):
    """Make lineax's operator, with the tags of this one."""
    import lineax as lx

    tags = [lx.symmetric_tag] * a.symmetric + [lx.positive_semidefinite_tag] * a.psd
    return lx.FunctionLinearOperator(a.__matmul__, a.shape_in, frozenset(tags))
