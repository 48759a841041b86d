"""An interpreter of jaxprs that records, operation by operation, how parameters are used."""

from collections.abc import Callable
from typing import Any

import jax

from funcdl import _jaxpr
from funcdl._jaxpr import Equation
from funcdl._typing import Array
from funcdl.per_example._recording import products as _products
from funcdl.per_example._recording import relocations
from funcdl.per_example._recording.sites import Alias, Site, Tapped, plain, whole

_MOVES = """reshape transpose squeeze expand_dims slice rev pad convert_element_type
    broadcast_in_dim copy name sharding_constraint""".split()  # noqa: SIM905
_RULES = {
    **dict.fromkeys(_MOVES, relocations.moved),
    "concatenate": relocations.joined,
    "stack": relocations.joined,
    "dot_general": _products.dot,
    "conv_general_dilated": _products.conv,
    "gather": _products.rows,
}


# A parameter travels as an `Alias`, a linear function of its leaf, through operations that only
# move its entries. The first operation that does anything else is a site. The jaxpr is interpreted
# twice: without taps, to collect the sites and the shapes of their results; then with one zero
# array added to each result, so that a single vjp in these zeros yields the second factor `g` of
# every site, while `inputs` holds the values that the first factor `a` is computed from.
class Recorder:
    """Collects sites while a jaxpr is interpreted, and adds the zeros to differentiate in.

    Attributes:
        sites: The sites so far.
        inputs: The arrays that each parameter was multiplied by.
        taps: One zero array per site, or ``None`` while sites are only collected.
    """

    def __init__(self, taps: list | None = None):
        self.sites: list[Site] = []
        self.inputs: list = []
        self.taps = taps

    def rule(self, equation: Equation, operands: list, plainly: Callable) -> list:
        """Evaluate one equation, and record how it uses parameters."""
        name = equation.primitive.name
        if not any(isinstance(x, Alias) for x in operands):
            return plainly(*operands)
        if name in _jaxpr.CALLS:
            return _jaxpr.interpret(_jaxpr.called(equation), operands, self.rule)
        if name == "scan":
            return self.scan(equation, operands)
        record = _RULES.get(name)
        result = record(equation, operands, plainly) if record else None
        if result is None:
            rule = "elementwise" if _is_elementwise(equation) else f"fallback ({name})"
            return plainly(*(self.whole(x, equation, rule) for x in operands))
        return [self.tap(result) if isinstance(result, Tapped) else result]

    def tap(self, result: Tapped) -> Array:
        """Add the zero in which the result is differentiated."""
        index = len(self.sites)
        self.sites.append(result.site)
        self.inputs.append(result.inputs)
        return result.value if self.taps is None else result.value + self.taps[index]

    def whole(self, x: Any, equation: Equation | None, rule: str) -> Any:
        """Use a parameter in one piece; other values are returned unchanged."""
        return self.tap(whole(x, equation, rule)) if isinstance(x, Alias) else x

    def scan(self, equation: Equation, operands: list) -> list:
        """Enter a loop: its steps share a constant, and each has its own slice of a sequence."""
        parts = _jaxpr.scan_parts(equation)
        first, last, length = parts.consts, parts.consts + parts.carry, parts.options["length"]
        operands = [
            self.whole(x, equation, "fallback (carried by scan)") if first <= i < last else x
            for i, x in enumerate(operands)
        ]
        values = list(map(plain, operands))

        def step(taps, carry, xs):
            inner = Recorder(taps)
            args = [
                Alias(x, i, lambda leaf: leaf, True) if isinstance(outer, Alias) else x
                for i, (x, outer) in enumerate(zip([*values[:first], *carry, *xs], operands))
            ]
            out = list(map(plain, _jaxpr.interpret(parts.body, args, inner.rule)))
            return out[: parts.carry], out[parts.carry :], inner

        sites: list[Site] = []

        def find_sites(carry, xs):
            sites.extend(step(None, carry, xs)[2].sites)

        carry, xs = values[first:last], values[last:]
        jax.eval_shape(find_sites, carry, [x[0] for x in xs])
        taps = self.taps and self.taps[len(self.sites) :][: len(sites)]

        def body(carry, xs):
            carry, ys, inner = step(xs[0], carry, xs[1])
            return carry, (ys, inner.inputs)

        carry, (ys, inputs) = jax.lax.scan(body, carry, (taps, xs), **parts.options)
        for site in sites:
            in_loop = _shared if site.leaf < first else _sliced
            self.sites.append(in_loop(operands[site.leaf], site, length))
        self.inputs.extend(inputs)
        return [*carry, *ys]


def _is_elementwise(equation: Equation) -> bool:
    out = equation.outvars[0].aval.shape
    shapes = [v.aval.shape for v in equation.invars if v.aval.shape]
    return all(len(x) == len(out) and all(a in (1, b) for a, b in zip(x, out)) for x in shapes)


def _stacked(site: Site, length: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((length, *site.form.shape), site.form.dtype)


def _shared(alias: Alias, site: Site, length: int) -> Site:
    """Treat the steps of a loop as further positions that share the parameter."""

    def factors(inputs, g):
        steps = jax.vmap(site.factors)(inputs, g)  # (T, B, t, ...)
        return tuple(y.swapaxes(0, 1).reshape(y.shape[1], -1, *y.shape[3:]) for y in steps)

    return site._replace(
        leaf=alias.leaf,
        place=lambda leaf: site.place(alias.place(leaf)),
        injective=alias.injective and site.injective,
        form=_stacked(site, length),
        factors=factors,
    )


def _sliced(alias: Alias, site: Site, length: int) -> Site:
    """Treat the steps of a loop as stacked matrices."""

    def factors(inputs, g):
        steps = jax.vmap(site.factors)(inputs, g)  # (L, B, t, ...)
        return tuple(y.reshape(-1, *y.shape[2:]) for y in steps)

    return site._replace(
        leaf=alias.leaf,
        numbers=length * site.numbers,
        place=lambda leaf: jax.vmap(site.place)(alias.place(leaf)),
        injective=alias.injective and site.injective,
        form=_stacked(site, length),
        factors=factors,
        unfold=lambda y: jax.vmap(site.unfold)(y.reshape(length, -1, *y.shape[1:])),
    )
