"""Time many runs as one program, and measure the memory that transforms save.

    taskset -c 0 python experiments/benchmarks/sweeps.py

All times are the smallest CPU times of interleaved rounds, on one thread:

1. a sweep of 16 learning rates, MLP 64-32-32-10, batch 32: as one program, as 16 consecutive scans,
   and as 16 Python loops of a jitted, donated step;
2. an ensemble of 16 MLPs 784-256-128-10, batch 128 (the shapes of MNIST): the time per member,
   compared with one net alone;
3. the temporary memory of a step, for 24 layers of width 64 in a scan and 4096 examples, from XLA's
   analysis.

Cost: two minutes. Result (one core of an AMD EPYC, jax 0.10.2):

| | µs per step of a lane | ratio |
|---|---|---|
| one program | 21.8 | 1.00 |
| a scan for each | 34.1 | 1.57 |
| a Python loop for each | 224.2 | 10.30 |
| a member alone | 2360.7 | 1.00 |
| a member of 16 | 3187.3 | 1.35 |

| step of | temporary memory, MB | ratio |
|---|---|---|
| float32 | 154.2 | 1.00 |
| mixed_precision | 164.9 | 1.07 |
| rematerialized | 28.4 | 0.18 |
| both | 38.6 | 0.25 |
| accumulated(8) | 19.7 | 0.13 |
"""

import dataclasses

import _timing
import numpy as np


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparisons."""

    lanes: int = 16
    steps: int = 56
    member_steps: int = 20
    layers: int = 24
    examples: int = 4096
    rounds: int = 7


TINY = {"lanes": 2, "steps": 2, "member_steps": 1, "layers": 2, "examples": 16, "rounds": 1}


def main(config: Config) -> dict[str, float]:
    """Measure all and print markdown tables.

    Returns:
        Milliseconds per step of a lane by form, and megabytes by transform.
    """
    times = _timing.smallest(sweep_forms(config), config.rounds)
    times |= _timing.smallest(ensemble_forms(config), config.rounds)
    bytes_ = memory(config)
    one = times["one program"]
    print("\n| | µs per step of a lane | ratio |\n|---|---|---|")
    for name, ms in times.items():
        against = times["a member alone"] if "member" in name else one
        print(f"| {name} | {1e3 * ms:.1f} | {ms / against:.2f} |")
    print("\n| step of | temporary memory, MB | ratio |\n|---|---|---|")
    for name, size in bytes_.items():
        print(f"| {name} | {size:.1f} | {size / bytes_['float32']:.2f} |")
    return times | bytes_


def net(widths: tuple[int, ...], inputs: int, rows: int, size: int):
    """Return a supervised objective of an MLP and batches of random data."""
    import jax

    from funcdl import data, losses, nn, train

    rng = np.random.default_rng(0)
    arrays = (
        rng.normal(size=(rows, inputs)).astype(np.float32),
        rng.integers(0, 10, rows).astype(np.int32),
    )
    objective = train.supervised(nn.from_linen(nn.models.MLP(widths)), losses.softmax_cross_entropy)
    return objective, data.Batches(arrays, size, key=jax.random.key(1))


def sweep_forms(config: Config) -> dict:
    """Return the same 16 runs as one program, as scans, and as Python loops."""
    import jax
    import optax

    from funcdl import train

    objective, batches = net((32, 32, 10), 64, 1792, 32)
    program = train.program(objective, lambda hyper: optax.adam(hyper["rate"]))
    rates = np.geomspace(1e-4, 1e-1, config.lanes).astype(np.float32)
    many = train.sweep(program, rate=rates)
    key, steps = jax.random.key(0), config.steps
    runs = many.init(key, batches.form)
    alone = [train.lane(runs, i) for i in range(config.lanes)]
    scan = lambda p: jax.jit(lambda run, data: train.unroll(p, run, data, steps=steps))
    together, one = scan(many), scan(program)
    step = jax.jit(lambda run, data: program.step(run, data.at(run.step)), donate_argnums=0)

    def loops():
        for run in alone:
            run = train.snapshot(run)
            for _ in range(steps):
                run, _ = step(run, batches)
        jax.block_until_ready(run)

    count = config.lanes * steps
    return {
        "one program": (lambda: jax.block_until_ready(together(runs, batches)), count),
        "a scan for each": (
            lambda: jax.block_until_ready([one(run, batches) for run in alone]),
            count,
        ),
        "a Python loop for each": (loops, count),
    }


def ensemble_forms(config: Config) -> dict:
    """Return an ensemble, timed per member, and one net alone."""
    import jax
    import optax

    from funcdl import train

    objective, batches = net((256, 128, 10), 784, 4096, 128)
    program = train.program(objective, optax.adam(1e-3))
    many, steps = train.ensemble(program, config.lanes), config.member_steps
    scan = lambda p: jax.jit(lambda run, data: train.unroll(p, run, data, steps=steps))
    forms = {}
    for name, p, lanes in (
        ("a member alone", program, 1),
        (f"a member of {config.lanes}", many, config.lanes),
    ):
        run, call = p.init(jax.random.key(0), batches.form), scan(p)
        forms[name] = (
            lambda call=call, run=run: jax.block_until_ready(call(run, batches)),
            steps * lanes,
        )
    return forms


def memory(config: Config) -> dict[str, float]:
    """Return the megabytes that a step needs in addition to its arguments and results."""
    import jax
    import jax.numpy as jnp
    import optax

    from funcdl import losses, train

    def loss(params, batch):
        layer = lambda x, w: (jax.nn.gelu(x @ w), None)
        z, _ = jax.lax.scan(layer, batch[0], params["layers"])
        return losses.softmax_cross_entropy(z @ params["head"], batch[1])

    def init(key, _batch):
        layers = jax.random.normal(key, (config.layers, 64, 64)) / 8
        return {"layers": layers, "head": jnp.zeros((64, 10))}

    plain = train.objective(init, loss)
    batch = jnp.ones((config.examples, 64)), jnp.zeros(config.examples, int)
    forms = {
        "float32": (plain, train.gradient),
        "mixed_precision": (train.mixed_precision(plain), train.gradient),
        "rematerialized": (train.rematerialized(plain, segments=1), train.gradient),
        "both": (
            train.rematerialized(train.mixed_precision(plain), segments=1),
            train.gradient,
        ),
        "accumulated(8)": (plain, train.accumulated(8)),
    }
    found = {}
    for name, (objective, gradient) in forms.items():
        program = train.program(objective, optax.sgd(0.1), gradient)
        run = program.init(jax.random.key(0), batch)
        compiled = jax.jit(program.step).lower(run, batch).compile()
        found[name] = compiled.memory_analysis().temp_size_in_bytes / 1e6
    return found


if __name__ == "__main__":
    _timing.one_thread()
    import tyro

    main(tyro.cli(Config, description=__doc__))
