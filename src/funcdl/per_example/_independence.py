"""Proof, from the jaxpr, that a loss is a mean over examples that do not interact.

The function is traced twice, with batches of two sizes: an axis whose size changes holds the
examples. Then each operation must keep the examples apart.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

from funcdl import _jaxpr, _source
from funcdl._batch_size import grows, growth, two_traces
from funcdl._jaxpr import Equation
from funcdl._typing import PyTree
from funcdl.per_example import _batch_axes as _layout
from funcdl.per_example._batch_axes import Axes

# operations that are linear in a sum over examples, so that the result can still be a mean
_LINEAR = """add add_any sub mul div neg convert_element_type reshape squeeze expand_dims transpose
    copy broadcast_in_dim reduce_sum select_n reduce_precision slice name""".split()  # noqa: SIM905
_SUMS = "reduce_sum", "dot_general"
_ALONG = """cumsum cumprod cummax cummin cumlogsumexp sort rev concatenate
    top_k""".split()  # noqa: SIM905
_MATRICES = """cholesky triangular_solve eigh eig svd lu qr householder_product geqrf schur
    tridiagonal tridiagonal_solve""".split()  # noqa: SIM905
_DRAWS = """random_bits random_gamma random_split threefry2x32 rng_bit_generator
    rng_uniform""".split()  # noqa: SIM905
# operations that keep positions of examples valid; a look-up first handles negative positions
_POSITIONS = """reshape broadcast_in_dim convert_element_type concatenate squeeze expand_dims
    transpose copy lt add select_n""".split()  # noqa: SIM905
_BATCH_NORM = (
    "batch normalization in training mode has this effect: apply it with its running averages"
)
_WEIGHTS = "for a weighted or masked mean, return losses.Mean(total, weight) before the division"


class _Kind(NamedTuple):
    """The abstract value of an array in the proof."""

    total: bool = False  # a sum over the examples
    position: bool = False  # depends on the position of an example in the batch
    lead: int = 0  # how often the examples are repeated along their axis; 0 for a constant


def _joined(kinds: Iterable[_Kind]) -> _Kind:
    """Return the least kind that covers several."""
    kinds = list(kinds)
    return _Kind(
        total=any(k.total for k in kinds),
        position=any(k.position for k in kinds),
        lead=max(k.lead for k in kinds),
    )


class ExamplesInteractError(ValueError):
    """Examples interact in a loss, so that it is not a mean of losses of single examples."""


def require_independent(f: Callable, params: PyTree, batch: PyTree) -> Callable:
    """Return a function if the examples of a batch do not interact in it, and raise otherwise.

    Args:
        f: ``f(params, batch)``, whose outputs have the axis of examples or are means over it.
        params: Arrays or ``jax.ShapeDtypeStruct``.
        batch: The same, with a leading axis of examples on every leaf that has axes.

    Returns:
        The same function.

    Raises:
        ExamplesInteractError: If they interact; the message names the operation, file and line.
        ValueError: If the outputs change when the batch is repeated, as a sum over it does.
    """
    traces = two_traces(f, params, batch)
    if traces is None:
        raise ExamplesInteractError(
            "the loss computes differently for batches of different sizes, so it is unknown "
            "whether it is a mean of losses of single examples"
        )
    _Proof(*traces).prove()
    power = growth(f, params, batch, traces)
    if power:
        raise ValueError(grows(power))
    return f


# An abstract interpretation of the jaxpr. Every value is a `_Kind`; the axes that hold examples are
# not part of it, but read from the shapes of the two traces. Invariant: each value is, per example,
# a function of that example alone; or a sum over examples (`total`), in which everything later is
# linear; or a position in the batch, which may only serve to look up the same example again. An
# operation is accepted only if it is known to keep this. Loops run until the kinds are stable.
class _Proof:
    def __init__(self, one: Any, two: Any, sizes: tuple[int, int]):
        self.jaxpr, self.sizes, self.calls = one, sizes, []
        forms = one.in_avals, two.in_avals
        self.inputs = [_Kind(lead=int(a.shape != b.shape)) for a, b in zip(*forms)]
        self.twins = {id(e): twin for e, twin in zip(_jaxpr.equations(one), _jaxpr.equations(two))}

    def prove(self) -> None:
        _jaxpr.interpret(self.jaxpr, self.inputs, self.rule)

    def rule(self, equation: Equation, operands: list, _plainly: Callable) -> list[_Kind]:
        kinds = [x if isinstance(x, _Kind) else _Kind() for x in operands]
        twin = self.twins[id(equation)]
        ins, outs = (
            [self.axes(equation, v, w) for v, w in zip(vs, ws)]
            for vs, ws in (
                (equation.invars, twin.invars),
                (equation.outvars, twin.outvars),
            )
        )
        name = equation.primitive.name
        if name in _jaxpr.CALLS_WITH_RULES:
            self.calls.append(_source.where(equation))
            results = _jaxpr.interpret(_jaxpr.called(equation), kinds, self.rule)
            self.calls.pop()
            return results
        if name == "scan":
            return self.scan(equation, kinds, ins, outs)
        has_examples = any(ins) or any(k.total for k in kinds)
        if has_examples and name in ("while", "cond"):
            return self.branches(equation, kinds, outs)
        if name in _DRAWS and any(outs) and not ins[0]:
            self.refuse(
                equation, "draws separately for each position (put a key into each example)"
            )
        self.look(equation, kinds, ins, outs)
        total = any(k.total for k in kinds) or (any(ins) and not any(outs))
        lead = self.lead(equation, kinds, ins, outs)
        return [_Kind(total, self.position(equation, twin, kinds, ins, outs), lead)] * len(outs)

    def lead(self, equation: Equation, kinds: list[_Kind], ins: Axes, outs: Axes) -> int:
        """Return how often the examples of the result are repeated along their axis."""
        leads = {k.lead for k, axes in zip(kinds, ins) if axes and k.lead}
        if len(leads) > 1:
            self.refuse(equation, "pairs different examples")
        lead = max(leads, default=0) if any(outs) else 0
        if equation.primitive.name == "tile" and lead:
            lead *= equation.params["reps"][min(outs[0])]
        if equation.primitive.name == "reshape" and lead:
            (before,), (after,) = ins[0], outs[0]
            lead = _layout.lead(equation, lead, before, after, self.sizes[0])
            if not lead:
                self.refuse(equation, "splits the axis of the examples")
        return lead

    def position(
        self,
        equation: Equation,
        twin: Equation,
        kinds: list[_Kind],
        ins: Axes,
        outs: Axes,
    ) -> bool:
        """Tell whether the result holds positions of examples; they may only be used to look up."""
        name = equation.primitive.name
        if name == "iota":
            return equation.params["dimension"] in outs[0]
        known = [k.position for k in kinds]
        if not any(known):
            return False
        if name == "gather" or name.startswith("scatter"):
            follows, is_valid = False, known == [i == 1 for i in range(len(known))]
            is_valid = is_valid and _layout.is_looked_up(equation, ins)
        else:
            follows = name in _POSITIONS and _layout.keeps_positions(equation, twin, known)
            is_valid = follows
        if not is_valid:
            self.refuse(equation, "depends on the position of an example in the batch")
        return follows

    def axes(self, equation: Equation, one: Any, two: Any) -> frozenset[int]:
        """Return the axes that hold the examples: those whose size is that of the batch."""
        a, b = self.sizes
        shapes = getattr(one.aval, "shape", ()), getattr(two.aval, "shape", ())
        differing = {i: s for i, s in enumerate(zip(*shapes)) if s[0] != s[1]}
        if any(m % a or m * b != n * a for m, n in differing.values()):
            self.refuse(equation, "cuts or joins batches")
        if len(differing) > 1:
            self.refuse(equation, "pairs every example with every other one")
        return frozenset(differing)

    def look(self, equation: Equation, kinds: list[_Kind], ins: Axes, outs: Axes) -> None:
        """Raise an error if one operation mixes examples."""
        name, params = equation.primitive.name, equation.params
        totals = [k.total for k in kinds]
        if any(totals):
            if any(ins) or any(outs):
                self.refuse(equation, "brings a sum over the batch back to single examples")
            nonlinear = name not in _LINEAR or (name == "mul" and all(totals))
            if nonlinear or (name == "div" and totals[1]):
                hint = _WEIGHTS if name == "div" and all(totals) else _BATCH_NORM
                self.refuse(equation, "is not linear in a sum over the batch", hint)
        if not any(ins):
            return
        if not any(outs) and name not in _SUMS:
            self.refuse(equation, "reduces over the batch other than by a sum")
        if name in _ALONG and _layout.along(equation) & (frozenset.union(*ins, *outs)):
            self.refuse(equation, "works along the axis of the examples")
        if name in _MATRICES and any(
            i >= v.aval.ndim - 2 for axes, v in zip(ins, equation.invars) for i in axes
        ):
            self.refuse(equation, "uses the examples as rows or columns of one matrix")
        if name.startswith("conv_general") and not _layout.keeps_rows(params, ins, outs):
            self.refuse(equation, "slides over the examples")
        window = params.get("window_dimensions")
        if window and any(window[i] != 1 for i in ins[0]):
            self.refuse(equation, "slides over the examples")
        if name == "dot_general" and all(ins) and any(outs):
            batch = params["dimension_numbers"][1]
            if not all(axes <= set(b) for axes, b in zip(ins, batch)):
                self.refuse(equation, "multiplies different examples")
        if name == "fft" and _layout.along(equation) & ins[0]:
            self.refuse(equation, "works along the axis of the examples")
        if name in _layout.CUTS and not _layout.is_whole(equation, ins, outs):
            self.refuse(equation, "picks examples by their position")
        if not kinds[1:] or kinds[1].position or not name.startswith(("gather", "scatter")):
            return
        if _layout.looks_up(equation) & ins[0]:
            self.refuse(equation, "picks examples by their position")

    def scan(self, equation: Equation, kinds: list[_Kind], ins: Axes, outs: Axes) -> list[_Kind]:
        parts = _jaxpr.scan_parts(equation)
        first = parts.consts + parts.carry
        sequences = [*ins[first:], *outs[parts.carry :]]
        if any(0 in axes for axes in sequences):  # each step takes its own examples
            others = ins[:first]
            if parts.carry or any(others) or any(k.total or k.position for k in kinds):
                self.refuse(equation, "passes a value from example to example")
            return [_Kind(lead=self.lead(equation, kinds, ins, outs))] * len(outs)
        return self.fixed(parts.body, kinds, parts.consts, parts.carry)

    def fixed(self, body: Any, kinds: list[_Kind], consts: int, carry: int) -> list[_Kind]:
        """Run the body of a loop until the kinds of its carry are stable."""
        while True:
            out = _jaxpr.interpret(body, kinds, self.rule)
            out = [x if isinstance(x, _Kind) else _Kind() for x in out]
            before = kinds[consts : consts + carry]
            after = [_joined(pair) for pair in zip(before, out)]
            if after == before:
                return out
            kinds = [*kinds[:consts], *after, *kinds[consts + carry :]]

    def branches(self, equation: Equation, kinds: list[_Kind], outs: Axes) -> list[_Kind]:
        """Follow branches and loops whose condition depends on no example."""
        if any(k.total for k in kinds) or not any(outs):
            self.refuse(equation, "decides for the whole batch")
        if equation.primitive.name == "while":
            parts = _jaxpr.while_parts(equation)
            kinds, carried = kinds[parts.test_consts :], kinds[: parts.test_consts]
            out = self.fixed(parts.body, kinds, parts.consts, len(outs))
            _jaxpr.interpret(parts.test, [*carried, *out], self.rule)
            return out
        results = [
            _jaxpr.interpret(body, kinds[1:], self.rule) for body in _jaxpr.subjaxprs(equation)
        ]
        results = [[x if isinstance(x, _Kind) else _Kind() for x in out] for out in results]
        return [_joined(same) for same in zip(*results)]

    def refuse(self, equation: Equation, reason: str, hint: str = _BATCH_NORM) -> NoReturn:
        lines = filter(None, [_source.where(equation), *reversed(self.calls)])
        raise ExamplesInteractError(
            f"{equation.primitive.name} at {next(lines, 'an unknown line')} {reason}, so the loss "
            f"is not a mean of losses of single examples ({hint})"
        )
