"""Interoperability: the cost of a product as XLA counts it, SciPy and lineax operators."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from funcdl.operators._core.space import Operator


class Cost(NamedTuple):
    """The cost of one product as XLA counts it: ``flops`` and temporary ``bytes``."""

    flops: float
    bytes: int


def cost(product: Callable, *args: Any) -> Cost:
    """Compile ``product(*args)`` and return its cost."""
    compiled = jax.jit(product).lower(*args).compile()
    flops = (compiled.cost_analysis() or {}).get("flops", float("nan"))
    memory = compiled.memory_analysis()
    return Cost(float(flops), memory.temp_size_in_bytes if memory else 0)


def as_scipy(flat: Operator, flat_t: Operator) -> Any:
    """Build a SciPy operator from an operator on flat vectors and its transpose."""
    import numpy as np
    from scipy.sparse import linalg

    # SciPy's __new__ dispatches on these arguments, which its stub does not declare
    build: Any = linalg.LinearOperator
    return build(
        (flat.space_out.size, flat.space_in.size),
        matvec=lambda v: np.asarray(flat @ v.reshape(-1)),
        rmatvec=lambda v: np.asarray(flat_t @ v.reshape(-1)),
        dtype=np.dtype(jax.tree.leaves(flat.shape_in)[0].dtype),
    )


def as_lineax(a: Operator) -> Any:
    """Build a lineax operator with the tags that correspond to the marks of this one."""
    import lineax as lx  # pyright: ignore[reportMissingImports]  # an extra

    tags = [lx.symmetric_tag] * a.symmetric + [lx.positive_semidefinite_tag] * a.psd
    return lx.FunctionLinearOperator(a.__matmul__, a.shape_in, frozenset(tags))
