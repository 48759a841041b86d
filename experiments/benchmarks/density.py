"""Time log-determinants: derived from structure, handwritten, and of the dense Jacobian.

    taskset -c 0 python experiments/benchmarks/density.py

The maps are plain functions of one point, batched by vmap: eight affine couplings (RealNVP) in a
``lax.scan``, eight planar layers, a masked autoregressive layer, a triangular solve with a
softplus, and a chain of elementwise functions. ``f`` is the function alone; ``funcdl`` is
``density.value_and_log_det``; ``by hand`` computes the log-determinant with handwritten code that
uses the structure; ``dense`` is ``slogdet(jacfwd(f))``. All forms are timed in interleaved rounds,
in CPU time of the process, and the smallest time counts. Compilation is timed once, including
tracing. The inverse of RealNVP is compared with a handwritten one.

Cost: two minutes. Result (one core of an AMD EPYC, the other busy, jax 0.10.2; the table is in
docs/benchmarks.md): for RealNVP, dense / funcdl is 3.4, 9.8, 74 and 662 at n = 8, 32, 128 and 512;
it is 10.2 at 32 in another run, in which dense / by hand is 10.4. funcdl / by hand is 1.03 to 1.26,
and compilation takes 1.0 to 1.6 times as long as for f. Planar layers cost up to 2.2 times the
closed form and compile 4 times as long as f. At large n, XLA compiles f alone to slower products
than f together with its log-determinant.
"""

import dataclasses
import time
from collections.abc import Callable

import _maps
import _timing


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    sizes: tuple[int, ...] = (8, 32, 128, 512)
    batch: int = 16
    layers: int = 8
    width: int = 64
    """Width of the two hidden layers of the couplings' nets."""
    rounds: int = 60
    seconds: float = 4.0
    """Time limit for the slowest form of a row, which reduces its number of rounds."""
    only: str = ""
    """Part of the names of the maps to time; others are skipped."""


TINY = {"sizes": (4,), "batch": 2, "layers": 2, "width": 3, "rounds": 1, "only": "elementwise"}


def main(config: Config) -> list[dict]:
    """Time every map at every size and print two markdown tables.

    Returns:
        A dictionary for each row of the first table, then for each of the second.
    """
    rows, inverses = [], []
    for n in config.sizes:
        for each in _maps.maps(n, config.layers, config.width):
            if config.only.lower() in each.name.lower():
                rows.append(forward_row(each, n, config))
                if each.inverse is not None:
                    inverses.append(inverse_row(each, n, config))
    print_forward(rows)
    print_inverse(inverses)
    return rows + inverses


def forward_row(each: _maps.Map, n: int, config: Config) -> dict:
    """Time a map alone and with three log-determinants, and compare the values."""
    import jax
    import jax.numpy as jnp

    from funcdl import density

    f = each.forward
    dense = lambda x, p: (f(x, p), jnp.linalg.slogdet(jax.jacfwd(f)(x, p))[1])
    forms = {
        "f": f,
        "funcdl": density.value_and_log_det(f),
        "by hand": each.by_hand,
        "dense": dense,
    }
    x = points(n, config)
    timed, compiled = measured(forms, (x, each.params), config)
    log_dets = {name: compiled[name](x, each.params)[1] for name in ("funcdl", "by hand")}
    off = float(abs(log_dets["funcdl"] - log_dets["by hand"]).max())
    return {"map": each.name, "n": n, "difference": off, **timed}


def inverse_row(each: _maps.Map, n: int, config: Config) -> dict:
    """Time the derived inverse and the handwritten one."""
    from funcdl import density

    x = points(n, config)
    forms = {"funcdl": density.inverse(each.forward), "by hand": each.inverse}
    y = batched(each.forward)(x, each.params)
    timed, compiled = measured(forms, (y, each.params), config)
    off = float(abs(compiled["funcdl"](y, each.params) - x).max())
    return {"map": each.name, "n": n, "difference": off, **timed}


def points(n: int, config: Config):
    """Draw a batch of points."""
    return _maps.drawn(config.batch, n, seed=7)


def batched(f: Callable) -> Callable:
    """Compile for a batch of points and one set of parameters."""
    import jax

    return jax.jit(jax.vmap(f, (0, None)))


def measured(forms: dict[str, Callable], args: tuple, config: Config) -> tuple[dict, dict]:
    """Compile every form, then time all of them in interleaved rounds.

    Returns:
        Microseconds by name, with the compilation seconds under ``compile``; and the compiled
        functions.
    """
    import jax

    found, compiled, slow = {}, {}, {}
    for name, f in forms.items():
        start = time.perf_counter()
        compiled[name] = batched(f).lower(*args).compile()
        found[f"compile {name}"] = time.perf_counter() - start
        start = time.perf_counter()
        jax.block_until_ready(compiled[name](*args))
        slow[name] = time.perf_counter() - start
    rounds = max(3, min(config.rounds, int(config.seconds / max(slow.values()))))
    jobs = {}
    for name, f in compiled.items():
        repeats = max(1, min(50, int(2e-3 / slow[name])))  # the clock ticks in microseconds
        jobs[name] = (
            (lambda f=f, k=repeats: [jax.block_until_ready(f(*args)) for _ in range(k)]),
            repeats,
        )
    return found | {k: 1e3 * v for k, v in _timing.smallest(jobs, rounds).items()}, compiled


def print_forward(rows: list[dict]) -> None:
    """Print microseconds, ratios and compilation seconds."""
    print("| map | n | f, μs | funcdl, μs | by hand, μs | dense, μs | dense / funcdl | funcdl / by "
          "hand | compile f / funcdl / by hand / dense, s | difference |")  # fmt: skip
    print("|---" * 10 + "|")
    for r in rows:
        names = ("f", "funcdl", "by hand", "dense")
        times = " | ".join(f"{r[name]:.0f}" for name in names)
        seconds = " / ".join(f"{r[f'compile {name}']:.2f}" for name in names)
        ratios = f"{r['dense'] / r['funcdl']:.1f} | {r['funcdl'] / r['by hand']:.2f}"
        print(f"| {r['map']} | {r['n']} | {times} | {ratios} | {seconds} | {r['difference']:.0e} |")


def print_inverse(rows: list[dict]) -> None:
    """Print the microseconds of both inverses, and the error of ours."""
    print("\n| inverse of | n | funcdl, μs | by hand, μs | ratio | error |")
    print("|---" * 6 + "|")
    for r in rows:
        ours, hand = r["funcdl"], r["by hand"]
        print(f"| {r['map']} | {r['n']} | {ours:.0f} | {hand:.0f} | {ours / hand:.2f} "
              f"| {r['difference']:.0e} |")  # fmt: skip


if __name__ == "__main__":
    import tyro

    settings = tyro.cli(Config)
    _timing.one_thread()
    main(settings)
