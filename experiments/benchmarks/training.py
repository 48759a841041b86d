"""Time the overhead of training steps, on small nets where it is visible.

    taskset -c 0 python experiments/benchmarks/training.py

Four comparisons, each in one run on one thread; the smallest CPU time of interleaved rounds counts:

1. a step of ``train.program`` (jitted, donated) and the same step written by hand, and Linen
   through the adapter and Linen's own ``apply``: 48 layers of width 8, Adam, batch 4;
2. ``train.fit`` and a Python loop of jitted steps: MLP 64-32-32-10, batch 32;
3. an ensemble of 8 in one program and 8 consecutive runs (scans of the same steps).

Cost: three minutes. Result (one core of an AMD EPYC, jax 0.10.2):

| | µs per step | ratio |
|---|---|---|
| program.step / step by hand | 927.3 / 923.9 | 1.00 |
| program.step / step by hand, Linen | 927.3 / 921.6 | 1.01 |
| fit / loop of jitted steps | 51.5 / 218.1 | 0.24 |
| ensemble / one after the other | 191.2 / 424.2 | 0.45 |
"""

import dataclasses

import _timing
import numpy as np


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparisons."""

    layers: int = 48
    members: int = 8
    steps: int = 1120
    rounds: int = 9


TINY = {"layers": 2, "members": 2, "steps": 4, "rounds": 1}


def main(config: Config) -> dict[str, float]:
    """Time all forms and print a markdown table.

    Returns:
        Milliseconds per step by form.
    """
    found = _timing.smallest(deep_forms(config), config.rounds)
    found |= _timing.smallest(shallow_forms(config), config.rounds)
    print_table(found, agreement(config))
    return found


def deep_forms(config: Config) -> dict:
    """Return one jitted step of a deep, narrow net: ours, handwritten, and with native Linen."""
    import jax
    import jax.numpy as jnp
    import optax

    from funcdl import losses, nn, train

    net = nn.models.MLP((8,) * config.layers)
    batch = jnp.ones((4, 8)), jnp.zeros((4, 8))
    adam = optax.adam(1e-3)
    program = train.program(train.supervised(nn.from_linen(net), losses.squared_error), adam)
    run = program.init(jax.random.key(0), batch)

    def by_hand(apply):
        def step(params, opt_state, batch):
            def loss(params):
                return ((apply(params, batch[0]) - batch[1]) ** 2).mean()

            value, grads = jax.value_and_grad(loss)(params)
            updates, opt_state = adam.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, value

        return jax.jit(step, donate_argnums=(0, 1))

    def layers(params, x):
        for i in range(config.layers):
            layer = params[f"Dense_{i}"]
            x = x @ layer["kernel"] + layer["bias"]
            x = jax.nn.relu(x) if i < config.layers - 1 else x
        return x

    def native(params, x):
        return net.apply({"params": params}, x)

    step = jax.jit(program.step, donate_argnums=0)
    hand, linen = by_hand(layers), by_hand(native)
    held = {"ours": run, "hand": (run.params, run.opt_state), "linen": (run.params, run.opt_state)}
    held = jax.tree.map(jnp.copy, held)

    def ours():
        for _ in range(20):
            held["ours"], metrics = step(held["ours"], batch)
        metrics["loss"].block_until_ready()

    def plain(name, step):
        def call():
            for _ in range(20):
                *held[name], value = step(*held[name], batch)
            value.block_until_ready()

        return call

    return {
        "program.step": (ours, 20),
        "step by hand": (plain("hand", hand), 20),
        "step by hand, Linen": (plain("linen", linen), 20),
    }


def small():
    """Return the program, the batches and the number of steps of the small MLP."""
    import jax
    import optax

    from funcdl import data, losses, nn, train

    rng = np.random.default_rng(0)
    x = rng.normal(size=(1792, 64)).astype(np.float32)
    labels = rng.integers(0, 10, 1792).astype(np.int32)
    batches = data.Batches((x, labels), 32, key=jax.random.key(1))
    model = nn.from_linen(nn.models.MLP((32, 32, 10)))
    program = train.program(train.supervised(model, losses.softmax_cross_entropy), optax.adam(1e-3))
    return program, batches


def shallow_forms(config: Config) -> dict:
    """Return short trainings of a small MLP: fit, a loop of steps, an ensemble, and single runs."""
    import jax

    from funcdl import train

    program, batches = small()
    keys = jax.random.split(jax.random.key(0), config.members)
    runs = [program.init(key, batches.form) for key in keys]
    step = jax.jit(program.step, donate_argnums=0)
    at = jax.jit(type(batches).at)
    many = train.ensemble(program, config.members)
    everyone = many.init(jax.random.key(0), batches.form)

    def loop():
        run = train.snapshot(runs[0])
        for i in range(config.steps):
            run, metrics = step(run, at(batches, i))
        metrics["loss"].block_until_ready()

    def fit(program, run):
        return train.fit(program, run, batches, steps=config.steps, chunk=224)

    return {
        "fit": (lambda: fit(program, runs[0]), config.steps),
        "loop of jitted steps": (loop, config.steps),
        "ensemble": (lambda: fit(many, everyone), config.steps),
        "one after the other": (lambda: [fit(program, run) for run in runs], config.steps),
    }


def agreement(config: Config) -> float:
    """Return the largest relative difference of losses between an ensemble and single runs."""
    import jax

    from funcdl import train

    program, batches = small()
    many = train.ensemble(program, config.members)
    key = jax.random.key(0)
    _, together = train.fit(many, many.init(key, batches.form), batches, steps=config.steps)
    worst = 0.0
    for i, own in enumerate(jax.random.split(key, config.members)):
        _, alone = train.fit(program, program.init(own, batches.form), batches, steps=config.steps)
        ratio = together.metrics["loss"][:, i] / alone.metrics["loss"] - 1
        worst = max(worst, float(np.abs(ratio).max()))
    return worst


def print_table(found: dict[str, float], difference: float) -> None:
    """Print each comparison with its ratio."""
    print("| | µs per step | ratio |\n|---|---|---|")
    for name, base in [
        ("program.step", "step by hand"),
        ("program.step", "step by hand, Linen"),
        ("fit", "loop of jitted steps"),
        ("ensemble", "one after the other"),
    ]:
        pair = f"{1e3 * found[name]:.1f} / {1e3 * found[base]:.1f}"
        print(f"| {name} / {base} | {pair} | {found[name] / found[base]:.2f} |")
    print(f"\nLosses of ensemble and single runs differ by at most {difference:.1e}, relatively.")


if __name__ == "__main__":
    import tyro

    settings = tyro.cli(Config)
    _timing.one_thread()
    main(settings)
