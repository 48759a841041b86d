"""Time a training step of the CIFAR tutorial's CNN in funcdl, flax.linen and torch, one thread.

    taskset -c 0 python experiments/benchmarks/convolution.py

A step is the gradient and an SGD update with momentum, in float32. ``scan`` runs several steps in
one jitted scan, as ``train.fit`` does; ``step`` is a single jitted call. All forms are timed in
interleaved rounds, in CPU time of the process, and the smallest time counts.

Cost: two minutes. Result (one core of an AMD EPYC, jax 0.10.2, torch 2.13; ms, ratio to torch):

| form | batch 4 | batch 64 | batch 256 |
|---|---|---|---|
| funcdl, scan | 0.65 (0.36) | 9.43 (0.91) | 39.81 (1.05) |
| funcdl, step | 1.41 (0.77) | 9.45 (0.91) | 37.02 (0.98) |
| flax.linen, scan | 3.48 (1.90) | 117.84 (11.32) | 532.11 (14.02) |
| flax.linen, step | 1.92 (1.05) | 24.57 (2.36) | 183.43 (4.83) |
| torch | 1.83 (1.00) | 10.41 (1.00) | 37.94 (1.00) |
"""

import dataclasses
from collections.abc import Callable

import _timing
import numpy as np


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    batches: tuple[int, ...] = (4, 64, 256)
    rounds: int = 12
    examples: int = 512
    """Number of examples that a form processes in one timing; at least two steps are taken."""


TINY = {"batches": (2,), "rounds": 1, "examples": 4}


def main(config: Config) -> list[dict[str, float]]:
    """Time every form at every batch size and print a markdown table.

    Returns:
        For each batch size, the milliseconds per step by form.
    """
    rows = []
    for size in config.batches:
        steps = max(2, config.examples // size)
        ours, plain = jax_forms(funcdl_net(), size, steps), jax_forms(linen_net(), size, steps)
        forms = {f"funcdl, {name}": form for name, form in ours.items()}
        forms |= {f"flax.linen, {name}": form for name, form in plain.items()}
        rows.append(_timing.smallest(forms | torch_form(size, steps), config.rounds))
    print_table(config.batches, rows)
    return rows


def funcdl_net():
    """Return the network with our convolution and pooling."""
    from funcdl.nn.models import LeNet

    return LeNet()


def linen_net():
    """Return the same network with ``lax.conv`` and ``reduce_window``."""
    from flax import linen

    pool = linen.max_pool

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            for features in (6, 16):
                x = linen.relu(linen.Conv(features, (5, 5), padding="VALID")(x))
                x = pool(x, (2, 2), strides=(2, 2))
            x = x.reshape(x.shape[0], -1)
            for width in (120, 84):
                x = linen.relu(linen.Dense(width)(x))
            return linen.Dense(10)(x)

    return Net()


def jax_forms(net, size: int, steps: int) -> dict[str, tuple[Callable, int]]:
    """Compile a training step in a scan and on its own; return each with its number of steps."""
    import jax
    import optax

    from funcdl.losses import softmax_cross_entropy

    rng = np.random.default_rng(0)
    images = jax.device_put(rng.normal(size=(steps, size, 32, 32, 3)).astype(np.float32))
    labels = jax.device_put(rng.integers(0, 10, (steps, size), dtype=np.int32))
    params = net.init(jax.random.key(0), images[0])
    optimizer = optax.sgd(1e-3, momentum=0.9)

    def loss(params, x, y):
        return softmax_cross_entropy(net.apply(params, x), y)

    def step(carry, batch):
        params, momentum = carry
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        update, momentum = optimizer.update(gradient, momentum)
        return (optax.apply_updates(params, update), momentum), value

    carry, first = (params, optimizer.init(params)), (images[0], labels[0])
    scan, single = jax.jit(lambda *args: jax.lax.scan(step, *args)), jax.jit(step)
    return {
        "scan": (lambda: jax.block_until_ready(scan(carry, (images, labels))), steps),
        "step": (lambda: jax.block_until_ready(single(carry, first)), 1),
    }


def torch_form(size: int, steps: int) -> dict[str, tuple[Callable, int]]:
    """Return the loop of the tutorial, or nothing if torch is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return {}
    torch.set_num_threads(1)
    nn = torch.nn
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU()),
        *(nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    images, labels = torch.randn(steps, size, 3, 32, 32), torch.randint(10, (steps, size))

    def run():
        for x, y in zip(images, labels):
            optimizer.zero_grad()
            criterion(net(x), y).backward()
            optimizer.step()

    return {"torch": (run, steps)}


def print_table(batches: tuple[int, ...], rows: list[dict[str, float]]) -> None:
    """Print forms in rows and batch sizes in columns, each time with its ratio to torch."""
    print("| form | " + " | ".join(f"batch {size}" for size in batches) + " |")
    print("|---|" + "---|" * len(batches))
    for name in rows[0]:
        cells = (
            f"{row[name]:.2f}" + (f" ({row[name] / row['torch']:.2f})" if "torch" in row else "")
            for row in rows
        )
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    import tyro

    settings = tyro.cli(Config)
    _timing.one_thread()
    main(settings)
