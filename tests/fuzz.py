"""Check the density of many random programs, in shards that can be stopped and resumed.

    python tests/fuzz.py log-det --count 10000 --shard 0/2

A program is a function of its seed. The state file holds the check, the shard, the next seed and
what failed, so the same command goes on after Ctrl-C, and a larger ``--count`` adds programs. What
failed before is checked again first, and forgotten if it passes now. The exit status is 1 if any
program failed; its seed and its parts are printed. ``tests/fuzz_log_det.json`` is the state of the
last long run; ``--state tests/fuzz_log_det.json`` goes on from there.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import density
from programs import JOINS, OPERATIONS, N, program


def check_log_det(chosen, seed):
    """Compare with the dense Jacobian, as far as its own digits go."""
    f, x = program(chosen), jnp.asarray(np.random.default_rng(seed).normal(size=N))
    with jax.disable_jit():
        jacobian = dense(chosen, f, x)
        y, found = density.value_and_log_det(f)(x)
        if not np.isfinite(jacobian).all():
            return
        np.testing.assert_allclose(y, f(x), rtol=1e-9, atol=1e-12)
        scaled = jacobian / np.maximum(np.abs(jacobian).max(1, keepdims=True), 1e-300)
        singular = np.linalg.svd(scaled, compute_uv=False)
        condition = singular[0] / max(singular[-1], 1e-300)
        expected = np.linalg.slogdet(jacobian)[1]
        if found == -np.inf and is_noise(jacobian):
            return
        if condition < 1e9 and not np.isclose(found, expected, rtol=1e-6, atol=1e-6):
            noise = spread(chosen, f, x)
            assert abs(found - expected) < 10 * noise, (found, expected, condition, noise)
        elif condition > 1e18 and not np.isnan(found):
            assert found < highest(jacobian) + 5, (found, expected, condition)


def spread(chosen, f, x):
    """Measure how far rounding alone moves the reference: 1 - tanh^2 has few digits at 15."""
    nearby = [x * (1 + k * np.finfo(float).eps) for k in range(-3, 4)]
    values = [np.linalg.slogdet(dense(chosen, f, point))[1] for point in nearby]
    return np.ptp(values)


def is_noise(jacobian):
    """Tell whether the reference is regular by rounding alone, as after a softmax."""
    singular = np.linalg.svd(jacobian, compute_uv=False)
    return singular[-1] <= 1e-14 * singular[0]


def highest(jacobian):
    """The largest log-determinant that the reference may hide: 1 - tanh^2 is 0 from 19 on."""
    singular = np.linalg.svd(jacobian, compute_uv=False)
    return np.log(np.maximum(singular, 1e-15 * max(1.0, singular[0]))).sum()


def check_derivatives(chosen, seed):
    """Compare the gradient and the Hessian of a log-determinant with those of the dense one."""
    f, x = program(chosen), jnp.asarray(np.random.default_rng(seed).normal(size=N))
    modes = [jax.jacrev] if "reverse rule" in named(chosen) else [jax.jacfwd, jax.jacrev]
    reference = lambda x: jnp.linalg.slogdet(modes[0](f)(x))[1]
    log_det = density.log_abs_det_jacobian(f)
    with jax.disable_jit():
        jacobian = dense(chosen, f, x)
        if not np.isfinite(jacobian).all() or np.linalg.cond(jacobian) > 1e6:
            return
        slope = modes[0](reference)
        expected = slope(x), modes[0](slope)(x)
        # loops of unknown length have no reverse mode
        for mode in modes[:1] if "lanes" in named(chosen) else modes:
            found = mode(log_det)(x), jax.jacfwd(mode(log_det))(x)
            require_close(found, expected, 1e-7 * np.linalg.cond(jacobian))


def require_close(found, expected, tolerance):
    """Compare derivatives with finite ones, which may be large where a program is steep."""
    for ours, theirs in zip(found, expected):
        if np.isfinite(theirs).all():
            scale = max(1.0, np.abs(theirs).max())
            np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=tolerance)


def named(chosen):
    """Return the names of the operations of a program."""
    return {name for _, name, _ in chosen}


def dense(chosen, f, x):
    """The dense Jacobian, in reverse mode if a rule of the program has no other."""
    is_reverse = "reverse rule" in named(chosen)
    if is_reverse and "lanes" in named(chosen):  # loops of unknown length have no reverse mode
        return np.full((N, N), np.nan)
    return np.asarray((jax.jacrev if is_reverse else jax.jacfwd)(f)(x))


def check_inverse(chosen, seed):
    """A finite answer is mapped to y; of a map that is proved injective, it is the point."""
    f, x = program(chosen), jnp.asarray(np.random.default_rng(seed).normal(size=N))
    y = f(x)
    jacobian = dense(chosen, f, x)
    if not np.isfinite(jacobian).all():
        return
    try:
        found = density.inverse(f)(y)
    except density.NotInjectiveError:
        return
    if not np.isfinite(found).all():
        return
    np.testing.assert_allclose(f(found), y, rtol=1e-8, atol=1e-8)
    condition = np.linalg.cond(jacobian)
    if condition < 1e6 and density.inspect(f, x).injective == "proved":
        np.testing.assert_allclose(found, x, rtol=1e-8 * condition, atol=1e-8 * condition)


CHECKS = {
    "log-det": check_log_det,
    "inverse": check_inverse,
    "derivatives": check_derivatives,
}
# an inverse compiles a Newton loop, and a Hessian is compared operation by operation
COUNTS = {"log-det": 10_000, "inverse": 2_000, "derivatives": 1_000}


class Shard(NamedTuple):
    """The seeds ``index, index + of, ...`` below ``count``, and the file that remembers them."""

    check: str
    count: int
    index: int
    of: int
    state: Path


def parts(seed: int) -> list[tuple[str, str, int]]:
    """The program of a seed: one to five operations, each joined to what stands before."""
    rng = np.random.default_rng(seed)
    joins, operations = sorted(JOINS), sorted(OPERATIONS)
    return [
        (joins[rng.integers(len(joins))], operations[rng.integers(len(operations))], int(number))
        for number in rng.integers(100, size=rng.integers(1, 6))
    ]


def run(shard: Shard, check: Callable) -> list[dict]:
    """Check what failed before and the programs not checked yet; return what fails."""
    state = restored(shard)
    before, state["failures"] = state["failures"], []
    for failure in before:
        state["failures"] += attempt(check, failure["seed"])
    if before:
        save(shard, state)
    for seed in range(state["next"], shard.count, shard.of):
        state["failures"] += attempt(check, seed)
        state["next"] = seed + shard.of
        save(shard, state)
        if seed // shard.of % 50 == 49:
            jax.clear_caches()  # thousands of programs do not fit into the memory
            print(f"{shard.check}, shard {shard.index}: {seed + 1} of {shard.count}", flush=True)
    return state["failures"]


def restored(shard: Shard) -> dict:
    """Read the state of a shard; that of another shard would skip or repeat seeds."""
    own = {"check": shard.check, "index": shard.index, "of": shard.of}
    if not shard.state.exists():
        return own | {"next": shard.index, "failures": []}
    state = json.loads(shard.state.read_text())
    if {name: state.get(name) for name in own} != own:
        raise SystemExit(
            f"{shard.state} holds {state.get('check')}, shard {state.get('index')}/"
            f"{state.get('of')}, not {shard.check}, shard {shard.index}/{shard.of}; choose "
            "another --state, or delete the file"
        )
    return state


def save(shard: Shard, state: dict) -> None:
    """Write the state to a new file that replaces the old one, so that neither is ever half."""
    shard.state.parent.mkdir(parents=True, exist_ok=True)
    temporary = shard.state.with_name(shard.state.name + ".tmp")
    temporary.write_text(json.dumps(state, indent=1))
    os.replace(temporary, shard.state)


def attempt(check: Callable, seed: int) -> list[dict]:
    chosen = parts(seed)
    try:
        check(chosen, seed)
    except Exception as error:  # a crash is a failure too
        print(f"seed {seed} failed: {chosen}\n{error}", flush=True)
        return [{"seed": seed, "program": chosen, "error": str(error)}]
    return []


def position(text: str) -> tuple[int, int]:
    """Parse INDEX/NUMBER of a shard."""
    try:
        index, of = map(int, text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not INDEX/NUMBER, such as 0/2") from None
    if not 0 <= index < of:
        raise argparse.ArgumentTypeError(f"{text!r} needs 0 <= INDEX < NUMBER, such as 0/2")
    return index, of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=CHECKS, help="what to compare")
    parser.add_argument(
        "--count",
        type=int,
        help=f"programs of all shards (default: {', '.join(map(str, COUNTS.values()))})",
    )
    parser.add_argument(
        "--shard",
        type=position,
        default="0/1",
        help="INDEX/NUMBER of shards (default: %(default)s)",
    )
    parser.add_argument(
        "--state",
        type=Path,
        help="file of the progress (default: runs/fuzz-CHECK-INDEX-of-NUMBER.json)",
    )
    options = parser.parse_args()
    name, (index, of) = options.check, options.shard
    state = options.state or Path(f"runs/fuzz-{name}-{index}-of-{of}.json")
    count = options.count or COUNTS[name]
    with jax.enable_x64(True):
        failures = run(Shard(name, count, index, of, state), CHECKS[name])
    print(f"{name}: {count} programs, {len(failures)} failures in shard {index}/{of}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
