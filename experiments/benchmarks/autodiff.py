"""Time dense second derivatives in funcdl and plain JAX, on the same nets and points, one thread.

    taskset -c 0 python experiments/benchmarks/autodiff.py

The Hessian is that of the cross-entropy of a tanh net 64-24-12-10 with 1 990 parameters on 128
digits; the Laplacian is that of a tanh net 30-100-100-100-1 at 64 points. Both sides are compiled
and timed in interleaved rounds, in CPU time of the process, and the smallest time counts. The
compilation times have separate columns.

Cost: one minute. Result (one core of an AMD EPYC, jax 0.10.2):

| job | funcdl, ms | jax, ms | ratio | compile, s | jax | difference |
|---|---|---|---|---|---|---|
| dense Hessian, blocks | 133.48 | 354.71 | 0.38 | 4.9 | 4.7 | 3e-07 |
| Laplacian | 2.96 | 3.36 | 0.88 | 0.4 | 1.1 | 5e-07 |

The machine was shared, so only the ratios are meaningful.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable

import _timing
import numpy as np


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    hidden: tuple[int, int] = (24, 12)
    """Hidden widths of the net for the Hessian."""
    examples: int = 128
    width: int = 100
    """Hidden width of the net for the Laplacian."""
    points: int = 64
    rounds: int = 20


TINY = {"hidden": (2, 2), "examples": 4, "width": 2, "points": 2, "rounds": 1}


def main(config: Config) -> list[dict]:
    """Time every job on both sides and print a markdown table.

    Returns:
        For each job its name, the milliseconds and the compilation seconds of both sides, and the
        difference of their results.
    """
    import jax
    import jax.numpy as jnp

    from funcdl import autodiff

    loss, params, batch = classifier(config)
    f, x = wave(config)

    def trace(x):
        return jnp.trace(jax.hessian(f)(x))

    jobs = {
        "dense Hessian, blocks": (autodiff.hessian(loss), jax.hessian(loss), (params, batch)),
        "Laplacian": (jax.vmap(autodiff.laplacian(f)), jax.vmap(trace), (x,)),
    }
    rows = [measured(name, *job, config.rounds) for name, job in jobs.items()]
    print(
        "| job | funcdl, ms | jax, ms | ratio | funcdl compiles, s | jax compiles, s | difference |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        ours, theirs = row["funcdl"], row["jax"]
        print(
            f"| {row['job']} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} "
            f"| {row['funcdl compiles']:.1f} | {row['jax compiles']:.1f} "
            f"| {row['difference']:.0e} |"
        )
    return rows


def measured(name: str, ours: Callable, theirs: Callable, args: tuple, rounds: int) -> dict:
    """Compile and time both sides, and compare their results."""
    import jax
    from jax.flatten_util import ravel_pytree

    row, results, forms = {"job": name}, {}, {}
    for side, f in (("funcdl", jax.jit(ours)), ("jax", jax.jit(theirs))):
        start = time.process_time()
        results[side] = ravel_pytree(f(*args))[0]
        row[f"{side} compiles"] = time.process_time() - start
        forms[side] = (lambda f=f: jax.block_until_ready(f(*args)), 1)
    gap = np.abs(np.asarray(results["funcdl"] - results["jax"])).max()
    row["difference"] = float(gap / np.abs(np.asarray(results["jax"])).max())
    return row | _timing.smallest(forms, rounds)


def classifier(config: Config) -> tuple[Callable, list, tuple]:
    """Return a loss on digits, parameters and a batch."""
    import jax.numpy as jnp

    from funcdl import data, losses

    (images, labels), _ = data.digits()
    x = jnp.asarray(np.asarray(images).reshape(len(images), -1)[: config.examples], jnp.float32)
    y = jnp.asarray(labels[: config.examples])
    params = [(w, jnp.zeros((1, w.shape[1]))) for w in weights((64, *config.hidden, 10))]

    def loss(params, batch):
        x, y = batch
        for w, b in params[:-1]:
            x = jnp.tanh(x @ w + b)
        return losses.softmax_cross_entropy(x @ params[-1][0] + params[-1][1], y)

    return loss, params, (x, y)


def wave(config: Config) -> tuple[Callable, object]:
    """Return a function of 30 coordinates, and points."""
    import jax.numpy as jnp

    layers = weights((30, config.width, config.width, config.width, 1))

    def f(x):
        for w in layers[:-1]:
            x = jnp.tanh(x @ w)
        return (x @ layers[-1])[0]

    return f, jnp.asarray(np.random.default_rng(1).normal(size=(config.points, 30)), jnp.float32)


def weights(sizes: tuple[int, ...]) -> list:
    """Draw the kernels of a dense net."""
    import jax.numpy as jnp

    draw = np.random.default_rng(0).normal
    return [
        jnp.asarray(draw(size=(m, n)) / m**0.5, jnp.float32) for m, n in itertools.pairwise(sizes)
    ]


if __name__ == "__main__":
    import tyro

    settings = tyro.cli(Config)
    _timing.one_thread()
    main(settings)
