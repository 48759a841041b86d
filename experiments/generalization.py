"""Fit true, random and shuffled labels with one net, and measure how the minima differ.

    python experiments/generalization.py                            # digits, shipped with funcdl
    python experiments/generalization.py --data mnist --path DIR    # MNIST, from its IDX files

Deep nets fit meaningless labels as well as true ones, with and without weight decay (Zhang et al.,
"Understanding deep learning requires rethinking generalization", ICLR 2017). Each of the six runs
trains several nets at once with ``ensemble``; all runs share one compiled program. For each net the
report shows the training and test errors. For its Hessian and Gauss-Newton matrix on the training
examples, it shows the largest eigenvalue, the trace and the effective dimension, the sum of
lambda / (lambda + alpha) (MacKay, 1992; Maddox, Benton and Wilson, 2020). Writes a folder with
``report.html`` and ``config.json``.

Cost: four minutes (one core of an AMD EPYC, jax 0.10.2). Result for true, random and shuffled
labels of digits without weight decay: training error 0; test error 0.031 ± 0.002, 0.912 ± 0.002
and 0.902 ± 0.007; largest eigenvalue 0.13, 12 and 11; effective dimension 18, 974 and 954. With
weight decay, random and shuffled labels have training errors of 9 %.
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np

import _run


@dataclasses.dataclass(frozen=True)
class Config(_run.Images):
    """Settings."""

    examples: int = 1000
    """Number of training examples."""
    width: int = 256
    """Width of both hidden layers."""
    members: int = 3
    """Number of nets per run, each with its own initialization."""
    weight_decay: float = 1.0
    """Weight decay of AdamW in the runs that use it; it is 0 in the others."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW."""
    batch: int = 100
    """Batch size."""
    epochs: int = 200
    """Epochs of training."""
    alpha: float = 1e-2
    """Curvature above which a direction counts for the effective dimension."""
    probes: int = 16
    """Number of probes of the trace and of the effective dimension."""
    lanczos_steps: int = 40
    """Lanczos steps per probe of the effective dimension."""
    seed: int = 0
    """Seed of all random numbers."""
    out: Path | None = None
    """Folder of the run; runs/generalization by default."""


TINY = {
    "examples": 40,
    "width": 3,
    "members": 2,
    "batch": 20,
    "epochs": 2,
    "probes": 2,
    "lanczos_steps": 3,
}
LABELS = "true", "random", "shuffled"
COLUMNS = {
    "train_error": "training error",
    "test_error": "test error",
    "loss": "training loss",
    "norm": "norm of the weights",
    "sharpness": "λ_max",
    "trace": "trace",
    "dimension": "effective dimension",
}


def main(config: Config) -> dict:
    """Run the experiment in its folder.

    Returns:
        ``folder``, and for each pair (labels, weight decay) a dict of ``Estimate`` over the nets.
    """
    return _run.conduct(experiment, config, "generalization")


def experiment(config: Config, job: _run.Job) -> _run.Findings:
    """Train six times, and measure each run."""
    import jax
    import optax

    from funcdl import losses, nn, train, viz
    from funcdl.nn import models

    keys = dict(zip(("labels", "data", "init", "curvature"), split_key(config.seed, 4)))
    images, labels, test_set, transform = load(config)
    model = nn.from_linen(models.MLP((config.width, config.width, 10)))
    objective = train.supervised(model, losses.softmax_cross_entropy, {"accuracy": losses.accuracy})
    rate = config.learning_rate
    decayed = lambda hyper: optax.adamw(rate, weight_decay=hyper["weight_decay"])
    program = train.ensemble(train.program(objective, decayed), config.members)
    curvature = jax.jit(functools.partial(curvatures, objective, model, config))

    found, histories = {}, {}
    for name, given in zip(LABELS, labeled(keys["labels"], labels)):
        train_set = batches(images, given, config, keys["data"], transform)
        for decay in (0.0, config.weight_decay):
            with job.clock("train"):
                start = program.init(keys["init"], train_set.form, {"weight_decay": decay})
                steps = train_set.steps(config.epochs)
                run, history = train.fit(program, start, train_set, steps=steps)
            with job.clock("measure"):
                nets = [train.lane(run, i) for i in range(config.members)]
                found[name, decay] = over_nets(
                    [
                        errors(objective, net, train_set, test_set)
                        | curvature(net, train_set, keys["curvature"])
                        for net in nets
                    ]
                )
            histories[name, decay] = history.metrics["loss"].mean(axis=1)
            _run.say("fit", said(name, decay, found[name, decay]))

    sections = [table_section(found, config), loss_section(histories)]
    hashes = {"data": viz.fingerprint((images, labels))}
    words = [
        f"{name} labels: training error {float(found[name, 0.0]['train_error'].value):.1%}, test "
        f"error {float(found[name, 0.0]['test_error'].value):.1%}"
        for name in LABELS
    ]
    return _run.Findings(found, " · ".join(words), sections, hashes)


def split_key(seed: int, count: int):
    """Make ``count`` keys from a seed."""
    import jax

    return jax.random.split(jax.random.key(seed), count)


def load(config: Config):
    """Return training images and labels, the test set, and the transform of images to floats."""
    from funcdl import data

    split, transform = config.split()
    images, labels = (a[: config.examples] for a in split.train)
    test_set = data.Batches(split.test, min(500, len(split.test[1])), transform=transform)
    _run.say("data", f"{config.data} {len(labels):,} train / {test_set.examples:,} test")
    return images, labels, test_set, transform


def labeled(key, labels: np.ndarray) -> list[np.ndarray]:
    """Return the true labels, random labels, and the true labels shuffled over the examples."""
    import jax

    key_random, key_shuffled = jax.random.split(key)
    drawn = jax.random.randint(key_random, labels.shape, 0, 10)
    dealt = jax.random.permutation(key_shuffled, labels)
    return [labels, *(np.asarray(x, labels.dtype) for x in (drawn, dealt))]


def batches(images, labels, config: Config, key, transform):
    """Return the training set."""
    from funcdl import data

    return data.Batches((images, labels), config.batch, key=key, transform=transform)


def errors(objective, net, train_set, test_set) -> dict:
    """Measure the errors, the loss and the norm of one net."""
    from funcdl import train

    on_train, on_test = (train.evaluate(objective, net.variables, x) for x in (train_set, test_set))
    return {
        "train_error": 1 - on_train["accuracy"].value,
        "test_error": 1 - on_test["accuracy"].value,
        "loss": on_train["loss"].value,
        "norm": norm(net.params),
    }


def curvatures(objective, model, config: Config, net, train_set, key) -> dict:
    """Measure the curvature of one net on all training examples; NaN if it did not converge."""
    import jax
    import jax.numpy as jnp

    from funcdl import curvature, operators, train

    loss, f = train.eval_loss(objective, net.state), train.outputs(model, net.state)
    hessian = curvature.hessian(loss, net.params, train_set)
    key_top, key_density, key_trace = jax.random.split(key, 3)
    top = curvature.sharpness(loss, net.params, train_set, key=key_top)
    ggn = curvature.ggn(f, cross_entropy, net.params, train_set)
    probes = {"probes": config.probes, "steps": config.lanczos_steps}
    density = operators.spectral_density(ggn, key=key_density, **probes)
    share = operators.spectral_mean(density, lambda x: x / (x + config.alpha))
    trace = operators.trace(hessian, key=key_trace, probes=config.probes)
    return {
        "sharpness": jnp.where(top.converged[0], top.values[0], jnp.nan),
        "trace": trace.value,
        "dimension": ggn.space_in.size * share.value,
    }


def cross_entropy(z, batch):
    """Return the mean loss of a batch (x, label)."""
    from funcdl import losses

    return losses.softmax_cross_entropy(z, batch[1])


def norm(params) -> float:
    """Return the Euclidean norm of all parameters."""
    import jax

    return float(np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(params))))


def over_nets(rows: list[dict]) -> dict:
    """Average over the nets of a run, with standard errors."""
    import jax.numpy as jnp

    from funcdl import operators

    each = {name: jnp.asarray([float(row[name]) for row in rows]) for name in rows[0]}
    return {name: operators.sample_mean(values) for name, values in each.items()}


def said(name: str, decay: float, found: dict) -> str:
    """Summarize a run in one line."""
    from funcdl import viz

    numbers = (f"{COLUMNS[k]} {viz.plus_minus(found[k])}" for k in list(COLUMNS)[:2])
    more = (f"{COLUMNS[k]} {float(found[k].value):.3g}" for k in list(COLUMNS)[4:])
    return f"{name} labels, weight decay {decay:g}: " + ", ".join([*numbers, *more])


def table_section(found: dict, config: Config):
    """Show the measurements of each run."""
    from funcdl import viz

    rows = [
        (name, f"{decay:g}", *(viz.plus_minus(measured[k]) for k in COLUMNS))
        for (name, decay), measured in found.items()
    ]
    body = viz.text(
        f"Mean ± standard error over {config.members} nets. The curvature is that of the mean loss "
        "on the training examples; the effective dimension counts eigenvalues of the Gauss-Newton "
        f"matrix relative to alpha = {config.alpha:g}."
    )
    body += viz.table(rows, header=("labels", "weight decay", *COLUMNS.values()))
    return viz.Section("Minima", body)


def loss_section(histories: dict, window: int = 50):
    """Plot the training loss of every run, averaged over its nets."""
    from funcdl import viz

    def draw(ax):
        for (name, decay), losses in histories.items():
            width = min(window, len(losses))
            mean = np.convolve(losses, np.ones(width) / width, mode="valid")
            style = {"color": f"C{LABELS.index(name)}", "linestyle": "-" if decay == 0 else "--"}
            ax.plot(np.arange(width, len(losses) + 1), mean, linewidth=0.9, label=name, **style)
        ax.set(xlabel="step", ylabel=f"training loss, mean of {window} steps", yscale="log")
        ax.legend(frameon=False, fontsize="small")

    body = viz.text("Dashed lines: with weight decay.")
    alt = "training loss of every run against the steps"
    return viz.Section("Training", body + viz.figure(draw, alt=alt, size=(6, 3.4)))


if __name__ == "__main__":
    _run.command_line(main, Config, __doc__)
