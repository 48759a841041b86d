"""Time spectra, kernels and products of nets in funcdl and the libraries of torch, one thread.

    taskset -c 0 python experiments/benchmarks/spectra.py

Eigenpairs and spectral density are those of a tanh net 64-288-256-10 with 95 274 parameters on 512
digits, after 300 steps of Adam. Gradients, products and kernels are those of the CIFAR tutorial's
CNN with 62 006 parameters and batch size 256, before training. Both sides have the same weights and
batches. They are timed in interleaved rounds, in CPU time of the process, and the smallest time
counts. Peers that are not installed are skipped; PyHessian is patched where it calls functions that
torch has removed.

Cost: three minutes. Result (one core of an AMD EPYC, jax 0.10.2, torch 2.13.0, hessian-eigenthings
1.0.0a5, curvlinops 3.0.1, PyHessian 0.1, BackPACK 1.7.1):

| quantity | funcdl, ms | compile, s | best peer, ms | ratio |
|---|---|---|---|---|
| top eigenpairs (33 products) | 317.5 | 5.5 | 299.0 | 1.06 |
| density | 2192.8 | 4.8 | 3483.3 | 0.63 |
| CNN: gradient | 37.8 | 3.8 | 35.9 | 1.05 |
| CNN: Hessian times vector | 62.6 | 3.6 | 51.9 | 1.21 |
| CNN: Σg² | 48.3 | 3.7 | 76.6 | 0.63 |
| CNN: NTK of 64 | 183.0 | 2.9 | 827.5 | 0.22 |
"""

import dataclasses
import time
from collections.abc import Callable

import _tanh_net
import _timing
import _torch
import numpy as np


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    hidden: tuple[int, int] = (288, 256)
    examples: int = 512
    train_steps: int = 300
    eigenvalues: int = 10
    probes: int = 10
    lanczos_steps: int = 30
    images: int = 256
    kernel: int = 64
    """Number of examples of the neural tangent kernel."""
    rounds: int = 5


TINY = {
    "hidden": (2, 2),
    "examples": 16,
    "train_steps": 2,
    "eigenvalues": 2,
    "probes": 2,
    "lanczos_steps": 2,
    "images": 4,
    "kernel": 2,
    "rounds": 1,
}


def main(config: Config) -> list[dict]:
    """Time every quantity and print a markdown table.

    Returns:
        Rows with the quantity, the milliseconds of funcdl and of each peer, and the compilation
        seconds.
    """
    batch = _tanh_net.digits(config.examples)
    params = _tanh_net.trained(_tanh_net.start(config.hidden), batch, config.train_steps)
    rows = [
        *compared("top eigenpairs", eigenpairs(config, params, batch), config),
        *compared("density", densities(config, params, batch), config),
    ]
    for quantity, forms in convolutional(config).items():
        rows += compared(quantity, forms, config)
    print("| quantity | funcdl, ms | compile, s | best peer, ms | ratio | of the peers |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(line(row))
    return rows


def compared(quantity: str, forms: dict[str, Callable], config: Config) -> list[dict]:
    """Time one quantity in all libraries; a form can return a remark in addition to its result."""
    start = time.process_time()
    said = {}
    for name, f in forms.items():
        said[name] = f()
        if name == "funcdl":
            compiles = time.process_time() - start
    calls = {name: (f, 1) for name, f in forms.items()}
    times = _timing.smallest(calls, config.rounds)
    return [{"quantity": quantity, "times": times, "compiles": compiles, "said": said}]


def line(row: dict) -> str:
    """Format a row, in which the best peer is the fastest one with a valid result."""
    ours, said = row["times"]["funcdl"], row["said"]
    sound = {k: t for k, t in row["times"].items() if k != "funcdl" and said[k] != "not converged"}
    every = ", ".join(
        f"{name} {t:.0f}{' (' + said[name] + ')' if said[name] else ''}"
        for name, t in row["times"].items()
        if name != "funcdl"
    )
    best = f"{min(sound.values()):.1f} | {ours / min(sound.values()):.2f}" if sound else " | "
    note = f" ({said['funcdl']})" if said["funcdl"] else ""
    return f"| {row['quantity']}{note} | {ours:.1f} | {row['compiles']:.1f} | {best} | {every} |"


def eigenpairs(config: Config, params, batch) -> dict[str, Callable]:
    """Return computations of the largest eigenpairs to 1e-3, which report their convergence."""
    import jax

    from funcdl import curvature, operators

    k, tol = config.eigenvalues, 1e-3
    find = jax.jit(
        lambda p, b, key: operators.eigsh(
            curvature.hessian(_tanh_net.loss, p, b), k, key=key, tol=tol
        )
    )
    key = jax.random.key(7)

    def ours():
        pairs = jax.block_until_ready(find(params, batch, key))
        return f"{int(pairs.matvecs)} products" if pairs.converged.all() else "not converged"

    forms = {"funcdl": ours}
    return forms | _torch.eigenpairs(params, batch, k, tol)


def densities(config: Config, params, batch) -> dict[str, Callable]:
    """Return estimates of the spectral density."""
    import jax

    from funcdl import curvature, operators

    options = {"probes": config.probes, "steps": config.lanczos_steps}
    find = jax.jit(
        lambda p, b, key: operators.spectral_density(
            curvature.hessian(_tanh_net.loss, p, b), key=key, **options
        )
    )
    key = jax.random.key(7)

    def ours():
        jax.block_until_ready(find(params, batch, key))
        return ""

    forms = {"funcdl": ours}
    return forms | _torch.densities(params, batch, config.probes, config.lanczos_steps)


def convolutional(config: Config) -> dict[str, dict[str, Callable]]:
    """Return gradient, Hessian product, Σg² and kernel of the CNN in all libraries."""
    import jax
    import jax.numpy as jnp

    from funcdl import autodiff, curvature, losses, per_example
    from funcdl.nn.models import LeNet

    net, rng = LeNet(), np.random.default_rng(0)
    x = rng.normal(size=(config.images, 32, 32, 3)).astype(np.float32)
    y = rng.integers(0, 10, config.images)
    batch = jnp.asarray(x), jnp.asarray(y)
    params = net.init(jax.random.key(0), batch[0])
    few = jax.tree.map(lambda a: a[: config.kernel], batch)
    f = lambda params, batch: net.apply(params, batch[0])
    cost = lambda params, batch: losses.softmax_cross_entropy(f(params, batch), batch[1])
    ours = {
        "gradient": (jax.jit(jax.grad(cost)), batch),
        "Hessian times vector": (jax.jit(lambda p, b: autodiff.hvp(cost)(p, p, b)), batch),
        "Σg²": (jax.jit(per_example.grad_second_moment(cost)), batch),
        f"NTK of {config.kernel}": (jax.jit(lambda p, b: curvature.ntk(f, p, b).dense()), few),
    }

    def call(g, batch):
        jax.block_until_ready(g(params, batch))
        return ""

    rows = {
        f"CNN: {name}": {"funcdl": lambda g=g, b=b: call(g, b)} for name, (g, b) in ours.items()
    }
    for name, peers in _torch.convolutional(x, y, config.kernel).items():
        rows[f"CNN: {name}"] |= peers
    return rows


if __name__ == "__main__":
    import tyro

    settings = tyro.cli(Config)
    _timing.one_thread()
    main(settings)
