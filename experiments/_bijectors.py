"""Bijectors of distrax with random constants, and plain functions for comparison."""

import dataclasses
from collections.abc import Callable

import numpy as np

SIZE = 6


@dataclasses.dataclass(frozen=True)
class Case:
    """A map of one point, with its author's log-determinant and inverse.

    Attributes:
        name: The name of the bijector.
        forward: The map ``x -> y``.
        claim: The author's log-determinant, ``x -> log_det``.
        inverse: The author's inverse, ``y -> x``.
        domain: The domain of x: ``real``, ``positive`` or ``ball`` (-1..1).
        shape: The shape of x.
        slope: The logarithm of the derivative in NumPy, for a function of single numbers.
    """

    name: str
    forward: Callable
    claim: Callable
    inverse: Callable
    domain: str = "real"
    shape: tuple = (SIZE,)
    slope: Callable | None = None


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    """Return the logarithm of the logistic function, in the precision of x."""
    return -np.logaddexp(0, -x)


SLOPES = {
    "tanh": lambda x: 2 * (np.log(2) - x - np.logaddexp(0, -2 * x)),
    "sigmoid": lambda x: log_sigmoid(x) + log_sigmoid(-x),
    "softplus": log_sigmoid,
    "exp": lambda x: x,
    "gumbel": lambda x: -x - np.exp(-x),
}


def by_hand(rng: np.random.Generator) -> list[Case]:
    """Return functions with handwritten log-determinants and inverses."""
    import jax
    import jax.numpy as jnp

    a, b, w = (jnp.asarray(rng.normal(size=SIZE), jnp.float32) for _ in range(3))
    lower = jnp.asarray(np.tril(rng.normal(size=(SIZE, SIZE)), -1), jnp.float32)
    half = SIZE // 2

    def net(x):
        return jnp.tanh(lower[half:, :half] @ x + a[:half])

    def coupling(x):
        s = net(x[:half])
        return jnp.concatenate([x[:half], x[half:] * jnp.exp(s) + s])

    def uncoupling(y):
        s = net(y[:half])
        return jnp.concatenate([y[:half], (y[half:] - s) * jnp.exp(-s)])

    def triangular(x):
        return x * jnp.exp(a) + lower @ x

    matrix = jnp.diag(jnp.exp(a)) + lower
    log_logistic = lambda x: -jax.nn.softplus(x) - jax.nn.softplus(-x)
    reflect = lambda x: x - 2 * w * (w @ x) / (w @ w)
    return [
        Case("affine", lambda x: jnp.exp(a) * x + b, lambda x: a.sum(),
             lambda y: (y - b) / jnp.exp(a)),
        Case("sigmoid", jax.nn.sigmoid, lambda x: log_logistic(x).sum(),
             lambda y: jnp.log(y) - jnp.log1p(-y), slope=SLOPES["sigmoid"]),
        Case("coupling", coupling, lambda x: net(x[:half]).sum(), uncoupling),
        Case("triangular", triangular, lambda x: a.sum(), lambda y: jnp.linalg.solve(matrix, y)),
        Case("reflection", reflect, lambda x: jnp.zeros(()), reflect),
        Case("permutation", lambda x: x[::-1], lambda x: jnp.zeros(()), lambda y: y[::-1]),
    ]  # fmt: skip


def of_distrax(rng: np.random.Generator) -> list[Case]:
    """Return every bijector of distrax."""
    import distrax
    import jax.numpy as jnp

    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    vector, matrix = draw(SIZE), draw(SIZE, SIZE)
    well = matrix + 3 * jnp.eye(SIZE)
    half = SIZE // 2
    mix = 0.5 * draw(SIZE, 2 * SIZE)
    affine = lambda p: distrax.ScalarAffine(shift=p[..., 0], log_scale=0.5 * jnp.tanh(p[..., 1]))
    conditioner = lambda x: jnp.tanh(x @ mix[: x.shape[-1]])
    masked = distrax.MaskedCoupling(
        mask=jnp.arange(SIZE) % 2 == 0,
        conditioner=lambda x: conditioner(x).reshape(SIZE, 2),
        bijector=affine,
    )
    split = distrax.SplitCoupling(
        split_index=half,
        event_ndims=1,
        conditioner=lambda x: conditioner(x).reshape(SIZE, 2)[:half],
        bijector=affine,
    )
    spline = distrax.RationalQuadraticSpline(draw(SIZE, 16), range_min=-3.0, range_max=3.0)
    spline_split = distrax.SplitCoupling(
        split_index=half,
        event_ndims=1,
        conditioner=lambda x: jnp.tile(conditioner(x), 4).reshape(half, 16),
        bijector=lambda p: distrax.RationalQuadraticSpline(p, range_min=-3.0, range_max=3.0),
    )
    diagonal_affine = distrax.ScalarAffine(vector, log_scale=0.3 * draw(SIZE))
    chain = distrax.Chain([distrax.Tanh(), diagonal_affine])
    made = {
        "Block": distrax.Block(distrax.Sigmoid(), 1),
        "Chain": distrax.Chain([split, distrax.LowerUpperTriangularAffine(well, vector)]),
        "Chain of Tanh and ScalarAffine": chain,
        "DiagLinear": distrax.DiagLinear(vector),
        "DiagPlusLowRankLinear": distrax.DiagPlusLowRankLinear(
            jnp.exp(vector), draw(SIZE, 2), draw(SIZE, 2)
        ),
        "GumbelCDF": distrax.GumbelCDF(),
        "Inverse of Tanh": distrax.Inverse(distrax.Tanh()),
        "Inverse of RationalQuadraticSpline": distrax.Inverse(spline),
        "Lambda of sinh": distrax.Lambda(jnp.sinh),
        "LowerUpperTriangularAffine": distrax.LowerUpperTriangularAffine(well, vector),
        "MaskedCoupling": masked,
        "RationalQuadraticSpline": spline,
        "ScalarAffine": diagonal_affine,
        "Shift": distrax.Shift(vector),
        "Sigmoid": distrax.Sigmoid(),
        "SplitCoupling": split,
        "SplitCoupling of splines": spline_split,
        "Tanh": distrax.Tanh(),
        "TriangularLinear": distrax.TriangularLinear(well, is_lower=False),
        "UnconstrainedAffine": distrax.UnconstrainedAffine(well, vector),
    }
    slopes = {"Tanh": "tanh", "Sigmoid": "sigmoid", "Block": "sigmoid", "GumbelCDF": "gumbel"}
    domains = {"Inverse of Tanh": "ball"}

    def case(name, b):
        claim = lambda x: jnp.sum(b.forward_log_det_jacobian(x))
        slope = SLOPES[slopes[name]] if name in slopes else None
        return Case(name, b.forward, claim, b.inverse, domains.get(name, "real"), slope=slope)

    return [case(name, b) for name, b in made.items()]
