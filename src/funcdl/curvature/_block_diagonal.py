r"""Operators that act on each parameter separately, by Kronecker factors or in their eigenbasis."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._typing import Array, Globs, PyTree
from funcdl.linalg import eigh, matrix_function
from funcdl.operators import Action, LinearOperator, Space, space
from funcdl.per_example import KroneckerBases, KroneckerFactors

_product = partial(jnp.einsum, precision="highest")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["blocks", "damping"],
    meta_fields=["space"],
)
@dataclasses.dataclass(frozen=True)
class _Leafwise:
    """The operands: one block per parameter, and a multiple of the identity."""

    space: Space
    blocks: tuple
    damping: PyTree  # a scalar


def leafwise(form: Space, blocks: tuple, damping: Array | float = 0.0) -> LinearOperator:
    """Build the block-diagonal operator with one block per parameter.

    Args:
        form: The space of the parameters.
        blocks: ``Product`` or ``Diagonal``, in the order of the leaves.
        damping: The number that is added to the diagonal.

    Returns:
        A symmetric operator with ``solve`` and ``logdet``, which its blocks and shifts have too.
    """
    dtype = jnp.result_type(*(leaf.dtype for leaf in form.leaves))
    operands = _Leafwise(form, blocks, jnp.asarray(damping, dtype))
    return LinearOperator(_ACTION, operands, form, form, symmetric=True, psd=True)


# The two kinds of blocks differ in what defines them. A Product is its factors: the eigenbasis
# only serves to solve, is held fixed, and derivatives follow from the equation (A ⊗ B + λI) x = v,
# so that ties do no harm. A Diagonal is defined by its eigenbasis, so this is differentiated, and
# at a tie, where it is arbitrary, the derivative is NaN. One eigendecomposition per factor serves
# every damping, since λ only shifts the values; therefore damping is an operand of its own, and a
# shift costs nothing. Parameters are moved into matrices ``(B, in, out)`` by their layout and
# back.
class Product(NamedTuple):
    r"""The block :math:`A \otimes B + \lambda I`.

    Products and derivatives are those of the factors, whatever their eigenvalues; solutions are
    computed in the eigenbasis, which is held fixed.

    Attributes:
        factors: The factors A and B.
        bases: The eigenvectors of the factors.
        values: The eigenvalues of the product, ``(B, in, out)``.
    """

    factors: KroneckerFactors
    bases: KroneckerBases
    values: Array

    @classmethod
    def of(cls, factors: KroneckerFactors) -> "Product":
        """Compute the eigenbasis of both factors."""
        (a, q_a), (b, q_b) = map(_eigen, jax.lax.stop_gradient(factors[1:]))
        return cls(factors, KroneckerBases(q_a, cast(Array, q_b)), _outer(a, b))

    @property
    def layout(self) -> Any:
        return self.factors.layout

    def multiply(self, v: Array, damping: Array) -> Array:
        a, b = self.factors.a, self.factors.b
        left = a[..., None] * v if a.ndim == 2 else _product("bij,bjo->bio", a, v)
        return _product("bio,bop->bip", left, b) + damping * v

    def solve(self, v: Array, damping: Array) -> Array:
        fixed = jax.lax.stop_gradient((self.bases, self.values + damping))

        def solve(_, v):
            bases, values = fixed
            return _back(bases, _into(bases, v) / values)

        matvec = lambda x: self.multiply(x, damping)
        return jax.lax.custom_linear_solve(matvec, v, solve, transpose_solve=solve)

    def logdet(self, damping: Array) -> Array:
        return _logdet(self.factors.a, self.factors.b, damping, self.values)


class Diagonal(NamedTuple):
    r"""The block :math:`Q_B (D \circ (Q_B^\top V Q_A)) Q_A^\top`, diagonal in the eigenbasis.

    Attributes:
        layout: The layout of the parameter.
        bases: The eigenvectors of the factors.
        values: The diagonal D, ``(B, in, out)``.
    """

    layout: Any
    bases: KroneckerBases
    values: Array

    def multiply(self, v: Array, damping: Array) -> Array:
        return _back(self.bases, _into(self.bases, v) * (self.values + damping))

    def solve(self, v: Array, damping: Array) -> Array:
        return _back(self.bases, _into(self.bases, v) / (self.values + damping))

    def logdet(self, damping: Array) -> Array:
        return jnp.log(jnp.abs(self.values + damping)).sum()


def eigenbases(factors: KroneckerFactors) -> KroneckerBases:
    """Return the eigenvectors of both factors; at a tie, their derivatives are NaN."""
    a, b = (_untied(x, *_eigen(x)) for x in factors[1:])
    return KroneckerBases(a, cast(Array, b))


def _eigen(a: Array) -> tuple[Array, Array | None]:
    """Return eigenvalues and eigenvectors of stacked matrices; a diagonal is returned unchanged."""
    if a.ndim == 2:
        return a, None
    # not mapped: on a CPU, several batched decompositions in one program can wait for each other
    values, vectors = jax.lax.map(lambda a: eigh(a)[:2], a)
    return _above_noise(values, a.shape[-1]), vectors


def _above_noise(values: Array, size: int) -> Array:
    """Set to 0 the eigenvalues of a Gram matrix that are within rounding of 0, of either sign."""
    largest = jnp.abs(values).max(axis=-1, keepdims=True)
    return jnp.where(values > size * jnp.finfo(values.dtype).eps * largest, values, 0)


def _untied(a: Array, values: Array, vectors: Array | None) -> Array | None:
    """Make derivatives NaN at a tie, except where the values are 0: there D is 0 too."""
    if vectors is None:
        return None
    noise = a.shape[-1] * jnp.finfo(a.dtype).eps * jnp.abs(values).max(axis=1, keepdims=True)
    tied = (values[:, :-1] - values[:, 1:] <= noise) & (jnp.abs(values[:, :-1]) > noise)
    return _differentiable_unless(tied.any(axis=1)[:, None, None], vectors)


@jax.custom_jvp
def _differentiable_unless(tied: Array, x: Array) -> Array:
    del tied
    return x


@_differentiable_unless.defjvp
def _differentiable_unless_jvp(primals: tuple, tangents: tuple) -> tuple:
    return primals[1], jnp.where(primals[0], jnp.nan, 1).astype(primals[1].dtype) * tangents[1]


def _outer(a: Array, b: Array) -> Array:
    return a[:, :, None] * b[:, None, :]


def _into(bases: KroneckerBases, v: Array) -> Array:
    v = v if bases.a is None else _product("bij,bio->bjo", bases.a, v)
    return _product("bio,bop->bip", v, bases.b)


def _back(bases: KroneckerBases, v: Array) -> Array:
    v = _product("bip,bop->bio", v, bases.b)
    return v if bases.a is None else _product("bij,bjo->bio", bases.a, v)


@jax.custom_jvp
def _logdet(a: Array, b: Array, damping: Array, values: Array) -> Array:
    del a, b
    return jnp.log(jnp.abs(values + damping)).sum()


@_logdet.defjvp
def _logdet_jvp(primals: tuple, tangents: tuple) -> tuple:
    (a, b, damping, _), (da, db, d_damping, _) = primals, tangents
    alpha, beta = _eigen(a)[0], _eigen(b)[0]
    in_a, in_b = _slopes(a, beta, damping), _slopes(b, alpha, damping)
    in_damping = (1 / (_outer(alpha, beta) + damping)).sum()
    slope = (in_a * da).sum() + (in_b * db).sum() + in_damping * d_damping
    return _logdet(*primals), slope


def _slopes(a: Array, others: Array, damping: Array) -> Array:
    r"""Differentiate :math:`\sum_{ij} \log(\alpha_i \beta_j + \lambda)` in A."""

    def one(a, others):
        f = lambda x: (others / (x * others + damping)).sum()
        return jax.vmap(f)(a) if a.ndim == 1 else matrix_function(f, a)

    return jax.vmap(one)(a, others)


def _each(method: str) -> Callable:
    """Apply a method of every block to its part of a vector."""

    def apply(operands: _Leafwise, v: PyTree) -> PyTree:
        leaves, treedef = jax.tree.flatten(v)

        def one(block, x):
            wide = jax.tree.leaves(block)[0].dtype  # params may have floats of several widths
            damping = operands.damping.astype(wide)
            y = getattr(block, method)(block.layout.matrices(x.astype(wide)), damping)
            return block.layout.parameter(y).astype(x.dtype)

        return jax.tree.unflatten(treedef, map(one, operands.blocks, leaves))

    return apply


def _sum_of_logdets(operands: _Leafwise) -> Array:
    return jnp.asarray(sum(block.logdet(operands.damping) for block in operands.blocks))


def _block(operands: _Leafwise, rows: Globs, columns: Globs) -> LinearOperator:
    form = operands.space
    chosen = _tree.matches(form.tree, rows)
    if chosen != _tree.matches(form.tree, columns):
        plain = LinearOperator(_ACTION._replace(block=None), operands, form, form, True, True)
        return plain.block(rows, columns)
    blocks = tuple(block for block, keep in zip(operands.blocks, chosen) if keep)
    return leafwise(space(_tree.select(form.tree, rows).chosen), blocks, operands.damping)


def _dense(operands: _Leafwise) -> Array:
    """Return the matrix, computed leaf by leaf."""

    def one(block, leaf):
        unit = jnp.eye(leaf.size, dtype=leaf.dtype).reshape(leaf.size, *leaf.shape)
        alone = leafwise(space(leaf), (block,), operands.damping)
        return jax.vmap(alone.__matmul__)(unit).reshape(leaf.size, leaf.size)

    return jax.scipy.linalg.block_diag(*map(one, operands.blocks, operands.space.leaves))


_ACTION = Action(
    _each("multiply"),
    _each("multiply"),
    _block,
    solve=_each("solve"),
    logdet=_sum_of_logdets,
    dense=_dense,
    shift=lambda o, damping: leafwise(o.space, o.blocks, o.damping + damping),
)
