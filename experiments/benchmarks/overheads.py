"""Measure the share of training that monitors take, and the memory of solvers; one thread.

    taskset -c 0 python experiments/benchmarks/overheads.py

The net is a tanh net 64-288-256-10 with 95 274 parameters on 512 digits. The memory of a solver is
the temporary memory in addition to that of one product.

Cost: one minute. Result (one core of an AMD EPYC, jax 0.10.2):

| monitors | share of the training |
|---|---|
| λ_max, every 50 | 5.0% |
| λ_max, trace and noise scale, every 50 | 11.0% |

| temporary memory minus that of a product | bases |
|---|---|
| eigsh | 1.23 |
| spectral_density | 0.50 |
"""

import dataclasses

import _tanh_net
import _timing


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    hidden: tuple[int, int] = (288, 256)
    examples: int = 512
    eigenvalues: int = 10
    probes: int = 10
    lanczos_steps: int = 30
    every: int = 50
    """Steps between two measurements."""
    rounds: int = 5


TINY = {
    "hidden": (2, 2),
    "examples": 16,
    "eigenvalues": 2,
    "probes": 2,
    "lanczos_steps": 2,
    "every": 2,
    "rounds": 1,
}


def main(config: Config) -> list[dict]:
    """Measure both and print markdown tables.

    Returns:
        The shares of the training by monitor, and the memory by solver, in bases.
    """
    batch = _tanh_net.digits(config.examples)
    shares = recording(config, batch)
    memory = memories(config, batch)
    print("| monitors | share of the training |\n|---|---|")
    for name, share in shares.items():
        print(f"| {name}, every {config.every} | {share:.1%} |")
    print("\n| temporary memory minus that of a product | bases |\n|---|---|")
    for name, bases in memory.items():
        print(f"| {name} | {bases:.2f} |")
    return [shares, memory]


def recording(config: Config, batch) -> dict[str, float]:
    """Measure how much longer training with monitors takes."""
    import jax
    import optax

    from funcdl import train

    objective = train.objective(lambda *_: _tanh_net.start(config.hidden), _tanh_net.loss)
    plain = train.program(objective, optax.adam(1e-3))
    sharp, trace, noise = (
        train.sharpness_monitor(objective),
        train.trace_monitor(objective),
        train.noise_monitor(objective),
    )
    programs = {
        "nothing": plain,
        "λ_max": train.monitored(plain, sharp, every=config.every),
        "λ_max, trace and noise scale": train.monitored(
            plain, sharp, trace, noise, every=config.every
        ),
    }

    def form(program):
        run = program.init(jax.random.key(0), batch)
        many = jax.jit(
            lambda run, batch: jax.lax.scan(
                lambda run, _: (program.step(run, batch)[0], None), run, length=2 * config.every
            )[0]
        )
        return lambda: jax.block_until_ready(many(run, batch)), 1

    times = _timing.smallest({k: form(p) for k, p in programs.items()}, config.rounds)
    return {k: t / times["nothing"] - 1 for k, t in times.items() if k != "nothing"}


def memories(config: Config, batch) -> dict[str, float]:
    """Measure the memory of both solvers minus that of a product, in bases of their vectors."""
    import jax

    from funcdl import curvature, operators

    params = _tanh_net.start(config.hidden)
    key, k = jax.random.key(0), config.eigenvalues
    options = {"probes": config.probes, "steps": config.lanczos_steps}
    solvers = {
        "eigsh": (lambda A: operators.eigsh(A, k, key=key), max(3 * k, 20)),
        "spectral_density": (
            lambda A: operators.spectral_density(A, key=key, **options),
            config.lanczos_steps,
        ),
    }
    size = sum(x.size for x in jax.tree.leaves(params)) * 4
    product = curvature.hessian(_tanh_net.loss, params, batch).cost().bytes
    found = {}
    for name, (solve, rows) in solvers.items():
        f = jax.jit(lambda p, b, solve=solve: solve(curvature.hessian(_tanh_net.loss, p, b)))
        memory = f.lower(params, batch).compile().memory_analysis()
        found[name] = (memory.temp_size_in_bytes - product) / (rows * size)
    return found


if __name__ == "__main__":
    import tyro

    settings = tyro.cli(Config)
    _timing.one_thread()
    main(settings)
