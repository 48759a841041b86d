"""Timing for benchmarks: the smallest CPU time of interleaved rounds counts."""

import os
import time
from collections.abc import Callable


def one_thread() -> None:
    """Restrict XLA to one thread; this must be called before jax is imported."""
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def smallest(forms: dict[str, tuple[Callable, int]], rounds: int) -> dict[str, float]:
    """Time every form in interleaved rounds, after a warm-up.

    Args:
        forms: For each name, a call and the number of steps that it takes.
        rounds: The number of timings of each form.

    Returns:
        The smallest milliseconds per step, in CPU time of the process.
    """
    best = dict.fromkeys(forms, float("inf"))
    for run, _ in forms.values():
        run()
    for _ in range(rounds):
        for name, (run, steps) in forms.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], 1e3 * (time.process_time() - start) / steps)
    return best
