"""Time products and solves with a symmetric Toeplitz matrix in funcdl and SciPy, one thread.

    taskset -c 0 python experiments/benchmarks/structured.py

The matrix is a covariance, ``exp(-|i - j| / 20) + 0.1 [i = j]``. SciPy also multiplies by Fourier
transforms, and solves by Levinson's recursion. All forms are timed in interleaved rounds, in CPU
time of the process, and the smallest time counts; ours are jitted and compiled before.

Cost: half a minute. Result (one core of an AMD EPYC, jax 0.10.2, scipy; ms, ratio to scipy):

| form | n = 256 | n = 1024 | n = 4096 |
|---|---|---|---|
| product, float32 | 0.076 (0.56) | 0.114 (0.53) | 0.338 (0.25) |
| solve, float32 | 0.585 (3.19) | 0.537 (0.31) | 1.470 (0.06) |
| product, float64 | 0.078 (0.60) | 0.132 (0.56) | 0.378 (0.26) |
| solve, float64 | 0.713 (3.98) | 0.731 (0.43) | 2.193 (0.09) |

The errors of the float32 solutions are 1.3e-6 to 2.6e-6, and those of SciPy's 6e-7; in float64 the
solutions agree to 5e-15. Up to n = 256 we solve by elimination, which also works for matrices that
are not definite.
"""

import dataclasses

import _timing
import numpy as np


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    sizes: tuple[int, ...] = (256, 1024, 4096)
    rounds: int = 20


TINY = {"sizes": (8,), "rounds": 1}


def main(config: Config) -> dict[str, list[float]]:
    """Time every form at every size in both precisions and print a markdown table.

    Returns:
        For each form and precision, the milliseconds per call by size.
    """
    found: dict[str, list[float]] = {}
    for dtype in ("float32", "float64"):
        for size in config.sizes:
            times, errors = compare(size, dtype, config.rounds)
            for name, milliseconds in (times | errors).items():
                found.setdefault(f"{name}, {dtype}", []).append(milliseconds)
    print_table(config.sizes, found)
    return found


def compare(size: int, dtype, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Time both sides on one matrix.

    Returns:
        Milliseconds by form; and by solver, the error compared with SciPy's solution in float64.
    """
    import jax
    import jax.numpy as jnp
    import scipy.linalg

    from funcdl import operators

    i = np.arange(size)
    exact = np.exp(-i / 20) + 0.1 * (i == 0)
    column, b = exact.astype(dtype), np.random.default_rng(0).normal(size=size).astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        A, v = operators.toeplitz(jnp.asarray(column)), jnp.asarray(b)
        product, solve = (jax.jit(f) for f in (lambda A, v: A @ v, lambda A, v: A.solve(v)))
        forms = {
            "product": lambda: product(A, v).block_until_ready(),
            "scipy's product": lambda: scipy.linalg.matmul_toeplitz(column, b),
            "solve": lambda: solve(A, v).block_until_ready(),
            "scipy's solve": lambda: scipy.linalg.solve_toeplitz(column, b),
        }
        times = _timing.smallest({name: (form, 1) for name, form in forms.items()}, rounds)
        expected = scipy.linalg.solve_toeplitz(exact, b.astype(float))
        errors = {
            f"error of {name}": float(np.linalg.norm(form() - expected) / np.linalg.norm(expected))
            for name, form in forms.items()
            if "solve" in name
        }
    return times, errors


def print_table(sizes: tuple[int, ...], found: dict[str, list[float]]) -> None:
    """Print forms in rows and sizes in columns, each of our times with its ratio to SciPy's."""
    print("| form, ms (ratio to scipy) | " + " | ".join(f"n = {size}" for size in sizes) + " |")
    print("|---|" + "---|" * len(sizes))
    for name, values in found.items():
        base = found.get(f"scipy's {name}")
        cells = [
            f"{x:.1e}" if "error" in name else f"{x:.3f}" + (f" ({x / y:.2f})" if base else "")
            for x, y in zip(values, base or values)
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    import tyro

    settings = tyro.cli(Config)
    _timing.one_thread()
    main(settings)
