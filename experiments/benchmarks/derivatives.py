"""Check derivatives of matrix functions at ties: jax's own formulas and funcdl's.

    python experiments/benchmarks/derivatives.py

Every function is differentiated once and twice at matrices of every shape and degeneracy, and
judged by fourth-order differences of numpy in float64 at two step sizes. A cell holds orders 1 / 2,
the worst over the matrices of its column: ``ok``; the relative error where it is finite and wrong;
NaN; ``finite`` where no derivative exists; ``raises``. In float64, and in float32 where it
differs. The tolerance is 1e-5 / 1e-3 in float64 and 1e-3 / 2e-2 in float32.

Cost: ten minutes, nearly all of it compiling. Result (jax 0.10.2): every cell of funcdl is ``ok``
or ``finite``; of the seventeen functions of jax that can be differentiated, fifteen have a NaN or
a wrong cell. The table is in docs/linalg.md.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    rows: tuple[str, ...] = ()
    """Names of functions; all by default."""
    jax: bool = True
    """Whether jax's own formulas are differentiated too."""


TINY = {"rows": ("nuclear norm",), "jax": False}
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(5, 5))
DIRECTION = RNG.normal(size=25)


def orthogonal(n: int) -> np.ndarray:
    """Draw an orthogonal matrix."""
    return np.linalg.qr(RNG.normal(size=(n, n)))[0]


def rectangle(values, m: int, n: int) -> np.ndarray:
    """Write singular values on the diagonal of a matrix."""
    a = np.zeros((m, n))
    np.fill_diagonal(a, values)
    return a


def turned(values, m: int, n: int) -> np.ndarray:
    """Make a matrix with these singular values, equal ones up to rounding."""
    return orthogonal(m) @ rectangle(values, m, n) @ orthogonal(n)


def symmetric(values) -> np.ndarray:
    """Make a symmetric matrix with these eigenvalues, equal ones up to rounding."""
    q = orthogonal(len(values))
    return (q * values) @ q.T


KINDS = ("generic", "exact tie", "rounded tie", "rank 2", "exact 0")
SQUARE = {
    "generic": [RNG.normal(size=(4, 4))],
    "exact tie": [np.diag([3.0, 2, 2, 1]), np.eye(4)],
    "rounded tie": [turned([3, 2, 2, 1], 4, 4), turned([3, 3, 1, 1], 4, 4)],
    "rank 2": [turned([3, 2, 0, 0], 4, 4)],
    "exact 0": [np.diag([3.0, 2, 0, 0]), np.zeros((4, 4))],
}
TALL = {
    "generic": [RNG.normal(size=(5, 3))],
    "exact tie": [rectangle([3, 2, 2], 5, 3)],
    "rounded tie": [turned([3, 2, 2], 5, 3), turned([2, 2, 1], 5, 3)],
    "rank 2": [turned([3, 2, 0], 5, 3)],
    "exact 0": [rectangle([3, 2, 0], 5, 3), np.zeros((5, 3))],
}
WIDE = {kind: [a.T for a in matrices] for kind, matrices in TALL.items()}
SYMMETRIC = {
    "generic": [symmetric([3, 1.4, 0.6, -1])],
    "exact tie": [np.diag([3.0, 2, 2, 1]), np.eye(4)],
    "rounded tie": [symmetric([3, 2, 2, -1]), symmetric([1, 1, -2, -2])],
    "rank 2": [symmetric([3, 2, 0, 0])],
    "exact 0": [np.diag([3.0, 2, 0, 0]), np.zeros((4, 4))],
}
POSITIVE = {
    "generic": [symmetric([3, 1.4, 0.6, 0.3])],
    "exact tie": SYMMETRIC["exact tie"],
    "rounded tie": [symmetric([3, 2, 2, 1]), symmetric([1, 1, 2, 2])],
}


class Row(NamedTuple):
    """One function, as numpy, jax and funcdl compute it; a matrix-valued one is weighted."""

    name: str
    shapes: tuple[dict, ...]
    reference: Callable
    theirs: Callable
    ours: Callable


def numpy_svd(a):
    """Return factors as numpy finds them."""
    return np.linalg.svd(a, full_matrices=False)


def numpy_eigen(f):
    """Apply a function to eigenvalues as numpy finds them, descending."""

    def apply(a):
        w, v = np.linalg.eigh((a + a.T) / 2)
        return (v[:, ::-1] * f(w[::-1])) @ v[:, ::-1].T

    return apply


def rows() -> list[Row]:
    """List the functions."""
    import jax
    import jax.numpy as jnp
    from jax.scipy.linalg import polar

    from funcdl import linalg

    every, square, b = (SQUARE, TALL, WIDE), (SQUARE,), RNG.normal(size=5)
    svd = lambda a: jnp.linalg.svd(a, full_matrices=False)
    svdvals = lambda a: jnp.linalg.svd(a, compute_uv=False)
    log = lambda s: jnp.log1p(s**2)

    def cut(svd, k, core=True):
        def f(a):
            u, s, vt = svd(a)
            return (u[:, :k] * s[None, :k]) @ vt[:k] if core else u[:, :k] @ u[:, :k].T

        return f

    def eigen(f):
        def apply(a):
            w, v = jnp.linalg.eigh(a)
            return (v[:, ::-1] * f(w[::-1])[None]) @ v[:, ::-1].T

        return apply

    def frame(a):
        v = linalg.eigenspace(a, 1).v
        return v @ v.T

    def solve(lstsq):
        return lambda a: lstsq(a, np.asarray(b[: len(a)], a.dtype))

    top = lambda w: 1.0 * (np.arange(len(w)) == 0)
    log_det = lambda w: np.log1p(w**2)
    polar_of = lambda a: numpy_svd(a)[0] @ numpy_svd(a)[2]
    spectral = lambda f: lambda a: linalg.spectral_sum(f, a)
    s_of = lambda a: numpy_svd(a)[1]
    ls = lambda a, b: linalg.least_squares(a, jnp.asarray(b)).x
    return [
        Row(
            "nuclear norm",
            every,
            lambda a: s_of(a).sum(),
            lambda a: svdvals(a).sum(),
            linalg.nuclear_norm,
        ),
        Row(
            "Σ log(1 + s²)",
            every,
            lambda a: log_det(s_of(a)).sum(),
            lambda a: log(svdvals(a)).sum(),
            spectral(log),
        ),
        Row(
            "projector, k = 1",
            every,
            cut(numpy_svd, 1, False),
            cut(svd, 1, False),
            lambda a: linalg.projector(a, 1),
        ),
        Row(
            "projector, k = 2",
            every,
            cut(numpy_svd, 2, False),
            cut(svd, 2, False),
            lambda a: linalg.projector(a, 2),
        ),
        Row(
            "rank-1 reconstruction",
            every,
            cut(numpy_svd, 1),
            cut(svd, 1),
            lambda a: linalg.low_rank(a, 1),
        ),
        Row(
            "rank-2 reconstruction",
            every,
            cut(numpy_svd, 2),
            cut(svd, 2),
            lambda a: linalg.low_rank(a, 2),
        ),
        Row(
            "U S Vᵀ, all",
            every,
            lambda a: a,
            cut(svd, 5),
            lambda a: linalg.low_rank(a, min(a.shape)),
        ),
        Row(
            "spectral norm",
            every,
            lambda a: s_of(a)[0],
            lambda a: jnp.linalg.norm(a, 2),
            linalg.spectral_norm,
        ),
        Row("Frobenius norm", every, np.linalg.norm, jnp.linalg.norm, linalg.frobenius_norm),
        Row(
            "condition number",
            every,
            lambda a: s_of(a)[0] / s_of(a)[-1],
            jnp.linalg.cond,
            linalg.condition_number,
        ),
        Row("polar factor", every, polar_of, lambda a: polar(a, method="svd")[0], linalg.polar),
        Row("pseudo-inverse", every, np.linalg.pinv, jnp.linalg.pinv, linalg.pinv),
        Row(
            "least squares",
            every,
            lambda a: np.linalg.lstsq(a, b[: len(a)])[0],
            solve(lambda a, b: jnp.linalg.lstsq(a, b)[0]),
            solve(ls),
        ),
        Row("determinant", square, np.linalg.det, jnp.linalg.det, linalg.det),
        Row(
            "Σ log(1 + w²)",
            (SYMMETRIC,),
            lambda a: np.trace(numpy_eigen(log_det)(a)),
            lambda a: log(jnp.linalg.eigvalsh(a)).sum(),
            lambda a: jnp.trace(linalg.matrix_function(log, a)),
        ),
        Row(
            "eigenprojector, k = 1",
            (SYMMETRIC,),
            numpy_eigen(top),
            eigen(lambda w: top(w).astype(w.dtype)),
            frame,
        ),
        Row(
            "V tanh(w) Vᵀ",
            (SYMMETRIC,),
            numpy_eigen(np.tanh),
            eigen(jnp.tanh),
            lambda a: linalg.matrix_function(jnp.tanh, a),
        ),
        Row(
            "square root",
            (POSITIVE,),
            numpy_eigen(np.sqrt),
            lambda a: jax.scipy.linalg.sqrtm(a).real,
            linalg.sqrtm,
        ),
    ]


class Verdict(NamedTuple):
    """What came out at one matrix; ``error`` is relative, NaN as it is, None where undefined."""

    kind: str
    order: int
    error: float | None
    finite: bool


def judge(row: Row, shape: dict, f: Callable, dtype) -> list[Verdict]:
    """Differentiate twice at all matrices of a shape, in one compilation, and compare.

    Returns:
        Two verdicts a matrix.
    """
    import jax
    import jax.numpy as jnp

    def scalar(a):
        y = f(a)
        return jnp.sum(jnp.asarray(weights(y.shape), a.dtype) * y)

    points = [(kind, a) for kind, matrices in shape.items() for a in matrices]

    def slope(a):
        return (jax.grad(scalar)(a),) * 2

    both = jax.jit(jax.vmap(jax.jacfwd(slope, has_aux=True)))
    stacked = jnp.asarray(np.stack([a for _, a in points]), dtype)
    hessian, gradient = both(stacked)
    results = [np.asarray(x, float).reshape(len(points), -1) for x in (gradient, hessian)]
    verdicts = []
    for i, (kind, a) in enumerate(points):
        for order, (got, true) in enumerate(zip(results, references(row.reference, a)), 1):
            finite = bool(np.isfinite(got[i]).all())
            error = None if true is None else float(distance(got[i], true))
            verdicts.append(Verdict(kind, order, error, finite))
    return verdicts


def weights(shape: tuple[int, ...]) -> np.ndarray:
    """Return the fixed weights of a value, so that the derivative is of one number."""
    if not shape:
        return np.ones(())
    return WEIGHTS[tuple(slice(n) for n in (*shape, 1)[:2])].reshape(shape)


def distance(got: np.ndarray, true: np.ndarray) -> float:
    """Measure a relative error; absolute below 1."""
    return np.abs(got - true).max() / max(np.abs(true).max(), 1)


def references(f: Callable, a: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Differentiate by differences in float64; None where there is no derivative to be found.

    That is where two step sizes disagree, or the slope along a direction is not linear in it.
    """
    x, direction = a.ravel(), DIRECTION[: a.size]

    def scalar(x):
        y = f(x.reshape(a.shape))
        return np.sum(weights(np.shape(y)) * y)

    def slope(x, h=1e-3):
        return differences(scalar, x, h)

    with np.errstate(all="ignore"):
        first = slope(x)
        along = [(scalar(x + h * direction) - scalar(x)) / h for h in (1e-6, -1e-6)]
        smooth = max(distance(np.asarray(one), first @ direction) for one in along) < 1e-3
        smooth = smooth and distance(slope(x, 2e-3), first) < 1e-6
        second = [differences(partial(slope, h=h), x, h) for h in (2e-3, 4e-3)]
        twice = smooth and distance(second[1], second[0]) < 1e-4
    return first if smooth else None, second[0].ravel() if twice else None


def differences(f: Callable, x: np.ndarray, h: float) -> np.ndarray:
    """Take central differences of fourth order along every coordinate."""
    rows = []
    for e in np.eye(x.size):
        near, far = f(x + h * e) - f(x - h * e), f(x + 2 * h * e) - f(x - 2 * h * e)
        rows.append((8 * near - far) / (12 * h))
    return np.asarray(rows)


TOLERANCE = {"float32": (1e-3, 2e-2), "float64": (1e-5, 1e-3)}


def cell(verdicts: list[Verdict], dtype: str) -> str:
    """Write the worst of some verdicts, order 1 / order 2."""
    return " / ".join(word([v for v in verdicts if v.order == o], dtype, o) for o in (1, 2))


def word(verdicts: list[Verdict], dtype: str, order: int) -> str:
    """Write the worst of the verdicts of one order."""
    judged = [v for v in verdicts if v.error is not None]
    if not judged:
        return "finite" if all(v.finite for v in verdicts) else "NaN"
    if not all(v.finite for v in judged):
        return "NaN"
    worst = max(v.error for v in judged)
    return "ok" if worst < TOLERANCE[dtype][order - 1] else f"**{worst:.0e}**"


def table_row(row: Row, f: Callable) -> list[str]:
    """Judge one side of a function in both precisions, a cell for each kind of matrix."""
    import jax.numpy as jnp

    cells = {}
    for dtype in map(jnp.dtype, ("float64", "float32")):
        name = dtype.name
        try:
            verdicts = [v for shape in row.shapes for v in judge(row, shape, f, dtype)]
        except (NotImplementedError, TypeError, ValueError):
            return ["raises"] * len(KINDS)
        groups = [[v for v in verdicts if v.kind == kind] for kind in KINDS]
        cells[name] = [cell(group, name) if group else "" for group in groups]
    pairs = zip(cells["float64"], cells["float32"])
    return [wide if wide == narrow else f"{wide}; f32 {narrow}" for wide, narrow in pairs]


def main(config: Config) -> dict[tuple[str, str], list[str]]:
    """Print a markdown table of both sides.

    Returns:
        The cells of each function, ``(name, "jax" or "funcdl")``.
    """
    import jax

    cells = {}
    with jax.enable_x64(True):
        print(f"| function | by | {' | '.join(KINDS)} |")
        print("|---" * (2 + len(KINDS)) + "|")
        for row in rows():
            if config.rows and row.name not in config.rows:
                continue
            sides = {"jax": row.theirs} if config.jax else {}
            for side, f in (sides | {"funcdl": row.ours}).items():
                cells[row.name, side] = table_row(row, f)
                print(f"| {row.name} | {side} | {' | '.join(cells[row.name, side])} |", flush=True)
    return cells


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
