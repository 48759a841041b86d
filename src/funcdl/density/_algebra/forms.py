"""The values and the derivatives of a program's elementwise parts as polynomials."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from funcdl.density._algebra.polynomial import (
    ABS,
    ERFC,
    EXP,
    LOG,
    SIGN,
    SUM,
    NoForm,
    Polynomial,
    atom,
    collected,
    constant,
    direction,
    plus,
    scaled,
    times,
)
from funcdl.density._algebra.rules import RULES, SUMS
from funcdl.density._algebra.signs import cases, is_bare, with_signs, without_magnitude
from funcdl.density._primitives.static_values import StaticValues
from funcdl.density._primitives.table import is_move, record
from funcdl.density._program.program import Equation, Operand, Program, Variable

# Every variable of a program gets a form: its value as a polynomial in atoms of earlier variables,
# through all segments back to x, and its derivatives by the roots of its own segment. The chain
# rule is applied to polynomials, so that terms cancel before they are rounded.
# A value without a form, or a sum of several terms that may cancel, becomes a root: the program's
# own value is then used, which is as exact as anything that is computed from it.
# Operations that move numbers act on the roots: a slice of exp(x) is the exponential of a slice.
# Most programs need none of this. A form is ``risky`` if the ordinary chain rule may lose digits:
# it adds derivatives of different signs, or reads a value that is a difference or may overflow.

_IMPRECISE = ("cumsum", "cumprod", "concatenate", "reduce_sum", "reduce_prod")


class Root(NamedTuple):
    """A variable that is not taken apart, moved.

    Attributes:
        source: The variable, or a constant array.
        moves: Equations that move the numbers of one array, applied in turn.
        repair: The equation that computes it and the values of its operands, if these have more
            digits than the operands themselves; else None.
    """

    source: Any
    moves: tuple
    repair: tuple | None = None


class Form(NamedTuple):
    """What is known about a variable.

    Attributes:
        value: The value.
        slopes: The derivatives by the roots in the segment of the variable.
        is_delicate: Whether the value, as the program computes it, may have lost digits that the
            polynomial keeps.
        is_risky: Whether the ordinary chain rule may lose digits of the derivatives.
    """

    value: Polynomial
    slopes: dict[int, Polynomial]
    is_delicate: bool = False
    is_risky: bool = False


class Forms:
    """The forms of all variables of a program.

    Attributes:
        roots: The roots, by number.
        form: The form of each variable that has one.
    """

    def __init__(self, program: Program, segments: list, static: StaticValues, bounds: Callable):
        self.static, self.bounds = static, bounds
        self.roots: list[Root] = []
        self.form: dict[Variable, Form] = {}
        self._numbers: dict = {}
        self._positive: set[int] = set()
        self._dynamic = program.dynamic
        # the magnitude of a difference is that of the variable that holds it
        self._first: dict[Variable, Variable] = {}
        self._inputs: dict[Equation, set] = {}
        for segment in segments:
            inputs = set(segment.inputs)
            self._inputs.update((e, inputs) for e in segment.equations)
        self._origin = {v: e for e in program.equations for v in e.results}
        self._find_repeated(program)
        self._whole = {self._same(e.operands[0]) for e in program.equations if e.name == "abs"
                       if isinstance(e.operands[0], Variable)}  # fmt: skip
        for equation in program.equations:
            for variable in equation.results:
                if variable.is_real:
                    first = self._same(variable)
                    self.form[variable] = self.form.get(first) or self._of(equation, variable)

    def _find_repeated(self, program: Program) -> None:
        """Find the variables that a segment computes twice, as a user who writes x - 3 twice."""
        seen: dict = {}
        for equation in program.equations:
            if len(equation.results) != 1 or not (equation.name in RULES or is_move(equation.name)):
                continue
            operands = [self._same(o) if isinstance(o, Variable) else self._index(o)
                        for o in equation.operands]  # fmt: skip
            params = str(sorted(equation.eqn.params.items(), key=str))
            key = equation.name, params, id(self._inputs.get(equation)), *operands
            self._first[equation.results[0]] = seen.setdefault(key, equation.results[0])

    def _same(self, variable: Variable) -> Variable:
        return self._first.get(variable, variable)

    def _of(self, equation: Equation, result: Variable) -> Form:
        """Return the form of a result."""
        if len(equation.results) == 1:
            with suppress(NoForm, OverflowError, ZeroDivisionError, ValueError, KeyError):
                if equation.name == "select_n":
                    return self._selected(equation)
                operands = [self._operand(o, equation) for o in equation.operands]
                if _moves_one(equation, self.static):
                    return self._moved(equation, operands[0])
                if equation.name in _IMPRECISE and any(f.is_delicate for f in operands):
                    return self._repaired(equation, operands)
                if equation.name in RULES:
                    return self._computed(equation, operands)
        return self._opaque(result)

    def _opaque(self, variable: Variable) -> Form:
        number = self.number(variable)
        slopes = {number: constant(1)} if variable in self._dynamic else {}
        return Form(self.root(number), slopes)

    def _operand(self, operand: Operand, equation: Equation) -> Form:
        value = self.static.value(operand)
        if value is not None and not np.iscomplexobj(value):
            if value.size and (value == value.flat[0]).all():
                return Form(constant(float(value.flat[0])), {})
            return Form(self.root(self.number(operand)), {})
        if not isinstance(operand, Variable):
            raise NoForm
        if operand in self._inputs.get(equation, ()):
            number = self.number(operand)
            own = self.form.get(operand)
            if own is None or (_is_shift(own.value) and not own.is_delicate):
                return Form(self.root(number), {number: constant(1)})
            return Form(own.value, {number: constant(1)}, own.is_delicate)
        if operand in self.form:
            return self.form[operand]
        if not operand.is_real:
            raise NoForm
        return self._opaque(operand)

    def number(self, source: Any, moves: tuple = (), repair: tuple | None = None) -> int:
        """Return the number of a root."""
        source = self._same(source) if isinstance(source, Variable) else source
        key = source if isinstance(source, Variable) else id(source)
        key = (
            key,
            tuple((e.name, str(e.eqn.params), *map(self._index, e.operands[1:])) for e in moves),
        )
        if key not in self._numbers:
            self._numbers[key] = len(self.roots)
            self.roots.append(Root(source, moves, repair))
        return self._numbers[key]

    def _index(self, operand: Operand) -> bytes:
        value = self.static.value(operand)
        return (
            np.asarray(value).tobytes() + str(np.shape(value)).encode()
            if value is not None
            else b"%d" % id(operand)
        )

    def root(self, number: int) -> Polynomial:
        """Return a root as a polynomial: its magnitude, times its sign unless that is known."""
        source = self.roots[number].source
        low, high = self.bounds(source)
        magnitude = atom((ABS, number))
        if low >= 0 or number in self._positive:
            return magnitude
        return scaled(magnitude, -1) if high <= 0 else times(atom((SIGN, number)), magnitude)

    def _moved(self, equation: Equation, operand: Form) -> Form:
        """Move the roots of a form."""
        move = lambda p: collected((self._moved_monomial(m, equation), c) for m, c in p.items())
        slopes = {self._moved_root(k, equation): move(p) for k, p in operand.slopes.items()}
        return operand._replace(value=move(operand.value), slopes=slopes)

    def _moved_root(self, number: int, equation: Equation) -> int:
        root = self.roots[number]
        moved = self.number(root.source, (*root.moves, equation), root.repair)
        if number in self._positive:
            self._positive.add(moved)
        return moved

    def _moved_monomial(self, m: frozenset, equation: Equation) -> frozenset:
        return frozenset((self._moved_atom(a, equation), power) for a, power in m)

    def _moved_atom(self, a: tuple, equation: Equation) -> tuple:
        kind, inner = a
        if kind in (ABS, SIGN):
            return kind, self._moved_root(inner, equation)
        if kind == EXP:
            return kind, self._moved_monomial(inner, equation)
        if kind == ERFC:
            return kind, (self._moved_monomial(inner[0], equation), inner[1])
        if kind == LOG:
            return kind, self._moved_atom(inner, equation)
        return SUM, frozenset((self._moved_monomial(m, equation), c) for m, c in inner)

    def _selected(self, equation: Equation) -> Form:
        """Return the form that two cases share, such as 2 - erfc(x) and erfc(-x) by the sign of x.

        Raises:
            NoForm: If they differ.
        """
        test, *cases = equation.operands
        no, yes = (self._operand(o, equation) for o in cases)
        merged = no._replace(
            is_delicate=no.is_delicate or yes.is_delicate, is_risky=no.is_risky or yes.is_risky
        )
        if no.slopes.keys() != yes.slopes.keys():
            raise NoForm
        if (no.value, no.slopes) == (yes.value, yes.slopes):
            return merged
        number, sign = self._tested(test)
        one = lambda p, q: _common(p, q, number, sign)
        slopes = {k: one(no.slopes[k], yes.slopes[k]) for k in no.slopes}
        return merged._replace(value=one(no.value, yes.value), slopes=slopes)

    def _tested(self, test: Operand) -> tuple[int, int]:
        """Return the root, and its sign, for which a comparison with 0 is true.

        Raises:
            NoForm: If it is another test.
        """
        signs = {"gt": 1, "ge": 1, "lt": -1, "le": -1}
        equation = self._origin.get(test)
        if equation is None or equation.name not in signs:
            raise NoForm
        left, right = (self._operand(o, equation).value for o in equation.operands)
        (p, sign) = (left, 1) if not right else (right, -1)
        if (left and right) or len(p) != 1:
            raise NoForm
        ((m, c),) = p.items()
        unknown = [a[1] for a, _ in m if a[0] == SIGN]
        rest = frozenset((a, own) for a, own in m if a[0] != SIGN)
        if len(unknown) != 1 or direction({rest: c}) == 0:
            raise NoForm
        return unknown[0], sign * signs[equation.name] * direction({rest: c})

    def _repaired(self, equation: Equation, operands: list[Form]) -> Form:
        """Return a root whose value is computed again from operands with more digits."""
        (result,) = equation.results
        number = self.number(result, (), (equation, [f.value for f in operands]))
        if "sum" not in equation.name and all(direction(f.value) == 1 for f in operands):
            self._positive.add(number)
        slopes = {number: constant(1)} if result in self._dynamic else {}
        return Form(self.root(number), slopes, is_delicate=True)

    def _computed(self, equation: Equation, operands: list[Form]) -> Form:
        """Apply the rule of a primitive and the chain rule."""
        (result,) = equation.results
        number = self.number(result)
        values = [f.value for f in operands]
        value, partials = RULES[equation.name](equation.eqn.params, self.root(number), *values)
        is_risky = any(f.is_risky for f in operands if f.slopes)
        slopes: dict[int, Polynomial] = {}
        for at, (partial, f) in enumerate(zip(partials, operands)):
            read = operands if equation.name != "mul" else operands[:at] + operands[at + 1 :]
            is_linear = equation.name in ("add", "sub", "add_any", "neg", "abs")
            if f.slopes and not is_linear:
                is_risky |= any(g.is_delicate for g in read)
            if f.slopes and equation.name in SUMS:
                is_risky |= _is_delicate(SUMS[equation.name](f.value), [f.value, constant(1)])
            for k, slope in f.slopes.items():
                term = times(partial, slope)
                if k in slopes:
                    is_risky |= _may_cancel(slopes[k], term)
                    term = plus(slopes[k], term)
                slopes[k] = term
        # a value of erfc underflows where its logarithm does not
        is_delicate = equation.name == "erfc" or any(f.is_delicate for f in operands)
        if equation.name in ("add", "sub", "add_any"):
            is_delicate |= _is_delicate(value, values)
        is_whole = result in self._whole or (len(value) > 2 and cases(value) is None)
        if _is_shift(value) and is_whole:
            value, is_delicate = self.root(number), False
        return Form(value, slopes, is_delicate, is_risky)


def _common(no: Polynomial, yes: Polynomial, number: int, sign: int) -> Polynomial:
    """Return the polynomial that equals ``yes`` where a root has a sign, and ``no`` elsewhere.

    Raises:
        NoForm: If none is found.
    """
    both = (with_signs(yes, {number: sign}), sign), (with_signs(no, {number: -sign}), -sign)
    for (p, own), (q, _) in (both, both[::-1]):
        merged = without_magnitude(p, number, own)
        if with_signs(merged, {number: -own}) == q:
            return merged
    raise NoForm


def _is_shift(value: Polynomial) -> bool:
    """Tell whether a value is a difference of roots."""
    return len(value) > 1 and not direction(value) and is_bare(value)


def _may_cancel(p: Polynomial, q: Polynomial) -> bool:
    is_constant = all(not m for m in (*p, *q))
    return not is_constant and (direction(p) == 0 or direction(p) != direction(q))


def _is_delicate(value: Polynomial, operands: list[Polynomial]) -> bool:
    """Tell whether a sum loses digits, or overflows, where the polynomial does not."""
    if len(value) > 1 and not is_bare(value) and any(a[0] == EXP for m in value for a, _ in m):
        return True
    terms = sum(len(p) for p in operands)
    if len(value) > 1 and _sums(value) and not direction(value):
        return True
    return terms > max(len(value), 1) or _sums(value) != _sums(*operands)


def _sums(*polynomials: Polynomial) -> set:
    return {(a, power) for p in polynomials for m in p for a, power in m if a[0] == SUM}


def _moves_one(equation: Equation, static: StaticValues) -> bool:
    """Tell whether an equation moves the numbers of one array without changing them."""
    first, *others = equation.operands
    if record(equation.name).sources != (0,) or equation.eqn.params.get("fill_value") is not None:
        return False
    if equation.name == "reduce_precision" or not isinstance(first, Variable) or not first.is_real:
        return False
    if equation.name == "convert_element_type" and first.dtype != equation.results[0].dtype:
        return False
    return all(static.value(o) is not None for o in others)
