"""Where parameters are used: the sites of a jaxpr at which a derivative splits into two factors.

A parameter enters a computation through operations that are linear in it. Where that operation is
a product of matrices (dense layer, einsum, attention, convolution, a row of a table), the gradient
of one example is :math:`a^\\top g`: ``a`` is what the parameter was multiplied with, ``g`` the
derivative in the product. Both fall out of one pass backward over all examples.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _jaxpr
from funcdl._typing import Array


class Alias(NamedTuple):
    """A value that is a linear function of one parameter."""

    value: Array
    leaf: int  # which parameter
    place: Callable  # value = place(parameter), linear
    injective: bool  # whether each number of the parameter appears at most once


class Site(NamedTuple):
    r"""One use of a parameter; static.

    The gradient of one example is ``place^T(unfold(a^T g))`` with
    ``a, g = factors(inputs, cotangent)`` of shapes ``(B, t, in)`` and ``(B, t, out)``: t positions
    share the parameter, B matrices are multiplied side by side. A table whose rows are looked up
    has integers ``(B, t)`` for ``a``: the rows.
    """

    leaf: int
    place: Callable
    injective: bool
    rule: str
    where: str
    numbers: int  # B * in * out
    form: jax.ShapeDtypeStruct  # of what is differentiated: the operation's result
    factors: Callable
    unfold: Callable  # (B, in, out) -> a value like that of the alias


class Recorder:
    """Collects sites while a jaxpr is interpreted, and adds what is differentiated there.

    Attributes:
        sites: Those met so far.
        inputs: What each parameter was multiplied with.
        taps: One zero array a site, or ``None`` while the sites are only looked for.
    """

    def __init__(self, taps: list | None = None):
        self.sites, self.inputs, self.taps = [], [], taps

    def tap(self, value: Array, inputs: tuple, site: Site) -> Array:
        at = len(self.sites)
        self.sites.append(site)
        self.inputs.append(inputs)
        return value if self.taps is None else value + self.taps[at]

    def rule(self, equation, operands: list, plainly: Callable) -> list:
        """Evaluate one equation, and note how it uses parameters."""
        if not any(isinstance(x, Alias) for x in operands):
            return plainly(*operands)
        name = equation.primitive.name
        special = _RULES.get(name)
        results = special(self, equation, operands, plainly) if special else None
        if results is None:
            rule = "elementwise" if _is_elementwise(equation) else f"fallback ({name})"
            where = _jaxpr.where(equation)
            results = plainly(*(self.whole(x, where, rule) for x in operands))
        return results

    def whole(self, x, where: str, rule: str):
        """Use a parameter as it is: the gradient of each example is written out."""
        if not isinstance(x, Alias):
            return x
        shape = x.value.shape
        site = _site(x, where, rule, x.value, _as_one_row, lambda y: y.reshape(shape))
        return self.tap(x.value, (), site)


def plain(x):
    """Return the value of an alias, or the value."""
    return x.value if isinstance(x, Alias) else x


def _site(alias: Alias, where: str, rule: str, value, factors, unfold) -> Site:
    form = jax.ShapeDtypeStruct(value.shape, value.dtype)
    return Site(
        alias.leaf,
        alias.place,
        alias.injective,
        rule,
        where,
        alias.value.size,
        form,
        factors,
        unfold,
    )


def _as_one_row(inputs: tuple, g: Array) -> tuple[Array, Array]:
    return jnp.ones((1, 1, 1), g.dtype), g.reshape(1, 1, -1)


def _is_elementwise(equation) -> bool:
    out = equation.outvars[0].aval.shape
    shapes = [v.aval.shape for v in equation.invars if v.aval.shape]
    return all(len(x) == len(out) and all(a in (1, b) for a, b in zip(x, out)) for x in shapes)


def _moved(recorder, equation, operands, plainly):
    """Follow a parameter that is reshaped, transposed, cast, cut or padded with zeros."""
    x, *others = operands
    if not isinstance(x, Alias) or any(isinstance(y, Alias) for y in others):
        return None
    if any(not _is_zero(y) for y in others):
        return None
    if equation.primitive.name == "broadcast_in_dim":
        if equation.outvars[0].aval.size != x.value.size:
            return _spread(recorder, equation, x, plainly)
    move = lambda value: plainly(value, *others)[0]
    place = lambda leaf, before=x.place: move(before(leaf))
    return [x._replace(value=move(x.value), place=place)]


def _is_zero(x) -> bool:
    try:
        return bool(np.all(np.asarray(x) == 0))
    except jax.errors.TracerArrayConversionError:
        return False


def _spread(recorder, equation, x: Alias, plainly):
    """Tap a bias after it was repeated: its gradient is summed over the positions at once."""
    value = plainly(x.value)[0]

    def factors(inputs, g):
        back = jax.linear_transpose(lambda v: plainly(v)[0], x.value)
        return _as_one_row((), back(g)[0])

    shape = x.value.shape
    site = _site(x, _jaxpr.where(equation), "broadcast", value, factors, lambda y: y.reshape(shape))
    return [recorder.tap(value, (), site)]


def _joined(recorder, equation, operands, plainly):
    """Follow a parameter of which pieces are put together again; none may be of another one."""
    if len({x.leaf if isinstance(x, Alias) else None for x in operands}) != 1:
        return None
    places = [x.place for x in operands]
    place = lambda leaf: plainly(*(place(leaf) for place in places))[0]
    value = plainly(*(x.value for x in operands))[0]
    return [Alias(value, operands[0].leaf, place, injective=False)]


def _entered(recorder, equation, operands, plainly):
    return _jaxpr.interpret(_jaxpr.called(equation), operands, recorder.rule)


def _dot(recorder, equation, operands, plainly):
    side = [isinstance(x, Alias) for x in operands]
    if all(side):
        return None
    w = side.index(True)
    contracting, batch = equation.params["dimension_numbers"]
    alias, x = operands[w], operands[1 - w]
    value = plainly(*map(plain, operands))[0]
    x_dims, w_dims = (
        _Dims(tuple(batch[s]), tuple(contracting[s]), operands_ndim)
        for s, operands_ndim in ((1 - w, x.ndim), (w, alias.value.ndim))
    )
    sizes = alias.value.shape
    free_first = w == 1  # the free axes of the left operand come first in the result

    def factors(inputs, g):
        (x,) = inputs
        a = _folded(x, x_dims.batch, x_dims.free, x_dims.contracting)
        b, f_x, f_w = len(x_dims.batch), len(x_dims.free), len(w_dims.free)
        axes = range(b, g.ndim)
        x_axes, w_axes = (axes[:f_x], axes[f_x:]) if free_first else (axes[f_w:], axes[:f_w])
        return a, _folded(g, tuple(range(b)), tuple(x_axes), tuple(w_axes))

    order = (*w_dims.batch, *w_dims.contracting, *w_dims.free)

    def unfold(y):
        return y.reshape([sizes[i] for i in order]).transpose(np.argsort(order))

    return [
        recorder.tap(
            value, (x,), _site(alias, _jaxpr.where(equation), "matmul", value, factors, unfold)
        )
    ]


class _Dims(NamedTuple):
    batch: tuple[int, ...]
    contracting: tuple[int, ...]
    ndim: int

    @property
    def free(self) -> tuple[int, ...]:
        return tuple(i for i in range(self.ndim) if i not in self.batch + self.contracting)


def _folded(x: Array, *groups: tuple[int, ...]) -> Array:
    """Transpose and reshape so that each group of axes becomes one axis."""
    shape = [int(np.prod([x.shape[i] for i in group])) for group in groups]
    return x.transpose([i for group in groups for i in group]).reshape(shape)


def _conv(recorder, equation, operands, plainly):
    x, w = operands
    p = equation.params
    if isinstance(x, Alias) or not isinstance(w, Alias) or p["batch_group_count"] != 1:
        return None
    numbers, groups = p["dimension_numbers"], p["feature_group_count"]
    value = plainly(x, w.value)[0]
    kernel = w.value.shape
    window = [kernel[i] for i in numbers.rhs_spec[2:]]
    channels = kernel[numbers.rhs_spec[1]]  # a group
    space = numbers.out_spec[2:]

    def factors(inputs, g):
        (x,) = inputs
        patches = jax.lax.conv_general_dilated_patches(
            x,
            window,
            p["window_strides"],
            p["padding"],
            p["lhs_dilation"],
            p["rhs_dilation"],
            numbers,
            precision=jax.lax.Precision.HIGHEST,
        )
        a, g = (
            _folded(y, (numbers.out_spec[0], *space), (numbers.out_spec[1],)) for y in (patches, g)
        )
        a, g = (y.reshape(len(y), groups, -1).transpose(1, 0, 2) for y in (a, g))
        return a, g

    order = (numbers.rhs_spec[0], numbers.rhs_spec[1], *numbers.rhs_spec[2:])  # out, in, window

    def unfold(y):  # (groups, channels * window, out)
        y = y.transpose(0, 2, 1).reshape(-1, channels, *window)
        return y.transpose(np.argsort(order))

    site = _site(w, _jaxpr.where(equation), "convolution", value, factors, unfold)
    return [recorder.tap(value, (x,), site)]


def _rows(recorder, equation, operands, plainly):
    """Look up rows of a table, as embeddings are."""
    table, indices = operands
    if not isinstance(table, Alias) or isinstance(indices, Alias):
        return None
    n, shape = equation.params["dimension_numbers"], table.value.shape
    offset = tuple(range(indices.ndim - 1, indices.ndim - 1 + len(shape) - 1))
    whole_rows = (
        n.collapsed_slice_dims == (0,)
        and n.start_index_map == (0,)
        and n.offset_dims == offset
        and not getattr(n, "operand_batching_dims", ())
        and equation.params["slice_sizes"] == (1, *shape[1:])
    )
    if not whole_rows:
        return None
    value = plainly(table.value, indices)[0]
    clipped = equation.params["mode"] == jax.lax.GatherScatterMode.CLIP

    def factors(inputs, g):
        rows = inputs[0].reshape(1, -1)
        rows = jnp.clip(rows, 0, shape[0] - 1) if clipped else rows
        return rows, g.reshape(1, rows.size, -1)

    site = _site(table, _jaxpr.where(equation), "rows", value, factors, lambda y: y.reshape(shape))
    return [recorder.tap(value, (indices,), site)]


def _scan(recorder, equation, operands, plainly):
    """Enter a loop: a constant is shared by its steps, a sequence gives each step its own slice."""
    scan = _jaxpr.scan_parts(equation)
    first, last = scan.consts, scan.consts + scan.carry
    operands = [
        recorder.whole(x, _jaxpr.where(equation), "fallback (carried by scan)")
        if first <= i < last
        else x
        for i, x in enumerate(operands)
    ]
    outer = [x if isinstance(x, Alias) else None for x in operands]
    values = list(map(plain, operands))

    def step(taps, carry, xs):
        inner = Recorder(taps)
        args = [*values[:first], *carry, *xs]
        args = [
            x if alias is None else Alias(x, at, lambda leaf: leaf, True)
            for at, (x, alias) in enumerate(zip(args, outer))
        ]
        out = list(map(plain, _jaxpr.interpret(scan.body, args, inner.rule)))
        return out[: scan.carry], out[scan.carry :], inner

    def look(carry, xs):
        nonlocal sites
        carry, ys, inner = step(None, carry, xs)
        sites = inner.sites
        return carry, ys

    sites = []
    carry, xs = values[first:last], values[last:]
    jax.eval_shape(look, carry, jax.tree.map(lambda x: x[0], xs))
    length = scan.options["length"]
    start = len(recorder.sites)
    taps = None if recorder.taps is None else recorder.taps[start : start + len(sites)]

    def body(carry, xs):
        taps, xs = xs
        carry, ys, inner = step(taps, carry, xs)
        return carry, (ys, inner.inputs)

    carry, (ys, inputs) = jax.lax.scan(body, carry, (taps, xs), **scan.options)
    for site, used in zip(sites, inputs):
        alias = outer[site.leaf]
        recorder.sites.append(
            _shared(alias, site, length) if site.leaf < first else _sliced(alias, site, length)
        )
        recorder.inputs.append(used)
    return [*carry, *ys]


def _stacked(site: Site, length: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((length, *site.form.shape), site.form.dtype)


def _shared(alias: Alias, site: Site, length: int) -> Site:
    """See the steps of a loop as further positions that share the parameter."""

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
    """See the steps of a loop as matrices side by side."""

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


_RULES = {
    **dict.fromkeys(
        (
            "reshape",
            "transpose",
            "squeeze",
            "expand_dims",
            "slice",
            "rev",
            "pad",
            "convert_element_type",
            "broadcast_in_dim",
            "copy",
            "name",
            "sharding_constraint",
        ),
        _moved,
    ),
    "concatenate": _joined,
    "stack": _joined,
    **dict.fromkeys(("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint"), _entered),
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "gather": _rows,
    "scan": _scan,
}
