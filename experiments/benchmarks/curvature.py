"""Time curvature of a loss in units of its gradient, in funcdl and plain JAX, one thread.

    taskset -c 0 python experiments/benchmarks/curvature.py

The loss is the cross-entropy of a tanh net 64-288-256-10 with 95 274 parameters on 512 digits. All
forms are compiled and timed in interleaved rounds, in CPU time of the process, and the smallest
time counts. Plain JAX is ``vmap`` of ``grad``, and for the kernel ``jacrev`` and a product; it is
timed only three times. The compilation times include tracing.

Cost: two minutes. Result (one core of an AMD EPYC, jax 0.10.2):

| quantity | ms | gradients | compile, s | plain jax, ms | difference |
|---|---|---|---|---|---|
| gradient | 4.46 | 1.00 | 0.9 |  | |
| Hessian times vector | 7.59 | 1.70 | 1.0 |  | |
| Gauss-Newton times vector | 5.41 | 1.21 | 1.3 |  | |
| per-example norms | 3.01 | 0.68 | 1.0 | 133 | 1e-07 |
| second moment, Σg² | 4.43 | 0.99 | 1.3 | 614 | 5e-07 |
| Gauss-Newton diagonal | 25.50 | 5.72 | 3.9 |  | |
| K-FAC factors, empirical Fisher | 6.39 | 1.63 | 0.7 |  | |
| K-FAC factors, Gauss-Newton | 38.35 | 9.77 | 1.8 |  | |
| NTK of 64 examples | 8.63 | 1.94 | 0.7 | 1900 | 4e-07 |
"""

import dataclasses
import itertools
import time
from collections.abc import Callable

import _timing
import numpy as np


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    hidden: tuple[int, int] = (288, 256)
    examples: int = 512
    kernel: int = 64
    """Number of examples of the neural tangent kernel."""
    rounds: int = 40


TINY = {"hidden": (2, 2), "examples": 4, "kernel": 2, "rounds": 1}


def main(config: Config) -> list[dict]:
    """Time every quantity and print a markdown table.

    Returns:
        For each quantity its name, the milliseconds of funcdl and of plain JAX, the compilation
        seconds, and the difference of the two results.
    """
    import jax

    forms = {name: jax.jit(f) for name, f in quantities(config).items()}
    plain = {name: jax.jit(f) for name, f in in_plain_jax(config).items()}
    args = params, batch = setting(config)
    few = jax.tree.map(lambda x: x[: config.kernel], batch)
    args_of = lambda name: (params, few) if name.startswith("NTK") else args
    rows, calls = [], {}
    for name, f in forms.items():
        start = time.process_time()
        value = jax.block_until_ready(f(*args_of(name)))
        rows.append({"quantity": name, "compiles": time.process_time() - start})
        calls[name] = (lambda f=f, name=name: jax.block_until_ready(f(*args_of(name))), 1)
        if name in plain:
            rows[-1]["difference"] = difference(value, plain[name](*args_of(name)))
            once = lambda name=name: jax.block_until_ready(plain[name](*args_of(name)))
            rows[-1]["plain jax"] = _timing.smallest({name: (once, 1)}, min(config.rounds, 3))[name]
    times = _timing.smallest(calls, config.rounds)
    print("| quantity | ms | gradients | compile, s | plain jax, ms | difference |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        row["ms"] = times[row["quantity"]]
        row["gradients"] = row["ms"] / times["gradient"]
        other = f"{row['plain jax']:.0f} | {row['difference']:.0e}" if "plain jax" in row else " |"
        print(
            f"| {row['quantity']} | {row['ms']:.2f} | {row['gradients']:.2f} "
            f"| {row['compiles']:.1f} | {other} |"
        )
    return rows


def quantities(config: Config) -> dict[str, Callable]:
    """Return the computations in funcdl, as functions of params and batch."""
    import jax

    from funcdl import autodiff, curvature, per_example

    def hvp(params, batch):
        return autodiff.hvp(loss)(params, params, batch)

    return {
        "gradient": jax.grad(loss),
        "Hessian times vector": hvp,
        "Gauss-Newton times vector": lambda p, b: curvature.ggn(model, head, p, b) @ p,
        "per-example norms": per_example.grad_norm(loss),
        "second moment, Σg²": per_example.grad_second_moment(loss),
        "Gauss-Newton diagonal": per_example.ggn_diagonal(model, head),
        "K-FAC factors, empirical Fisher": per_example.fisher_factors(loss),
        "K-FAC factors, Gauss-Newton": per_example.ggn_factors(model, head),
        f"NTK of {config.kernel} examples": lambda p, b: curvature.ntk(model, p, b).dense(),
    }


def in_plain_jax(config: Config) -> dict[str, Callable]:
    """Return the same computations with JAX's own transforms."""
    import jax
    import jax.numpy as jnp

    def each(params, batch):
        one = lambda example: jax.grad(loss)(params, jax.tree.map(lambda x: x[None], example))
        return jax.vmap(one)(batch)

    def norms(params, batch):
        squares = [
            (g**2).reshape(len(g), -1).sum(axis=1) for g in jax.tree.leaves(each(params, batch))
        ]
        return jnp.sqrt(sum(squares))

    def kernel(params, batch):
        rows = jax.tree.leaves(jax.jacrev(model)(params, batch))
        size = len(batch[0]) * 10
        return sum(jnp.matmul(j.reshape(size, -1), j.reshape(size, -1).T) for j in rows)

    return {
        "per-example norms": norms,
        "second moment, Σg²": lambda p, b: jax.tree.map(lambda g: (g**2).mean(0), each(p, b)),
        f"NTK of {config.kernel} examples": kernel,
    }


def difference(x, y) -> float:
    """Compare two trees, relative to the largest entry."""
    from jax.flatten_util import ravel_pytree

    x, y = (np.asarray(ravel_pytree(tree)[0]) for tree in (x, y))
    return float(np.abs(x - y).max() / np.abs(y).max())


def model(params, batch):
    """Return the logits of a batch."""
    import jax.numpy as jnp

    x = batch[0]
    for w, b in params[:-1]:
        x = jnp.tanh(x @ w + b)
    return x @ params[-1][0] + params[-1][1]


def head(logits, batch):
    """Return the mean cross-entropy."""
    from funcdl import losses

    return losses.softmax_cross_entropy(logits, batch[1])


def loss(params, batch):
    """Return the loss as a function of the parameters."""
    return head(model(params, batch), batch)


def setting(config: Config) -> tuple:
    """Return parameters and a batch of digits."""
    import jax.numpy as jnp

    from funcdl import data

    (images, labels), _ = data.digits()
    x = np.asarray(images).reshape(len(images), -1)[: config.examples]
    draw = np.random.default_rng(0).normal
    params = [
        (jnp.asarray(draw(size=(m, n)) / m**0.5, jnp.float32), jnp.zeros((1, n)))
        for m, n in itertools.pairwise((64, *config.hidden, 10))
    ]
    return params, (jnp.asarray(x, jnp.float32), jnp.asarray(labels[: config.examples]))


if __name__ == "__main__":
    import tyro

    settings = tyro.cli(Config)
    _timing.one_thread()
    main(settings)
