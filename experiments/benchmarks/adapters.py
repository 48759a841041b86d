"""Time a training step of one net in four frameworks, each through its adapter.

    taskset -c 0 python experiments/benchmarks/adapters.py

The baseline is a handwritten step with Linen's own ``apply``; the second row is the same in
``train.program``. The others are ``train.program`` with the same layers from ``from_linen``,
``from_nnx``, ``from_equinox`` and ``from_haiku``. All steps are jitted and donated, use Adam, and
are timed in interleaved rounds on one thread. A step of 48 layers of width 8 is dominated by
dispatch, and a step of 4 layers of width 256 by arithmetic.

Cost: two minutes on a quiet core. Operations of a compiled step of the deep net, as counted by XLA
(jax 0.10.2): 127 334 in ``train.program`` for all but from_equinox, which has 127 526. The times
have not been measured on a quiet core yet. On a core shared with other jobs, six runs of 30 to 200
rounds gave these ratios: for the deep net, 1.04 to 1.08 for the second row, which has no adapter,
and 0.87 to 1.39 for the adapters without a consistent order; for the other net, 0.98 to 1.10.
"""

import dataclasses

import _timing


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    deep: tuple[int, int, int] = (48, 8, 4)
    """Layers, width and batch size of the deep net."""
    middle: tuple[int, int, int] = (4, 256, 64)
    rounds: int = 60


BASELINE = "Linen's apply, by hand"
TINY = {"deep": (2, 2, 2), "middle": (2, 2, 2), "rounds": 1}


def main(config: Config) -> dict[str, dict[str, float]]:
    """Time all forms and print a markdown table.

    Returns:
        Milliseconds per step by framework, for both nets.
    """
    found, operations = {}, {}
    for name, net in {"deep": config.deep, "middle": config.middle}.items():
        calls, operations[name] = forms(*net)
        found[name] = _timing.smallest(calls, config.rounds)
    titles = [
        "{} layers of width {}, batch {}".format(*net) for net in (config.deep, config.middle)
    ]
    print(f"| µs per step, ratio to the first, FLOPs | {' | '.join(titles)} |\n|---|---|---|")
    for form in found["deep"]:
        times = [(found[net][form], found[net][BASELINE], operations[net][form]) for net in found]
        cells = [f"{1e3 * t:.0f} ({t / b:.2f}), {count:.0f}" for t, b, count in times]
        print(f"| {form} | {' | '.join(cells)} |")
    return found


def models(layers: int, width: int) -> dict:
    """Return the same multi-layer perceptron from every framework."""
    import equinox as eqx
    import haiku as hk
    import jax
    from flax import nnx

    from funcdl import nn

    class MLP(nnx.Module):
        """Dense layers with ReLU between them."""

        def __init__(self, rngs: nnx.Rngs):
            dense = [nnx.Linear(width, width, rngs=rngs) for _ in range(layers)]
            self.layers = nnx.List(dense)

        def __call__(self, x):
            for layer in self.layers[:-1]:
                x = jax.nn.relu(layer(x))
            return self.layers[-1](x)

    return {
        "from_linen": nn.from_linen(nn.models.MLP((width,) * layers)),
        "from_nnx": nn.from_nnx(MLP),
        "from_equinox": nn.from_equinox(
            lambda key: eqx.nn.MLP(width, width, width, layers - 1, key=key)
        ),
        "from_haiku": nn.from_haiku(lambda x: hk.nets.MLP((width,) * layers)(x)),
    }


def forms(layers: int, width: int, batch_size: int, steps: int = 20) -> tuple[dict, dict]:
    """Return a call of several steps for every framework, and the operations of one step."""
    import jax
    import jax.numpy as jnp
    import optax

    from funcdl import losses, nn, train

    batch = jnp.ones((batch_size, width)), jnp.zeros((batch_size, width))
    adam = optax.adam(1e-3)

    calls, operations = {}, {}

    def add(name, step, carry):
        step = jax.jit(step, donate_argnums=0)
        compiled = step.lower(carry, batch).compile()
        operations[name] = (compiled.cost_analysis() or {}).get("flops", float("nan"))
        held = {"carry": jax.tree.map(jnp.copy, carry)}

        def run():
            for _ in range(steps):
                held["carry"], metrics = step(held["carry"], batch)
            jax.block_until_ready(metrics)

        calls[name] = run, steps

    net = nn.models.MLP((width,) * layers)

    def apply(params, state, x, key=None):
        del key
        return net.apply({"params": params}, x), state

    def native(carry, batch):
        def loss(params):
            return ((apply(params, {}, batch[0])[0] - batch[1]) ** 2).mean()

        params, opt_state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = adam.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), {"loss": value}

    for name, model in models(layers, width).items():
        program = train.program(train.supervised(model, losses.squared_error), adam)
        run = program.init(jax.random.key(0), batch)
        if name == "from_linen":
            add(BASELINE, native, (run.params, run.opt_state))
            plain = train.supervised(nn.Model(model.init, apply), losses.squared_error)
            add("Linen's apply in train.program", train.program(plain, adam).step, run)
        add(name, program.step, run)
    return calls, operations


if __name__ == "__main__":
    import tyro

    settings = tyro.cli(Config)
    _timing.one_thread()
    main(settings)
