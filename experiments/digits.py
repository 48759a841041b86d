"""Train a small CNN on handwritten digits, then measure the curvature of the trained loss.

    python experiments/digits.py                            # 1 437 8x8 digits, shipped with funcdl
    python experiments/digits.py --data mnist --path DIR    # MNIST, from its four IDX files
    python experiments/digits.py --resume runs/digits       # continue after Ctrl-C

Writes a folder with ``report.html``, ``config.json``, ``metrics.jsonl`` and ``checkpoints/``.

Cost (two cores of an AMD EPYC, jax 0.10.2): digits 26 s, or 18 s with cached compilations; MNIST
79 s. Result: on digits, test accuracy 0.981 ± 0.007, and top-10 eigenvalues of the Hessian on all
training examples 10.7 to 0.33; on MNIST, test accuracy 0.9886 ± 0.0011 after 3 epochs, and
0.9915 ± 0.0009 after 10 (``--epochs 10``).
"""

import dataclasses
from pathlib import Path

import _resume
import _run


@dataclasses.dataclass(frozen=True)
class Config(_run.Images):
    """Settings; ``None`` selects the default of the data set."""

    epochs: int | None = None
    """Epochs of training; 40 for digits, 3 for MNIST."""
    batch: int | None = None
    """Batch size; 64 for digits, 128 for MNIST."""
    learning_rate: float = 2e-3
    """Learning rate of AdamW at the start of its cosine schedule."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    eigenvalues: int = 10
    """Number of eigenvalues of the Hessian to compute, the largest by magnitude."""
    probes: int = 8
    """Number of probes of the spectral density."""
    lanczos_steps: int = 15
    """Lanczos steps per probe."""
    examples: int | None = None
    """Number of examples for the Hessian; all 1 437 for digits, 1 024 for MNIST."""
    seed: int = 0
    """Seed of all random numbers."""
    out: Path | None = None
    """Folder of the run; runs/<data> by default."""
    resume: Path | None = None
    """Folder of a run to resume with its own settings."""


DEFAULTS = {
    "digits": {"epochs": 40, "batch": 64, "examples": 1437},
    "mnist": {"epochs": 3, "batch": 128, "examples": 1024},
}
TINY = {
    "epochs": 1,
    "batch": 719,
    "examples": 64,
    "eigenvalues": 2,
    "probes": 2,
    "lanczos_steps": 2,
}


def main(config: Config) -> dict:
    """Run the experiment in its folder.

    Returns:
        ``folder``, ``loss`` and ``accuracy`` on the test set, and ``eigenvalues``.
    """
    if config.resume is not None:
        config = _run.load_config(config)
    return _run.conduct(experiment, config, config.data, DEFAULTS[config.data])


def experiment(config: Config, job: _run.Job) -> _run.Findings:
    """Train, test, and measure the Hessian."""
    import jax
    import optax

    from funcdl import losses, nn, train, viz

    key_data, key_init, key_hessian = jax.random.split(jax.random.key(config.seed), 3)
    train_set, test_set, network = load(config, key_data)

    model = nn.from_linen(network)
    objective = train.supervised(model, losses.softmax_cross_entropy, {"accuracy": losses.accuracy})
    steps = train_set.steps(config.epochs)
    schedule = optax.cosine_decay_schedule(config.learning_rate, steps)
    program = train.program(objective, optax.adamw(schedule, weight_decay=config.weight_decay))
    with job.clock("init"):
        run = program.init(key_init, train_set.form)
    count = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    _run.say("model", f"{type(network).__name__}, {count:,} parameters ({count * 4 / 1e3:.0f} kB)")

    facts = {"data": viz.fingerprint(train_set.arrays)}
    run, history = _resume.fit(program, run, train_set, steps, job, facts)
    with job.clock("evaluate"):
        metrics = train.evaluate(objective, run.variables, test_set)
        pictures, labels = test_set.rows(0, test_set.examples)
        logits = train.predict(model, run.variables, pictures)
    _run.say("test", _run.estimates(metrics, test_set.examples))
    with job.clock("curvature"):
        hessian = measure_hessian(
            config, train.eval_loss(objective, run.state), run, train_set, key_hessian
        )
    _run.say("hessian", _run.eigenvalues(hessian["pairs"]))

    sections = [
        viz.training_section(history),
        viz.classification(metrics, logits, labels, pictures),
        viz.curvature_section(
            hessian["pairs"],
            hessian["density"],
            hessian["trace"],
            subset=hessian["subset"],
            sampling=hessian["sampling"],
        ),
        viz.norms_section(run.params, hessian["gradient"]),
    ]
    hashes = facts | {"parameters": viz.fingerprint(run.params)}
    verdict = f"{_run.estimates(metrics)} · {_run.eigenvalues(hessian['pairs'])}"
    found = metrics | {"eigenvalues": hessian["pairs"]}
    return _run.Findings(found, verdict, sections, hashes)


def load(config: Config, key):
    """Return the training batches, the test batches and a network for them."""
    from funcdl import data
    from funcdl.nn import models

    split, transform = config.split()
    network = {"digits": models.SmallCNN, "mnist": models.LeNet}[config.data](classes=10)
    train_set = data.Batches(split.train, config.batch, key=key, transform=transform)
    test_set = data.Batches(split.test, min(500, len(split.test[1])), transform=transform)
    shape = "x".join(map(str, split.train[0].shape[1:]))
    counts = f"{train_set.examples:,} train / {test_set.examples:,} test"
    _run.say("data", f"{config.data} {counts}, {shape}, 10 classes")
    return train_set, test_set, network


def measure_hessian(config: Config, loss, run, train_set, key) -> dict:
    """Measure the Hessian of the trained loss on up to four disjoint subsets of the examples."""
    import jax
    import jax.numpy as jnp

    from funcdl import operators
    from funcdl.curvature import hessian

    n, size = train_set.examples, min(config.examples, train_set.examples)
    hessians = [
        hessian(loss, run.params, train_set.rows(i * size, size)) for i in range(min(4, n // size))
    ]
    key_pairs, key_density = jax.random.split(key)
    pairs = [operators.eigsh(a, config.eigenvalues, key=key_pairs) for a in hessians]
    probes = {"probes": config.probes, "steps": config.lanczos_steps}
    density = operators.spectral_density(hessians[0], key=key_density, **probes)
    mean = operators.spectral_mean(density, lambda eigenvalue: eigenvalue)
    parameters = hessians[0].space_in.size
    sampling = operators.sample_mean(jnp.stack([p.values for p in pairs]))
    part = f"the first {size:,} of" if size < n else "all"
    return {
        "pairs": pairs[0],
        "density": density,
        "trace": operators.Estimate(
            parameters * mean.value, parameters * mean.stderr, mean.matvecs
        ),
        "subset": f"{part} {n:,} training examples",
        "sampling": sampling if len(pairs) > 1 else None,
        "gradient": jax.jit(jax.grad(loss))(run.params, train_set.rows(0, size)),
    }


if __name__ == "__main__":
    _run.command_line(main, Config, __doc__)
