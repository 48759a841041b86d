"""Time the training of coupling flows in funcdl, flowjax and distrax, with equal parameters.

    taskset -c 0 python experiments/benchmarks/flows.py    # with flowjax and distrax if installed

The flows have eight coupling layers, each with a multilayer perceptron with two hidden layers of
64, which are affine or splines of eight pieces; they are trained by Adam on batches of 256 of
standardized data. A step is called from Python ("loop"), or a hundred steps are one ``scan``.
"ours" is a plain function without a log-determinant, and "by hand" is the same function with a
handwritten one. All forms are timed in interleaved rounds on one thread, in CPU time of the
process, and the smallest time counts.

Cost: ten minutes, mostly compilation. Result (one core of an AMD EPYC, jax 0.10.2):

| d = 2 | parameters | loop, steps/s | scan, steps/s | compile, s |
|---|---|---|---|---|
| ours, affine | 35344 | 496 | 638 | 5.1 |
| ours, spline | 46264 | 292 | 365 | 8.6 |
| by hand, affine | 35344 | 504 | 599 | 3.7 |
| flowjax, affine | 35348 | 388 | 522 | 5.0 |
| flowjax, spline | 48868 | 177 | 314 | 11.5 |
| distrax, affine | 35344 | 474 | 496 | 9.4 |
| distrax, spline | 46264 | 177 | 256 | 20.3 |

| d = 8 | parameters | loop, steps/s | scan, steps/s | compile, s |
|---|---|---|---|---|
| ours, affine | 40000 | 424 | 566 | 5.0 |
| ours, spline | 83680 | 99 | 104 | 11.9 |
| by hand, affine | 40000 | 381 | 539 | 4.7 |
| flowjax, affine | 40016 | 350 | 521 | 6.4 |
| flowjax, spline | 94096 | 103 | 112 | 12.0 |
| distrax, affine | 40000 | 355 | 529 | 10.3 |
| distrax, spline | 83680 | 81 | 85 | 18.9 |
"""

import dataclasses
import functools
import sys
import time
from pathlib import Path

import _flow_peers as peers
import _timing
import numpy as np
from _flow_peers import BINS, BOUND, LAYERS, WIDTH, Form


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    dimensions: tuple[int, ...] = (2, 8)
    batch: int = 256
    steps: int = 100
    """Steps of a scan, and of a loop."""
    rounds: int = 5
    only: str = ""
    """Part of the names of the forms to time; others are skipped."""


TINY = {"dimensions": (2,), "batch": 4, "steps": 1, "rounds": 1, "only": "ours, affine"}


def main(config: Config) -> dict[str, dict[str, float]]:
    """Time every form and print a markdown table.

    Returns:
        For each dimension and form, the milliseconds per step.
    """
    import jax

    results = {}
    for d in config.dimensions:
        forms = {n: f for n, f in all_forms(jax.random.key(0), d).items() if config.only in n}
        timed, compiled = {}, {}
        for name, form in forms.items():
            for kind, trainer in (("loop", in_loop), ("scan", in_scan)):
                start = time.process_time()
                timed[f"{name}, {kind}"] = trainer(form, data(d), config), config.steps
                timed[f"{name}, {kind}"][0]()
                compiled[f"{name}, {kind}"] = time.process_time() - start
        found = _timing.smallest(timed, config.rounds)
        print(f"\n| d = {d} | parameters | loop, steps/s | scan, steps/s | compile, s |")
        print("|---|---|---|---|---|")
        for name, form in forms.items():
            size = sum(leaf.size for leaf in jax.tree.leaves(form.params))
            rates = [f"{1e3 / found[f'{name}, {kind}']:.0f}" for kind in ("loop", "scan")]
            took = f"{compiled[f'{name}, loop']:.1f}"
            print(f"| {name} | {size} | {' | '.join(rates)} | {took} |")
        results |= {f"{d}, {name}": ms for name, ms in found.items()}
    return results


def all_forms(key, d: int) -> dict[str, Form]:
    """Return every density with its initial parameters."""
    import jax

    from funcdl import flows

    net = flows.mlp(WIDTH, WIDTH)
    flows = {
        "affine": flows.real_nvp(LAYERS, net),
        "spline": flows.neural_spline(LAYERS, net, bins=BINS, bound=BOUND),
    }
    point = jax.ShapeDtypeStruct((d,), "float32")
    params = {name: flow.init(key, point) for name, flow in flows.items()}
    forms = {
        f"ours, {name}": Form(params[name], functools.partial(ours, flow))
        for name, flow in flows.items()
    }
    forms["by hand, affine"] = Form(params["affine"], by_hand)
    if peers.installed("flowjax"):
        forms |= peers.flowjax_forms(key, d)
    if peers.installed("distrax"):
        forms |= peers.distrax_forms(params, d)
    return forms


def ours(flow, params, x):
    """Evaluate the density of a flow at each row, with the log-determinant that funcdl derives."""
    import jax

    from funcdl import density

    def log_prob(x):
        z, log_det = density.value_and_log_det(lambda x: flow.forward(params, x))(x)
        return peers.normal(z) + log_det

    return jax.vmap(log_prob)(x)


def by_hand(params, x):
    """Evaluate affine couplings and their log-determinant for a batch, in one scan."""
    import jax
    import jax.numpy as jnp

    def layer(carry, own):
        x, total = carry
        a, b = jnp.split(x, [x.shape[1] // 2], axis=1)
        h = a
        for weights in own[:-1]:
            h = jax.nn.relu(h @ weights["kernel"] + weights["bias"])
        raw = h @ own[-1]["kernel"] + own[-1]["bias"]
        s, t = jnp.split(raw, 2, axis=1)
        s = 3 * jnp.tanh(s / 3)
        return (jnp.concatenate([b * jnp.exp(s) + t, a], axis=1), total + s.sum(axis=1)), None

    (z, total), _ = jax.lax.scan(layer, (x, jnp.zeros(len(x))), params)
    return peers.normal(z) + total


def data(d: int):
    """Draw standardized points: two moons for d = 2, otherwise a rotated product of pairs."""
    sys.path.append(str(Path(__file__).parents[1]))
    import _moons

    x = np.concatenate([_moons.sample(seed, 20000) for seed in range(d // 2)], axis=1)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0] if d > 2 else np.eye(2)
    return (x @ turn).astype(np.float32)


def one_step(form: Form, batch: int):
    """Return ``step(state, x)`` and its initial state."""
    import jax
    import optax

    adam = optax.adam(1e-3)

    def step(state, x):
        params, opt_state, key = state
        key, draw = jax.random.split(key)
        rows = jax.random.randint(draw, (batch,), 0, len(x))
        loss = lambda params: -form.log_prob(params, x[rows]).mean()
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = adam.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, key), value

    params = jax.tree.map(jax.numpy.copy, form.params)
    return step, (params, adam.init(params), jax.random.key(0))


def in_loop(form: Form, x, config: Config):
    """Return a call of ``config.steps`` jitted steps."""
    import jax

    step, state = one_step(form, config.batch)
    step, held, x = jax.jit(step, donate_argnums=0), {"state": state}, jax.numpy.asarray(x)

    def call():
        for _ in range(config.steps):
            held["state"], value = step(held["state"], x)
        return value.block_until_ready()

    return call


def in_scan(form: Form, x, config: Config):
    """Return a call of one compiled scan over ``config.steps`` steps."""
    import jax

    step, state = one_step(form, config.batch)
    held, x = {"state": state}, jax.numpy.asarray(x)

    @functools.partial(jax.jit, donate_argnums=0)
    def steps(state, x):
        return jax.lax.scan(lambda state, _: step(state, x), state, length=config.steps)

    def call():
        held["state"], values = steps(held["state"], x)
        return values.block_until_ready()

    return call


if __name__ == "__main__":
    _timing.one_thread()
    import tyro

    main(tyro.cli(Config))
