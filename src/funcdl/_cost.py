"""The operations of a function, with the bodies of loops counted as often as they run."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex

from funcdl import _jaxpr
from funcdl._typing import Function, PyTree

# XLA's analysis counts the body of every loop once. The body of a scan of n steps is therefore
# analyzed alone and added n - 1 times, and so on for the scans inside it. How often another loop
# runs is only known while it runs, so its cost is NaN.


def counted(f: Function, *forms: PyTree, analyze: Callable[[Any], dict]) -> dict[str, float]:
    """Count the operations of a function.

    Args:
        f: The function.
        forms: The arguments of the function, or their ``jax.ShapeDtypeStruct``.
        analyze: ``analyze(lowered) -> costs``, the numbers that XLA counts.

    Returns:
        The numbers by name; NaN if the function has a loop whose length depends on values.

    >>> import jax.numpy as jnp
    >>> ten = lambda x: jax.lax.fori_loop(0, 10, lambda i, x: x @ x, x)
    >>> costs = lambda lowered: {"flops": lowered.cost_analysis()["flops"]}
    >>> counted(ten, jnp.ones((4, 4)), analyze=costs)["flops"] // (2 * 4**3)
    10.0
    """
    total = analyze(jax.jit(f).lower(*forms))
    more, is_known = _repetitions(jax.make_jaxpr(f)(*forms), analyze)
    if not is_known:
        return dict.fromkeys(total, math.nan)
    return {name: value + more.get(name, 0.0) for name, value in total.items()}


def _repetitions(jaxpr: Any, analyze: Callable[[Any], dict]) -> tuple[dict[str, float], bool]:
    """Return the costs of all but the first steps of the loops, and whether they are known."""
    more = {}
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name = equation.primitive.name
        if name == "while":
            return {}, False
        times = 1
        if name == "scan":
            scan = _jaxpr.scan_parts(equation)
            times = scan.options["length"]
            # a scan of no steps is not compiled, so that there is nothing to subtract
            _add(more, _alone(scan.body, analyze), max(times - 1, 0))
        for inner in _jaxpr.subjaxprs(equation):
            found, is_known = _repetitions(inner, analyze)
            if not is_known:
                return {}, False
            _add(more, found, times)
    return more, True


def _add(sums: dict[str, float], costs: dict[str, float], times: int) -> None:
    for name, value in costs.items():
        sums[name] = sums.get(name, 0.0) + times * value


def _alone(body: Any, analyze: Callable[[Any], dict]) -> dict[str, float]:
    """Analyze the body of a scan as a program by itself."""
    closed = body if hasattr(body, "consts") else jex.ClosedJaxpr(body, [])
    inside = getattr(closed, "jaxpr", closed)
    forms = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in inside.invars]
    return analyze(jax.jit(jex.jaxpr_as_fun(closed)).lower(*forms))
