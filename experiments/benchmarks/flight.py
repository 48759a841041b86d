"""Measure the share of a training step that a flight recorder takes; one thread.

    taskset -c 0 python experiments/benchmarks/flight.py

Steps of Adam on digits run inside one compiled loop, with and without ``train.flight_recorder``;
the smallest CPU time of interleaved rounds counts. Recording reads the parameters before and after
the step, independently of the batch, so its share falls as the batch grows.

Cost: two minutes. Result (one core of a shared AMD EPYC, jax 0.10.2):

| net | parameters | batch | µs per step | recorded | share |
|---|---|---|---|---|---|
| CNN 16, 32 - 64-10 | 13,706 | 64 | 1651 | 1656 | 0.3% |
| MLP 288-256-10 | 95,274 | 512 | 4861 | 4964 | 2.1% |
| MLP 288-256-10 | 95,274 | 64 | 662 | 707 | 6.8% |
| MLP 128-64-10 | 17,226 | 64 | 144 | 160 | 11.4% |
"""

import dataclasses
from functools import partial

import _timing


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    steps: int = 40
    """Steps in one round."""
    rounds: int = 40
    sizes: tuple[int, int] = (64, 512)
    """Sizes of the small and the large batch."""


TINY = {"steps": 2, "rounds": 1, "sizes": (2, 4)}


def main(config: Config) -> dict[str, float]:
    """Time all nets and print a markdown table.

    Returns:
        The share of a step that recording takes, by net.
    """
    print(
        "| net | parameters | batch | µs per step | recorded | share |\n|---|---|---|---|---|---|"
    )
    shares = {}
    for name, net, size in nets(*config.sizes):
        count, forms = loops(net, size, config.steps)
        found = _timing.smallest(forms, config.rounds)
        plain, recorded = (1e3 * found[kind] for kind in ("plain", "recorded"))
        share = shares[f"{name}, {size}"] = recorded / plain - 1
        print(f"| {name} | {count:,} | {size} | {plain:.0f} | {recorded:.0f} | {share:.1%} |")
    return shares


def nets(small: int, large: int) -> list[tuple]:
    """Return nets and the sizes of their batches."""
    from funcdl import nn

    mlp = nn.models.MLP((288, 256, 10))
    return [
        ("CNN 16, 32 - 64-10", nn.models.SmallCNN(classes=10), small),
        ("MLP 288-256-10", mlp, large),
        ("MLP 288-256-10", mlp, small),
        ("MLP 128-64-10", nn.models.MLP((128, 64, 10)), small),
    ]


def loops(net, size: int, steps: int) -> tuple[int, dict]:
    """Return the number of parameters, and loops of steps with and without a recorder."""
    import jax
    import optax

    from funcdl import data, losses, nn, train

    batches = data.Batches(data.digits().train, size, key=jax.random.key(1))
    objective = train.supervised(nn.from_linen(net), losses.softmax_cross_entropy)
    plain = train.program(objective, optax.adam(1e-3))
    forms = {}
    for name, program in {"plain": plain, "recorded": train.flight_recorder(plain)}.items():
        run = program.init(jax.random.key(0), batches.form)

        loop = jax.jit(partial(many, program.step, steps))
        call = partial(loop, run, batches)
        forms[name] = lambda call=call: jax.block_until_ready(call()), steps
    return sum(leaf.size for leaf in jax.tree.leaves(run.params)), forms


def many(step, steps: int, run, batches):
    """Take several steps in one loop."""
    import jax

    return jax.lax.fori_loop(0, steps, lambda i, run: step(run, batches.at(run.step))[0], run)


if __name__ == "__main__":
    import tyro

    settings = tyro.cli(Config)
    _timing.one_thread()
    main(settings)
