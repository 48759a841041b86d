"""The sections of a training report, each built from plain results."""

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl._typing import PyTree
from funcdl.operators import EigenPairs, Estimate, SpectralDensity
from funcdl.train import History
from funcdl.viz import _figures
from funcdl.viz._report import Section, figure, table, text


def training_section(history: History) -> Section:
    """Show loss and metrics against the steps.

    Args:
        history: The history of ``train.fit``.

    Returns:
        The section.
    """

    def one(name: str) -> str:
        draw = lambda ax: _figures.curve(ax, history, name)
        return figure(draw, alt=f"{name} against the steps", size=(4.8, 2.8))

    return Section("Training", "".join(one(name) for name in history.metrics))


def classification(
    metrics: dict[str, Estimate],
    logits: _figures.Numbers,
    labels: _figures.Numbers,
    pictures: _figures.Numbers | None = None,
    *,
    worst: int = 8,
) -> Section:
    """Show a test: metrics with standard errors, confusion matrix, worst examples.

    Args:
        metrics: The result of ``train.evaluate``.
        logits: The logits, ``(n, c)``.
        labels: The labels, ``(n,)``.
        pictures: ``(n, h, w, channels)``, if the inputs are images.
        worst: The number of examples with the largest loss to show.

    Returns:
        The section.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    count, classes = logits.shape
    guess = logits.argmax(axis=-1)
    counts = np.bincount(labels * classes + guess, minlength=classes**2).reshape(classes, classes)
    rows = [(name, plus_minus(estimate), f"{count:,}") for name, estimate in metrics.items()]
    body = table(rows, header=("metric", "mean ± standard error", "examples"))
    body += figure(lambda ax: _figures.confusion(ax, counts), alt="confusion matrix", size=(4, 3.6))
    if pictures is not None:
        log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))[np.arange(count), labels]
        order = np.argsort(log_p)[:worst]
        titles = [f"{labels[i]}, seen as {guess[i]}\nloss {-log_p[i]:.2f}" for i in order]
        chosen = np.asarray(pictures)[order]
        draw = lambda axes: _figures.images(np.ravel(axes), chosen, titles)
        size = (1.25 * len(order), 1.6)
        body += figure(draw, alt="examples with the largest loss", size=size, grid=(1, len(order)))
    return Section("Test", body)


def curvature_section(
    pairs: EigenPairs,
    spectrum: SpectralDensity,
    trace: Estimate,
    *,
    subset: str,
    sampling: Estimate | None = None,
) -> Section:
    """Show a Hessian: eigenvalues with residuals, density with its band, trace, products.

    Args:
        pairs: The result of ``operators.eigsh``.
        spectrum: The result of ``operators.spectral_density``.
        trace: The result of ``operators.trace``.
        subset: A description of the examples that it was measured on.
        sampling: Mean of the eigenvalues over disjoint subsets and its standard error, ``(k,)``.

    Returns:
        The section.
    """
    body = text(f"Hessian of the mean loss on {subset}.")
    body += figure(
        lambda ax: _figures.eigenvalues(ax, pairs), alt="eigenvalues with residuals", size=(4.6, 3)
    )
    body += figure(
        lambda ax: _figures.spectral_density(ax, spectrum),
        alt="spectral density with its error",
        size=(4.6, 3),
    )
    header = ("rank", "eigenvalue", "residual", "converged")
    columns = pairs.values, pairs.residuals, pairs.converged
    rows = [
        (i + 1, f"{value:.5g}", f"{residual:.2g}", "yes" if converged else "no")
        for i, (value, residual, converged) in enumerate(zip(*map(np.asarray, columns)))
    ]
    if sampling is not None:
        header = (*header, "mean ± s.e. over disjoint subsets")
        columns = map(Estimate, np.asarray(sampling.value), np.asarray(sampling.stderr))
        rows = [(*row, plus_minus(estimate)) for row, estimate in zip(rows, columns)]
    body += table(rows, header=header)
    facts = [
        ("trace", plus_minus(trace), f"{int(trace.matvecs)} products"),
        ("eigenvalues", f"{len(rows)}", f"{int(pairs.matvecs)} products"),
        ("density", f"{spectrum.nodes.shape[0]} probes", f"{int(spectrum.matvecs)} products"),
        ("mean eigenvalue from the density", plus_minus(_mean_eigenvalue(spectrum)), ""),
    ]
    return Section("Curvature", body + table(facts))


def norms_section(params: PyTree, gradient: PyTree) -> Section:
    """Show the norm of every parameter and of its gradient.

    Args:
        params: The parameters of a run.
        gradient: The gradient of the loss, a tree like ``params``.

    Returns:
        The section.
    """
    names = _tree.paths(params)

    def draw(axes):
        for ax, tree, label in zip(axes, (params, gradient), ("parameter norm", "gradient norm")):
            values = [max(float(jnp.linalg.norm(leaf)), 1e-12) for leaf in jax.tree.leaves(tree)]
            _figures.bars(ax, names, values, label=label)
        axes[1].set_yticklabels([])

    size = (8, 0.7 + 0.22 * len(names))
    return Section(
        "Norms", figure(draw, alt="norms of parameters and gradients", size=size, grid=(1, 2))
    )


def settings_section(title: str, values: dict, *, default: dict | None = None) -> Section:
    """Show names and values; those that differ from the default are bold.

    Args:
        title: The title of the section.
        values: A dict from names to values.
        default: The values to compare with.

    Returns:
        The section.
    """
    default = default or {}
    changed = [i for i, (k, v) in enumerate(values.items()) if default and default.get(k) != v]
    rows = [
        (k, v, f"default {default.get(k)}" if i in changed else "")
        for i, (k, v) in enumerate(values.items())
    ]
    return Section(title, table(rows, bold=changed))


def plus_minus(estimate: Estimate) -> str:
    """Format an estimate with as many digits as its standard error justifies.

    Args:
        estimate: A scalar value and its standard error.

    Returns:
        The text ``value ± standard error``.

    >>> plus_minus(Estimate(0.98765, 0.00432))
    '0.9877 ± 0.0043'
    """
    value, error = float(estimate.value), float(estimate.stderr)
    if not np.isfinite([value, error]).all() or error <= 0:
        return f"{value:.4g} ± {error:.2g}"
    order = lambda x: int(f"{x:.1e}".split("e")[1])  # of the rounded number
    digits = max(0, 1 - order(error))
    if digits <= 6:
        return f"{value:.{digits}f} ± {error:.{digits}f}"
    return f"{value:.{max(1, order(value or error) - order(error) + 1)}e} ± {error:.1e}"


def _mean_eigenvalue(spectrum: SpectralDensity) -> Estimate:
    mean = (spectrum.nodes * spectrum.weights).sum(axis=1).mean()
    return Estimate(mean, spectrum.stderr, spectrum.matvecs)
