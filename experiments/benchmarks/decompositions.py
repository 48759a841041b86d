"""Time PCA, least squares, ridge and lasso in funcdl, scikit-learn and SciPy, one thread.

    taskset -c 0 python experiments/benchmarks/decompositions.py [--path MNIST_DIR]

Both sides of a ratio take the same arrays in interleaved rounds, and the smallest CPU time of the
process counts; compilation is not timed. ``error`` is, for PCA, the largest relative error of the
variances compared with float64, and otherwise the largest difference of the coefficients of both
sides.

Cost: one minute; three with MNIST. Result (one core of an AMD EPYC, jax 0.10.2, scikit-learn 1.9.1;
ms):

| job | peer | funcdl | ratio | error of the peer | of funcdl |
|---|---|---|---|---|---|
| PCA, digits | 1.46 | 0.85 | 0.58 | 8e-07 | 3e-06 |
| randomized PCA, digits | 5.02 | 3.49 | 0.69 | 1e-03 | 1e-06 |
| PCA, MNIST | 584.20 | 945.75 | 1.62 | 2e-04 | 1e-06 |
| randomized PCA, MNIST | 1338.65 | 965.30 | 0.72 | 2e-04 | 1e-06 |
| least squares, 1000 × 50 | 2.17 | 1.03 | 0.48 |  | 2e-15 |
| ridge, 1000 × 50 | 1.71 | 0.62 | 0.36 |  | 7e-15 |
| lasso, 1000 × 50 | 1.67 | 0.83 | 0.50 |  | 4e-08 |
| lasso path of 50, 1000 × 50 | 8.44 | 4.53 | 0.54 |  | 9e-08 |
| least squares, 10000 × 200 | 76.78 | 54.77 | 0.71 |  | 3e-15 |
| ridge, 10000 × 200 | 19.96 | 25.74 | 1.29 |  | 1e-14 |
| lasso, 10000 × 200 | 23.15 | 26.60 | 1.15 |  | 4e-08 |
| lasso path of 50, 10000 × 200 | 29.14 | 41.93 | 1.44 |  | 5e-07 |
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import _timing
import numpy as np


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    path: Path | None = None
    """Folder of MNIST's IDX files; without it, only the digits are used."""
    shapes: tuple[tuple[int, int], ...] = ((1_000, 50), (10_000, 200))
    """Shapes of the regression problems, in float64."""
    components: int = 20
    penalties: int = 50
    rounds: int = 12


TINY = {"shapes": ((60, 5),), "components": 3, "penalties": 3, "rounds": 1}


class Job(NamedTuple):
    """One comparison, with calls that return the numbers to compare."""

    name: str
    peer: Callable
    ours: Callable
    truth: Callable = lambda theirs: theirs
    relative: bool = False


def main(config: Config) -> list[tuple[str, float, float, float, float]]:
    """Time both sides of every job and print a markdown table.

    Returns:
        For each job its name, both times in ms, and the errors of the peer and of ours.
    """
    import jax

    rows = []
    print("| job | peer | funcdl | ratio | error of the peer | of funcdl |")
    print("|---|---|---|---|---|---|")
    with jax.enable_x64(True):
        for job in jobs(config):
            rows.append(compare(job, config.rounds))
            name, peer, ours, *errors = rows[-1]
            cells = (name, f"{peer:.2f}", f"{ours:.2f}", f"{ours / peer:.2f}", *map(text, errors))
            print("| " + " | ".join(cells) + " |", flush=True)
    return rows


def text(error: float) -> str:
    """Format an error."""
    return f"{error:.0e}" if error else ""


def compare(job: Job, rounds: int) -> tuple[str, float, float, float, float]:
    """Time one job, and measure the errors of both sides."""
    theirs, ours = np.asarray(job.peer()), np.asarray(job.ours())
    truth = job.truth(theirs)
    scale = np.abs(truth) if job.relative else 1
    errors = [float(np.max(np.abs(x - truth) / scale)) for x in (theirs, ours)]
    times = _timing.smallest({"peer": (job.peer, 1), "ours": (job.ours, 1)}, rounds)
    return job.name, times["peer"], times["ours"], *errors


def jobs(config: Config):
    """Yield all comparisons."""
    from funcdl import data

    images = {"digits": np.asarray(data.digits()[0][0])}
    if config.path is not None:
        images["MNIST"] = np.asarray(data.mnist(config.path)[0][0])
    for name, pixels in images.items():
        x = pixels.reshape(len(pixels), -1).astype(np.float32)
        yield from pca_jobs(name, x / x.max(), config.components)
    for shape in config.shapes:
        yield from regression_jobs(shape, config.penalties)


def pca_jobs(name: str, x: np.ndarray, k: int):
    """Yield comparisons of PCA by covariance and by random projections, in float32."""
    import jax
    from sklearn.decomposition import PCA

    from funcdl import linalg

    centered = x.astype(float) - x.mean(axis=0, dtype=float)
    truth = np.linalg.eigvalsh(centered.T @ centered / (len(x) - 1))[::-1][:k]
    on_device, key = jax.device_put(x), jax.random.key(0)
    whole = jax.jit(lambda x: linalg.pca(x, k).variance)
    random = jax.jit(lambda x: linalg.pca_randomized(key, x, k).variance)

    def peer(solver):
        return lambda: PCA(k, svd_solver=solver, random_state=0).fit(x).explained_variance_

    def job(title, solver, ours):
        call = lambda: jax.block_until_ready(ours(on_device))
        return Job(f"{title}, {name}", peer(solver), call, lambda _: truth, relative=True)

    yield job("PCA", "covariance_eigh", whole)
    yield job("randomized PCA", "randomized", random)


def regression_jobs(shape: tuple[int, int], count: int):
    """Yield least squares, ridge, lasso and a lasso path with correlated columns, in float64."""
    import jax
    import jax.numpy as jnp
    from scipy.linalg import lstsq
    from sklearn.linear_model import Lasso, Ridge, lasso_path

    from funcdl import linalg

    rng = np.random.default_rng(0)
    m, n = shape
    a = rng.normal(size=shape) + rng.normal(size=(m, 1))
    a -= a.mean(axis=0)
    b = a[:, :5] @ rng.normal(size=min(5, n)) + rng.normal(size=m)
    b -= b.mean()
    top = np.abs(a.T @ b).max() / m
    path = np.geomspace(top, top / 1e2, count)
    at = f"{m} × {n}"
    args = tuple(map(jnp.asarray, (a, b)))

    def ours(f, *more):
        compiled = jax.jit(f)
        return lambda: jax.block_until_ready(compiled(*args, *more))

    def lasso(fit):
        model = partial(Lasso, alpha=0.05 * top, tol=1e-8, fit_intercept=False)
        return lambda: model(precompute=fit).fit(a, b).coef_

    squares = ours(lambda a, b: linalg.least_squares(a, b).x)
    yield Job(f"least squares, {at}", lambda: lstsq(a, b)[0], squares)
    ridge = ours(linalg.ridge, 1.0)
    yield Job(f"ridge, {at}", lambda: Ridge(1.0, fit_intercept=False).fit(a, b).coef_, ridge)
    one = ours(lambda a, b: linalg.lasso(a, b, 0.05 * top, tol=1e-8).x)
    yield Job(f"lasso, {at}", lasso(True), one)
    many = ours(lambda a, b, path: linalg.lasso_path(a, b, path, tol=1e-8).x, jnp.asarray(path))
    peer = lambda: lasso_path(a, b, alphas=path, tol=1e-8)[1].T
    yield Job(f"lasso path of {count}, {at}", peer, many)


if __name__ == "__main__":
    import tyro

    settings = tyro.cli(Config)
    _timing.one_thread()
    main(settings)
