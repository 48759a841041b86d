"""Track the spectra of the Hessian, Gauss-Newton and Fisher matrices during training.

    python experiments/spectrum.py                            # digits, shipped with funcdl
    python experiments/spectrum.py --data mnist --path DIR    # MNIST, from its four IDX files

A small tanh net learns one-hot targets by plain gradient descent on the squared error of all
examples, once for each learning rate.
The largest eigenvalue of the Hessian is recorded inside the compiled loop. It rises to the edge of
stability, 2 / learning rate, and stays there while the loss continues to fall (Cohen et al., ICLR
2021). At some steps of the first run, the upper spectra and the densities of four matrices are
computed: they have a bulk near 0 and outliers, about one per class (Papyan, 2020), whose space
rotates less and less. Writes a folder with ``report.html`` and ``config.json``.

Cost (one core of an AMD EPYC, jax 0.10.2): digits one minute, MNIST three. Result: the median of
sharpness times learning rate / 2 over the last half of 3 000 steps is 1.02, 1.01 and 0.90 on digits
for the learning rates 0.1, 0.07 and 0.05, and 1.03, 1.02 and 0.96 on MNIST for 0.07, 0.05 and
0.035. The Gauss-Newton matrix has 10 outliers on digits at the end, and on MNIST 9 at the end and
10 at the four measurements before.
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np

import _run
import _spectra


@dataclasses.dataclass(frozen=True)
class Config(_run.Images):
    """Settings."""

    examples: int = 1000
    """Number of training examples; every step uses all of them."""
    width: int = 64
    """Width of both hidden layers."""
    learning_rates: tuple[float, ...] | None = None
    """Learning rates; 0.1, 0.07 and 0.05 for digits, 0.07, 0.05 and 0.035 for MNIST."""
    steps: int = 3000
    """Training steps."""
    every: int = 5
    """Steps between two measurements of the largest eigenvalue."""
    measurements: int = 5
    """Number of times that the spectra are computed, at geometrically spaced steps."""
    eigenvalues: int = 15
    """Number of eigenvalues of each matrix to compute."""
    probes: int = 8
    """Number of probes of the densities."""
    lanczos_steps: int = 30
    """Lanczos steps per probe."""
    seed: int = 0
    """Seed of all random numbers."""
    out: Path | None = None
    """Folder of the run; runs/spectrum by default."""


DEFAULTS = {
    "digits": {"learning_rates": (0.1, 0.07, 0.05)},
    "mnist": {"learning_rates": (0.07, 0.05, 0.035)},
}
TINY = {
    "examples": 40,
    "width": 3,
    "learning_rates": (0.1,),
    "steps": 20,
    "measurements": 2,
    "eigenvalues": 3,
    "probes": 2,
    "lanczos_steps": 3,
}


def main(config: Config) -> dict:
    """Run the experiment in its folder.

    Returns:
        ``folder``; ``edge``, the median of sharpness times learning rate / 2 over the last half of
        each run; ``outliers``, the number of outliers of the Gauss-Newton matrix at the end.
    """
    return _run.conduct(experiment, config, "spectrum", DEFAULTS[config.data])


def experiment(config: Config, job: _run.Job) -> _run.Findings:
    """Train at each learning rate, and compute spectra along the first run."""
    import jax

    from funcdl import nn, train, viz
    from funcdl.nn import models

    key_init, key_spectra = jax.random.split(jax.random.key(config.seed))
    train_set, test_set = load(config)
    model = nn.from_linen(models.MLP((config.width, config.width, 10), jax.numpy.tanh))
    objective = train.supervised(model, squared_error, {"accuracy": accuracy})
    program = descent(config, objective)
    measure = jax.jit(functools.partial(take, model, objective, config))
    batch = train_set.at(0)

    logs, spectra = {}, {}
    for rate in config.learning_rates:
        run = program.init(key_init, train_set.form, {"learning_rate": rate})
        history = []
        for step in marks(config):
            with job.clock("train"):
                run, part = train.fit(program, run, train_set, steps=step, chunk=config.steps)
            history.append(part.metrics)
            if rate == config.learning_rates[0]:
                with job.clock("spectra"):
                    spectra[step] = jax.block_until_ready(measure(run, batch, key_spectra))
        logs[rate] = {name: np.concatenate([m[name] for m in history]) for name in history[0]}
        tested = train.evaluate(objective, run.variables, test_set)["accuracy"]
        _run.say("train", said(rate, logs[rate]) + f", test accuracy {viz.plus_minus(tested)}")

    count = _spectra.outliers(np.asarray(spectra[config.steps]["Gauss-Newton"]["pairs"].values))
    _run.say("spectra", f"{count} outliers of the Gauss-Newton matrix at step {config.steps}")
    sections = [
        _spectra.edge_section(logs),
        _spectra.spectra_section(spectra),
        _spectra.density_section(spectra[config.steps]),
        _spectra.turning_section(spectra),
    ]
    hashes = {"data": viz.fingerprint(train_set.arrays)}
    edge = {rate: _spectra.late(_spectra.stability(rate, log)) for rate, log in logs.items()}
    words = ", ".join(f"{value:.2f} of 2/{rate:g}" for rate, value in edge.items())
    verdict = f"sharpness {words}; {count} outliers of the Gauss-Newton matrix"
    return _run.Findings({"edge": edge, "outliers": count}, verdict, sections, hashes)


def load(config: Config):
    """Return a part of the training set as one batch, and the test set."""
    from funcdl import data

    split, transform = config.split()
    one_hot = lambda x, labels: (x, np.eye(10, dtype=np.float32)[labels])
    some = one_hot(*(a[: config.examples] for a in split.train))
    train_set = data.Batches(some, len(some[1]), transform=transform)
    test_set = data.Batches(one_hot(*split.test), min(500, len(split.test[1])), transform=transform)
    _run.say("data", f"{config.data} {train_set.examples:,} train / {test_set.examples:,} test")
    return train_set, test_set


def descent(config: Config, objective):
    """Return gradient descent that measures the largest eigenvalue along the run."""
    import optax

    from funcdl import train

    plain = train.program(objective, lambda hyper: optax.sgd(hyper["learning_rate"]))
    monitor = train.sharpness_monitor(objective, share=1.0, steps=6)
    return train.monitored(plain, monitor, every=config.every)


def marks(config: Config) -> list[int]:
    """List the steps at which spectra are computed."""
    first = max(1, config.steps // 50)
    return sorted({round(s) for s in np.geomspace(first, config.steps, config.measurements)})


def take(model, objective, config: Config, run, batch, key) -> dict:
    """Compute the upper spectrum and the density of four matrices."""
    import jax

    from funcdl import curvature, operators, train

    key_targets, key_density, key_pairs = jax.random.split(key, 3)
    loss = train.eval_loss(objective, run.state)
    split = train.outputs(model, run.state), of_batch, run.params, batch
    matrices = {
        "Hessian": curvature.hessian(loss, run.params, batch),
        "Gauss-Newton": curvature.ggn(*split),
        "Fisher": curvature.fisher_mc(*split, key=key_targets, draw=draw_targets),
        "empirical Fisher": curvature.fisher_empirical(*split),
    }
    found = {}
    for name, matrix in matrices.items():
        k = min(config.eigenvalues, matrix.space_in.size)
        probes = {"probes": config.probes, "steps": config.lanczos_steps}
        density = operators.spectral_density(matrix, key=key_density, **probes)
        pairs = operators.eigsh(matrix, k, key=key_pairs, which="LA")
        found[name] = {"pairs": pairs, "density": density, "size": matrix.space_in.size}
    return found


def squared_error(z, targets):
    """Return half the mean squared distance, the negative log-density for targets of variance 1."""
    return 0.5 * ((z - targets) ** 2).sum(axis=1).mean()


def accuracy(z, targets):
    """Return the share of examples whose largest output is that of the digit."""
    return (z.argmax(axis=1) == targets.argmax(axis=1)).mean()


def of_batch(z, batch):
    """Return the loss of the outputs for a batch (x, targets)."""
    return squared_error(z, batch[1])


def draw_targets(key, z, batch):
    """Draw targets from the model: its outputs plus noise of variance 1."""
    import jax

    return jax.tree.map(lambda x: x[None], (batch[0], z + jax.random.normal(key, z.shape)))


def said(rate: float, log: dict) -> str:
    """Summarize a run in one line."""
    ratio = _spectra.stability(rate, log)
    return (
        f"learning rate {rate:g}: loss {log['loss'][-1]:.3g}, sharpness / (2 / rate) "
        f"{ratio.max():.2f} at most, {_spectra.late(ratio):.2f} late"
    )


if __name__ == "__main__":
    _run.command_line(main, Config, __doc__)
