"""A scan as one equation of the chain rule: over layers, or over slices of x."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from funcdl._jaxpr import Scan, scan_parts
from funcdl._numerics import no_tangent
from funcdl._typing import ArrayLike
from funcdl.density._control_flow.base import Engine, NestedEquation, back_through, constants
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._program.program import Equation, Jaxpr, program

# There are two forms, and neither forms the Jacobian of the unrolled loop.
# Over layers, x is carried. The Jacobian is the product of those of the iterations, provided that x
# reaches a later x through x alone (``is_separate``); other carries may depend on x if x does not
# read them. The inverse runs backward, but a key or a counter only runs forward: the other carries
# are computed first, with zeros for x, because x does not read the ones that depend on it.
# Over slices, x is a sequence. y_t depends on x_t and on a carry that depends on earlier slices, so
# the Jacobian is block triangular with diagonal blocks dy_t/dx_t, in which the carry is fixed. The
# inverse runs forward, since the carry is computed from slices that are already known.
# The body is analyzed once per class of iterations, that is, per value of the constant sequences,
# because masks that alternate between layers change the sparsity of the body.

# the largest number of classes; beyond it the sequences are treated as unknown
_CLASSES = 4


def scan(
    equation: Equation, mapped: list, images: list, static: StaticValues, engine: Engine
) -> NestedEquation | None:
    """Treat a scan over layers or over slices as one equation; see ``dispatch.nested_equation``."""
    parts = scan_parts(equation.eqn)
    first, last = parts.consts, parts.consts + parts.carry
    over_layers = all(first <= at < last for at in mapped)
    over_slices = all(at >= last for at in mapped)
    if over_layers and images != [at - first for at in mapped]:
        return None
    if over_layers and not is_separate(parts.body, mapped, images, parts):
        return None
    if over_slices and any(at < parts.carry for at in images):
        return None
    if not (over_layers or over_slices):
        return None
    return _scanned(equation, parts, (mapped, images), static, engine)


def is_separate(body: Jaxpr, mapped: Sequence[int], images: Sequence[int], parts: Scan) -> bool:
    """Tell whether the carried x depends on the initial x through the carried x alone.

    Args:
        body: The body of the loop.
        mapped: The positions of x among the inputs of the body.
        images: The positions of x among the outputs of the body.
        parts: The number of constants and of carried values.

    Returns:
        False if another carried value depends on x and x reads it in a later iteration.
    """
    whole = program(body, mapped, images)
    others = [k for k in range(parts.carry) if k not in images]
    tainted = {k for k in others if whole.outputs[k] in whole.dynamic}
    while True:
        again = program(body, [parts.consts + k for k in tainted], images)
        grown = tainted | {k for k in others if again.outputs[k] in again.dynamic}
        if grown == tainted:
            return not any(again.outputs[k] in again.dynamic for k in images)
        tainted = grown


class Loop(NamedTuple):
    """A loop whose bodies are analyzed.

    Attributes:
        parts: The body, the counts of its inputs, and the options of the scan.
        mapped: The positions of the operands that are mapped.
        images: The positions of the results that they are mapped to.
        bodies: The analysis of the body, one per class of iterations.
        kinds: The class of each iteration.
        engine: The functions that treat the bodies.
    """

    parts: Scan
    mapped: list
    images: list
    bodies: list
    kinds: np.ndarray
    engine: Engine

    def operands(self, given: Sequence) -> tuple:
        """Split operands into constants, carry and sequences."""
        first, last = self.parts.consts, self.parts.consts + self.parts.carry
        return given[:first], given[first:last], given[last:]

    def run(self, kind: ArrayLike, args: Sequence) -> tuple:
        """Evaluate the body of a class and its log-determinant."""
        options = [lambda *args, b=b: self.engine.run(b, args) for b in self.bodies]
        return options[0](*args) if len(options) == 1 else jax.lax.switch(kind, options, *args)

    def invert(self, kind: ArrayLike, targets: list, args: Sequence) -> tuple:
        """Invert the body of a class; an argument that is unknown is None."""
        known = {at: x for at, x in enumerate(args) if x is not None}
        options = [partial(back_through, self.engine.invert, b, len(args)) for b in self.bodies]
        if len(options) == 1:
            return options[0](targets, known)
        return jax.lax.switch(kind, options, targets, known)


def _scanned(
    equation: Equation, parts: Scan, main: tuple[list, list], static: StaticValues, engine: Engine
) -> NestedEquation:
    mapped, images = main
    last, length = parts.consts + parts.carry, parts.options["length"]
    known = constants(equation, static)
    fixed = {at: x for at, x in known.items() if at < parts.consts}
    sequences = {at: x for at, x in known.items() if at >= last}
    kinds, members = _classes(sequences, length)
    slices = [{} if m is None else {at: x[m] for at, x in sequences.items()} for m in members]
    bodies = [engine.analyze(parts.body, mapped, images, fixed | these) for these in slices]
    loop = Loop(parts, mapped, images, bodies=bodies, kinds=kinds, engine=engine)
    over_layers = mapped[0] < last
    kind = f"scan over {length} {'layers' if over_layers else 'slices'}"
    back = partial(undone, loop, layers_back if over_layers else _slices_back)
    return NestedEquation(equation, partial(_ahead, loop), back, bodies, kind)


def _ahead(loop: Loop, *operands: ArrayLike) -> tuple:
    """Evaluate a scan and the sum of the log-determinants of its iterations."""
    fixed, carry, xs = loop.operands(operands)

    def body(state, at):
        carry, total = state
        kind, xs = at
        outs, log_det = loop.run(kind, (*fixed, *carry, *xs))
        return (outs[: loop.parts.carry], total + log_det), outs[loop.parts.carry :]

    start = list(map(jnp.asarray, carry)), jnp.zeros((), loop.bodies[0].program.dtype)
    along = jnp.asarray(loop.kinds), xs
    (carry, total), ys = jax.lax.scan(body, start, along, **loop.parts.options)
    return [*carry, *ys], total


def undone(loop: Loop, back: Callable, operands: Sequence, results: dict) -> tuple:
    """Undo a loop, with the derivatives of the implicit function if its body takes Newton steps."""
    # Newton steps have a custom rule, which jax forgets inside a scan that is differentiated twice;
    # this rule for the whole loop stands outside of the scan
    if not any(map(loop.engine.iterates, loop.bodies)):
        return back(loop, operands, results)
    mapped = [at for at, x in enumerate(operands) if x is None]
    known = {at: x for at, x in enumerate(operands) if x is not None}

    @jax.custom_jvp
    def undo(targets, known):
        return back(loop, [known.get(at) for at in range(len(operands))], targets)

    # J dx = dy - df, where df is the change of the results by the known operands
    @undo.defjvp
    def _(primals, tangents):
        (targets, known), (dy, dknown) = primals, tangents
        x, reached = undo(targets, known)
        floats = [at for at, value in known.items() if _is_float(value)]

        def images(x, floats_known):
            full = known | dict(zip(mapped, x)) | dict(zip(floats, floats_known))
            outs, _ = _ahead(loop, *(full[at] for at in range(len(operands))))
            return ravel_pytree([outs[k] for k in loop.images])[0]

        point, tangent = ([values[at] for at in floats] for values in (known, dknown))
        _, df = jax.jvp(lambda floats: images(x, floats), (point,), (tangent,))
        flat, unravel = ravel_pytree(x)
        jacobian = jax.jacfwd(lambda z: images(unravel(z), point))(flat)
        change = ravel_pytree([dy[k] for k in loop.images])[0] - df
        return (x, reached), (unravel(jnp.linalg.solve(jacobian, change)), no_tangent(reached))

    return undo({k: jnp.asarray(results[k]) for k in loop.images}, known)


def _is_float(x: ArrayLike) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def layers_back(loop: Loop, operands: Sequence, results: dict) -> tuple:
    """Undo the layers from the last to the first, after a forward pass for the other carries."""
    parts, images = loop.parts, loop.images
    fixed, carry, xs = loop.operands(operands)
    others = [k for k in range(parts.carry) if k not in images]
    zeros = {k: jnp.zeros_like(results[k]) for k in images}

    def ahead(state, at):
        kind, xs = at
        full = zeros | dict(zip(others, state))
        outs, _ = loop.run(kind, (*fixed, *(full[k] for k in range(parts.carry)), *xs))
        return [outs[k] for k in others], state

    along = jnp.asarray(loop.kinds), xs
    start = [jnp.asarray(carry[k]) for k in others]
    carried = jax.lax.scan(ahead, start, along, **parts.options)[1] if others else []

    def undo(state, at):
        targets, reached = state
        (kind, xs), carried = at
        full = dict.fromkeys(images) | dict(zip(others, carried))
        args = [*fixed, *(full[k] for k in range(parts.carry)), *xs]
        x, in_image = loop.invert(kind, targets, args)
        return (x, reached & in_image), None

    options = parts.options | {"reverse": not parts.options["reverse"]}
    start = [results[k] for k in images], jnp.asarray(True)
    return jax.lax.scan(undo, start, (along, carried), **options)[0]


def _slices_back(loop: Loop, operands: Sequence, results: dict) -> tuple:
    """Undo the slices in order: the carry of each is computed from the slices before it."""
    parts = loop.parts
    fixed, carry, xs = loop.operands(operands)
    known = {at: x for at, x in enumerate(xs) if x is not None}
    ys = [results[k] for k in loop.images]

    def undo(state, at):
        carry, reached = state
        kind, known, ys = at
        slices = [known.get(at) for at in range(len(xs))]
        found, in_image = loop.invert(kind, ys, [*fixed, *carry, *slices])
        for place, x in zip(loop.mapped, found):
            slices[place - parts.consts - parts.carry] = x
        outs, _ = loop.run(kind, (*fixed, *carry, *slices))
        return (outs[: parts.carry], reached & in_image), found

    start = list(map(jnp.asarray, carry)), jnp.asarray(True)
    along = jnp.asarray(loop.kinds), known, ys
    (_, reached), slices = jax.lax.scan(undo, start, along, **parts.options)
    return slices, reached


def _classes(sequences: dict, length: int) -> tuple[np.ndarray, list]:
    """Group the iterations of a scan by the values of the constants that they read.

    Args:
        sequences: The sequences that are constants, by position.
        length: The number of iterations.

    Returns:
        The class of each iteration, and one iteration of each class; ``[None]`` if there is one
        class whose constants are unknown.
    """
    one = np.zeros(length, np.int32), [None]
    if not sequences or length == 0:
        return one
    rows = [b"".join(np.ascontiguousarray(x[t]).tobytes() for x in sequences.values())
            for t in range(length)]  # fmt: skip
    distinct = list(dict.fromkeys(rows))
    if len(distinct) > _CLASSES:
        return one
    return np.array([distinct.index(r) for r in rows], np.int32), [rows.index(d) for d in distinct]
