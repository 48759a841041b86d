"""Search for two points with the same image, which refutes that a map is injective."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._jaxpr import each
from funcdl._typing import Array, Function
from funcdl.density._control_flow.base import Analysis
from funcdl.density._jacobian.parts import Plan, joined, replay, split
from funcdl.density._primitives.table import is_move
from funcdl.density._program.program import Segment, Variable

# A determinant of one sign does not make a map injective: z^2 of a complex number has 4 |z|^2, and
# exp(z) is periodic. From one trial point, Newton steps toward the image of another may end at a
# third, which then has the same image. Such a pair is evidence only if the Jacobian is regular at
# both points and rounding explains neither the distance nor the residual; saturated maps have many
# points with nearly the same image. Only the segment that reads x is searched, since the inputs of
# later ones may not fill their bounds; and none with a while loop, which may never end at a NaN.

_LARGEST = 8  # numbers; a wider block would take long to compile
_TARGETS, _STEPS = 4, 24


def collision(
    plan: Plan, analysis: Analysis, outside: dict, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Search for two points with the same image.

    Args:
        plan: The plan of a segment that reads constants only.
        analysis: The analysis of its program.
        outside: The constants.
        points: Trial points, of shape ``(points, n)``.

    Returns:
        The two points; None if the segment is not searched, or no pair is found.
    """
    has_blocks = any(len(block.rows) > 1 for block in plan.blocks or [])
    if plan.n > _LARGEST or not has_blocks or not _reads_x(plan.segment, analysis):
        return None
    if any(e.primitive.name == "while" for s in plan.segment.equations for e in each(s.eqn)):
        return None
    f = partial(_image, plan.segment, outside)
    targets = points[len(points) // 2 :][:_TARGETS]
    starts = np.concatenate([points, -points])
    with jax.ensure_compile_time_eval():
        search = jax.jit(jax.vmap(jax.vmap(partial(_other, f), (None, 0)), (0, None)))
        found, is_other = map(np.asarray, search(targets, starts))
    for p, ends, flags in zip(targets, found, is_other):
        if flags.any():
            return p, ends[np.argmax(flags)]
    return None


def _reads_x(segment: Segment, analysis: Analysis) -> bool:
    """Tell whether nothing but moves and changes of unit and origin come before a segment."""
    dynamic = analysis.program.dynamic
    for earlier in analysis.segments:
        if earlier is segment:
            return True
        for e in earlier.equations:
            places = [
                at for at, o in enumerate(e.operands) if isinstance(o, Variable) and o in dynamic
            ]
            is_affine = e.name in ("neg", "add", "sub", "mul", "div") and len(places) == 1
            if not is_move(e.name) and not (is_affine and (e.name != "div" or places == [0])):
                return False
    return False


def _image(segment: Segment, outside: dict, x: Array) -> Array:
    return joined(replay(segment, outside, split(x, segment.inputs)), segment.outputs)


def _other(f: Function, p: Array, start: Array) -> tuple[Array, Array]:
    """Return the end of Newton steps toward f(p), and whether it is another such point."""
    y, eps = f(p), jnp.finfo(p.dtype).eps
    jacobian = jax.jacfwd(f)
    size = jnp.abs(p).max()

    def step(_, x):
        move = jnp.linalg.solve(jacobian(x), y - f(x))
        longest = 2 * jnp.maximum(size, jnp.abs(x).max())
        return x + move * jnp.minimum(1, longest / jnp.abs(move).max())

    x = jax.lax.fori_loop(0, _STEPS, step, start)
    noise = 64 * eps * (jnp.abs(y) + jnp.abs(f(x))).max()
    spread = lambda x: noise * jnp.abs(jnp.linalg.inv(jacobian(x))).sum(1).max()
    distance = jnp.abs(x - p).max()
    is_far = (distance > 0.01 * size) & (jnp.maximum(spread(x), spread(p)) < 0.01 * distance)
    return x, is_far & (jnp.abs(f(x) - y).max() <= noise)
