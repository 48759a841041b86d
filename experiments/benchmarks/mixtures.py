"""Time mixtures and k-means in funcdl and scikit-learn, from the same start, one thread.

    taskset -c 0 python experiments/benchmarks/mixtures.py
    taskset -c 0 python experiments/benchmarks/mixtures.py --path DIR   # with MNIST's IDX files

EM takes the same number of steps from the same parameters on both sides, and k-means runs from the
same centers to the same tolerance. Both sides are timed in interleaved rounds, in CPU time of the
process, and the smallest time counts; compilation is not timed.

Cost: one minute, or five with MNIST. Result (one core of an AMD EPYC, jax 0.10.2, scikit-learn
1.9.1):

| job | funcdl, ms | scikit-learn, ms | ratio | difference |
|---|---|---|---|---|
| EM digits, full, float32 | 49.88 | 84.20 | 0.59 | 4e-07 |
| EM digits, diagonal, float32 | 7.38 | 10.58 | 0.70 | 7e-08 |
| EM digits, full, float64 | 98.29 | 146.00 | 0.67 | 4e-16 |
| k-means digits | 3.45 | 4.55 | 0.76 | 1e-07 |
| k-means++ digits | 1.31 | 4.60 | 0.29 |  |
| k-means MNIST | 5224.79 | 4778.98 | 1.09 | 3e-06 |
| k-means++ MNIST | 567.03 | 1308.33 | 0.43 |  |

The machine was shared, so only the ratios are meaningful.
"""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import _timing
import numpy as np


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    components: int = 10
    steps: int = 9
    """Steps of EM on both sides."""
    rounds: int = 8
    rounds_mnist: int = 1
    path: Path | None = None
    """Folder of MNIST's four IDX files; without it, MNIST is skipped."""


TINY = {"components": 2, "steps": 1, "rounds": 1}


def main(config: Config) -> list[dict]:
    """Time every job on both sides and print a markdown table.

    Returns:
        For each job its name, the milliseconds of both sides, and the difference of their results.
    """
    from funcdl import data

    images = np.concatenate([part[0] for part in data.digits()]).reshape(-1, 64)
    rows = []
    for name, shape in (("full", "full"), ("diagonal", "diag")):
        job = em(images, name, shape, config)
        rows.append(measured(f"EM digits, {name}, float32", job, config.rounds))
    job = em(images.astype("float64"), "full", "full", config)
    rows.append(measured("EM digits, full, float64", job, config.rounds))
    rows.append(measured("k-means digits", lloyd(images, config), config.rounds))
    rows.append(measured("k-means++ digits", seeds(images, config), config.rounds))
    if config.path is not None:
        images = data.mnist(config.path).train[0].reshape(-1, 784) / np.float32(255)
        rows.append(measured("k-means MNIST", lloyd(images, config), config.rounds_mnist))
        rows.append(measured("k-means++ MNIST", seeds(images, config), config.rounds_mnist))
    print_table(rows)
    return rows


def measured(name: str, job: tuple[Callable, Callable, Callable], rounds: int) -> dict:
    """Time both sides of a job, and compare their results."""
    import jax
    import threadpoolctl

    ours, theirs, difference = job
    forms = {"funcdl": (lambda: jax.block_until_ready(ours()), 1), "scikit-learn": (theirs, 1)}
    with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
        warnings.simplefilter("ignore")  # scikit-learn warns that it did not converge
        times = _timing.smallest(forms, rounds)
        return {"job": name, "difference": difference(ours(), theirs())} | times


def em(x: np.ndarray, name: str, shape: str, config: Config):
    """Return both sides of EM, initialized by k-means."""
    import jax
    import jax.numpy as jnp
    from sklearn.mixture import GaussianMixture

    from funcdl.stats import mixture

    covariance, wide = getattr(mixture, name), x.dtype == "float64"
    with jax.enable_x64(wide):
        data = jnp.asarray(x)
        start = mixture.start(jax.random.key(0), data, config.components, covariance=covariance)
    means, covariances = (np.asarray(leaf) for leaf in start.components)
    variances = covariances[:, range(x.shape[1]), range(x.shape[1])]
    precisions = np.linalg.inv(covariances) if shape == "full" else 1 / variances
    options = {
        "covariance_type": shape,
        "weights_init": np.exp(np.asarray(start.log_weights)),
        "means_init": means,
        "precisions_init": precisions.astype(x.dtype),
    }

    def ours():
        with jax.enable_x64(wide):
            steps = {"tol": 0.0, "max_steps": config.steps}
            return mixture.em(start, data, covariance=covariance, **steps)

    def theirs():
        fitted = GaussianMixture(config.components, tol=0, max_iter=config.steps, **options)
        return fitted.fit(x)

    return ours, theirs, lambda a, b: abs(float(a.log_likelihood) / b.score(x) - 1)


def lloyd(x: np.ndarray, config: Config):
    """Return both sides of Lloyd's iteration from the same centers."""
    import jax.numpy as jnp
    from sklearn.cluster import KMeans, kmeans_plusplus

    from funcdl import stats

    centers, _ = kmeans_plusplus(x, config.components, random_state=0)
    data, start = jnp.asarray(x), jnp.asarray(centers)
    options = {"init": centers, "n_init": 1, "algorithm": "lloyd"}
    return (
        lambda: stats.lloyd(data, start),
        lambda: KMeans(config.components, **options).fit(x),
        lambda a, b: abs(float(a.inertia) / b.inertia_ - 1),
    )


def seeds(x: np.ndarray, config: Config):
    """Return both sides of greedy k-means++, whose results are not compared: the draws differ."""
    import jax
    import jax.numpy as jnp
    from sklearn.cluster import kmeans_plusplus

    from funcdl import stats

    data, key = jnp.asarray(x), jax.random.key(0)
    return (
        lambda: stats.kmeans_plus_plus(key, data, config.components),
        lambda: kmeans_plusplus(x, config.components, random_state=0),
        lambda a, b: float("nan"),
    )


def print_table(rows: list[dict]) -> None:
    """Print one row per job: milliseconds, their ratio, and the difference of the results."""
    print("| job | funcdl, ms | scikit-learn, ms | ratio | difference |")
    print("|---|---|---|---|---|")
    for row in rows:
        ours, theirs = row["funcdl"], row["scikit-learn"]
        difference = "" if np.isnan(row["difference"]) else f"{row['difference']:.0e}"
        print(f"| {row['job']} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} | {difference} |")


if __name__ == "__main__":
    import tyro

    settings = tyro.cli(Config)
    _timing.one_thread()
    main(settings)
