"""Measure what a flight recorder takes of a training step; one thread.

    taskset -c 0 python experiments/benchmarks/flight.py

Training by ``fit`` on digits, batch 64, Adam, with ``train.flight_recorder`` and without: the
smallest CPU time of interleaved rounds.

Cost: a minute. Result (one core of an AMD EPYC, jax 0.10.2):

"""

import dataclasses

import _timing


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    steps: int = 200
    """In one training."""
    size: int = 64
    """Of a batch."""
    rounds: int = 15


TINY = {"steps": 4, "size": 4, "rounds": 1}


def main(config: Config) -> dict[str, float]:
    """Time all nets and print a markdown table.

    Returns:
        The share of a step that recording takes, by net.
    """
    print("| net | parameters | µs a step | recorded | share |\n|---|---|---|---|---|")
    shares = {}
    for name, net in nets().items():
        count, forms = trainings(net, config)
        found = _timing.smallest(forms, config.rounds)
        plain, recorded = (1e3 * found[kind] for kind in ("plain", "recorded"))
        shares[name] = recorded / plain - 1
        print(f"| {name} | {count:,} | {plain:.1f} | {recorded:.1f} | {shares[name]:.1%} |")
    return shares


def nets() -> dict:
    """Return the CNN of the first experiment, and MLPs from small to large."""
    from funcdl import nn

    return {
        "CNN 16-32-64-10": nn.models.SmallCNN(classes=10),
        "MLP 128-64-10": nn.models.MLP((128, 64, 10)),
        "MLP 288-256-10": nn.models.MLP((288, 256, 10)),
        "MLP 10 x 32": nn.models.MLP((32,) * 9 + (10,)),
    }


def trainings(net, config: Config) -> tuple[int, dict]:
    """Return the number of parameters, and a training with a recorder and one without."""
    import jax
    import optax

    from funcdl import data, losses, nn, train

    batches = data.Batches(data.digits().train, config.size, key=jax.random.key(1))
    objective = train.supervised(nn.from_linen(net), losses.softmax_cross_entropy)
    plain = train.program(objective, optax.adam(1e-3))
    forms = {}
    for name, program in {"plain": plain, "recorded": train.flight_recorder(plain)}.items():
        run = program.init(jax.random.key(0), batches.form)
        fit = lambda program=program, run=run: train.fit(
            program, run, batches, steps=config.steps, chunk=config.steps
        )
        forms[name] = fit, config.steps
    return sum(leaf.size for leaf in jax.tree.leaves(run.params)), forms


if __name__ == "__main__":
    import tyro

    settings = tyro.cli(Config)
    _timing.one_thread()
    main(settings)
