r"""Functions of the two factors of a gradient that do not multiply them out.

For n examples, ``a`` is ``(n, B, t, in)``, or ``(n, B, t)`` rows of a table, and ``g`` is
``(n, B, t, out)``; the gradient of example i is the matrix :math:`G_i = a_i^\top g_i`. With one
position (t = 1) it has rank one, and

.. math::
    \|G_i\|^2 = \|a_i\|^2 \|g_i\|^2, \qquad
    \sum_i G_i^2 = (A^2)^\top (G^2), \qquad
    \langle G_i, G_j \rangle = (a_i \cdot a_j)(g_i \cdot g_j)

so that norms, second moments and Gram matrices cost less than a gradient (Goodfellow, "Efficient
per-example gradient computations", 2015; Dangel et al., "BackPACK", 2020).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._numerics import power_of_two
from funcdl._typing import Array
from funcdl.per_example._recording.sites import Site


class Factors(NamedTuple):
    """The factors of n examples at one site."""

    site: Site
    a: Array
    g: Array

    @property
    def is_rows(self) -> bool:
        return self.a.ndim == 3

    @property
    def is_rank_one(self) -> bool:
        return self.g.shape[2] == 1

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Return B, t, in and out."""
        _, count, positions, out = self.g.shape
        return count, positions, self.site.numbers // (count * out), out


def product(x: Array, y: Array, equation: str) -> Array:
    return jnp.einsum(equation, x, y, precision="highest")


def matrices(use: Factors) -> Array:
    """Return the gradients at one site: ``(n, B, in, out)``."""
    if not use.is_rows:
        return product(use.a, use.g, "nbti,nbto->nbio")
    count, _, size, out = use.sizes
    blank = jnp.zeros((count, size, out), use.g.dtype)
    side = jnp.arange(count)[:, None]
    return jax.vmap(lambda rows, g: blank.at[side, rows].add(g, mode="drop"))(use.a, use.g)


def home(site: Site, like: Array, matrix: Array) -> Array:
    """Move one ``(B, in, out)`` to its place in the parameter."""
    form = jax.ShapeDtypeStruct(like.shape, _tree.wide(like.dtype))
    value = jax.eval_shape(site.place, form)
    placed = site.unfold(matrix).astype(value.dtype)
    return jax.linear_transpose(site.place, form)(placed)[0]


def gradients(uses: list[Factors], like: Array) -> Array:
    """Return the gradient of each example in one parameter: ``(n, *shape)``."""
    parts = [jax.vmap(lambda m, use=use: home(use.site, like, m))(matrices(use)) for use in uses]
    return sum(parts[1:], parts[0])


def alone(uses: list[Factors]) -> Factors | None:
    """Return the only use of a parameter if its gradient is this matrix, entry by entry."""
    return uses[0] if len(uses) == 1 and uses[0].site.injective else None


def square_norms(uses: list[Factors], like: Array) -> Array:
    """Return the squared norm of the gradient of each example: ``(n,)``."""
    use = alone(uses)
    if use is None:
        return _square(gradients(uses, like))
    a, g = use.a, use.g
    if use.is_rank_one:
        size = 1 if use.is_rows else (a**2).sum(axis=(2, 3))
        return (size * (g**2).sum(axis=(2, 3))).sum(axis=1)
    _, t, rows, out = use.sizes
    if not use.is_rows and t * (rows + out) > rows * out:
        return _square(matrices(use))
    return (_overlap(a) * product(g, g, "nbto,nbso->nbts")).sum(axis=(1, 2, 3))


def norms(uses: list[Factors], like: Array) -> Array:
    """Return the norm of the gradient of each example, whose square may be out of range: ``(n,)``.

    It costs more than ``square_norms``, since the factors are read once more.
    """
    units = [jnp.ones(len(use.g)) if use.is_rows else _units(use.a) for use in uses]
    unit = jnp.stack([u * _units(use.g) for u, use in zip(units, uses)]).max(axis=0)
    scaled = [
        use._replace(a=use.a if use.is_rows else _over(use.a, u), g=_over(use.g, unit / u))
        for u, use in zip(units, uses)
    ]
    return unit * _tree.sqrt(square_norms(scaled, like))


def _units(x: Array) -> Array:
    return jax.vmap(power_of_two)(x)


def _over(x: Array, units: Array) -> Array:
    return x / units.reshape(-1, *[1] * (x.ndim - 1))


def _square(x: Array) -> Array:
    return (x**2).sum(axis=tuple(range(1, x.ndim)))


def _overlap(a: Array) -> Array:
    """Multiply the left factors at all pairs of positions: ``(n, B, t, t)``."""
    if a.ndim == 3:
        return (a[..., :, None] == a[..., None, :]).astype(jnp.float32)
    return product(a, a, "nbti,nbsi->nbts")


def second_moment(uses: list[Factors], weights: Array, like: Array) -> Array:
    """Sum the squares of the gradients of all examples, entry by entry and weighted."""
    use = alone(uses)
    if use is None:
        return jnp.tensordot(weights, gradients(uses, like) ** 2, axes=1)
    w = weights[:, None, None, None]
    if use.is_rows:
        # positions that look up the same row are summed before they are squared
        by_row = product(_overlap(use.a).astype(use.g.dtype), use.g, "nbts,nbso->nbto")
        total = summed(use._replace(g=by_row * use.g), weights)
    elif use.is_rank_one:
        total = product(use.a**2, w * use.g**2, "nbti,nbto->bio")
    else:
        total = (w * matrices(use) ** 2).sum(axis=0)
    return home(use.site, like, total)


def summed(use: Factors, weights: Array) -> Array:
    """Return the weighted sum of the matrices of all examples: ``(B, in, out)``."""
    g = weights[:, None, None, None] * use.g
    if not use.is_rows:
        return product(use.a, g, "nbti,nbto->bio")
    count, _, size, out = use.sizes
    side = jnp.arange(count)[None, :, None]
    return jnp.zeros((count, size, out), g.dtype).at[side, use.a].add(g, mode="drop")


def weighted_sum(uses: list[Factors], weights: Array, like: Array) -> Array:
    """Return the weighted sum of the gradients of all examples."""
    parts = [home(use.site, like, summed(use, weights)) for use in uses]
    return sum(parts[1:], parts[0])


def inner_products(uses: list[Factors], others: list[Factors], like: Array) -> Array:
    """Multiply the gradients of all pairs of examples: ``(n, m)``."""
    use, other = alone(uses), alone(others)
    if use is None or other is None or not use.is_rank_one:
        x, y = (flat(each, like) for each in (uses, others))
        return product(x, y, "ip,jp->ij")
    a, b, g, h = (x[:, :, 0] for x in (use.a, other.a, use.g, other.g))
    left = a[:, None] == b[None] if use.is_rows else product(a, b, "ibp,jbp->ijb")
    return (left * product(g, h, "ibp,jbp->ijb")).sum(axis=2)


def flat(uses: list[Factors], like: Array) -> Array:
    """Return the gradient of each example as one row."""
    use = alone(uses)
    return (gradients(uses, like) if use is None else matrices(use)).reshape(len(uses[0].g), -1)


def jacobians(uses: list[Factors], like: Array) -> Array:
    """Return the gradient of each output of each example as one row.

    Here and below, ``g`` is ``(n, c, B, t, out)``: one pullback per output.

    Returns:
        ``(n, c, numbers)``.
    """
    one = lambda g: flat([use._replace(g=y) for use, y in zip(uses, g)], like)
    return jax.vmap(one, 1, 1)([use.g for use in uses])


def jacobian_products(uses: list[Factors], others: list[Factors], like: Array) -> Array:
    """Multiply the gradients of all pairs of outputs: ``(n, c, m, c)``."""
    use, other = alone(uses), alone(others)
    if use is None or other is None or use.g.shape[3] > 1:
        return product(jacobians(uses, like), jacobians(others, like), "icp,jdp->icjd")
    a, b, g, h = use.a[:, :, 0], other.a[:, :, 0], use.g[:, :, :, 0], other.g[:, :, :, 0]
    left = a[:, None] == b[None] if use.is_rows else product(a, b, "ibp,jbp->ijb")
    right = product(g, h, "icbp,jdbp->icjdb")
    return (left[:, None, :, None] * right).sum(axis=4)


def quadratic_diagonal(uses: list[Factors], middle: Array, like: Array) -> Array:
    r"""Sum the diagonals of :math:`J_i^\top M_i J_i` over the examples.

    Args:
        uses: The factors of J.
        middle: ``(n, c, c)``, whose value, but not its derivatives, is diagonal.
        like: The parameter.

    Returns:
        An array like the parameter.
    """
    use = alone(uses)
    if use is not None and use.g.shape[3] == 1:
        g = squares(middle, use.g)  # a is the same for all outputs
        a = use.a if use.is_rows else use.a**2
        total = summed(use._replace(a=a, g=g), jnp.ones(len(g), g.dtype))
        return home(use.site, like, total)
    each = squares(middle, jacobians(uses, like)).sum(axis=0)
    if use is not None:
        return home(use.site, like, each.reshape(use.g.shape[2], -1, use.g.shape[4]))
    return each.reshape(like.shape)


@jax.custom_jvp
def squares(middle: Array, g: Array) -> Array:
    """Compute ``sum_cd middle_cd g_c g_d`` along axis 1, where ``middle`` is diagonal.

    Returns:
        ``(n, ...)``.
    """
    # einsum rather than a product and a sum, with which XLA extracts the diagonal for every entry
    return product(jnp.diagonal(middle, axis1=1, axis2=2), g**2, "ic,ic...->i...")


@squares.defjvp
def _squares_jvp(primals: tuple, tangents: tuple) -> tuple:
    def full(middle, g):
        return (product(middle, g, "icd,id...->ic...") * g).sum(axis=1)

    return squares(*primals), jax.jvp(full, primals, tangents)[1]
