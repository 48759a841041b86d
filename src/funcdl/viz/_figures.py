"""Figures of plain results: each draws on the ``ax`` it is given and returns it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._typing import Array
from funcdl.operators import EigenPairs, SpectralDensity, smoothed_density
from funcdl.stats import gaussian
from funcdl.stats.gaussian import Gaussian
from funcdl.train import History

Numbers = Sequence | Array | np.ndarray  # what numpy reads as an array


def curve(ax, history: History, name: str, *, window: int = 25):
    """Draw a metric against the steps: raw in gray, its running mean, validation as points.

    Args:
        ax: Axes of matplotlib.
        history: From ``train.fit``.
        name: Of the metric; ``"loss"`` gets a logarithmic axis.
        window: Steps of the running mean.

    Returns:
        ``ax``.

    Raises:
        ValueError: If the history has no such metric; those it has are named.
    """
    if name not in history.metrics:
        raise ValueError(f"no metric {name!r}; the history has {sorted(history.metrics)}")
    steps, values = history.steps, np.asarray(history.metrics[name], float)
    values = values.reshape(len(values), -1).mean(axis=1)
    ax.plot(*_thinned(steps, values), color="0.75", linewidth=0.6, label="each step")
    window = min(window, len(values))
    mean = np.convolve(values, np.ones(window) / window, mode="valid")
    ax.plot(*_thinned(steps[window - 1 :], mean), color="C0", label=f"mean of {window}")
    points = [(step, found[name]) for step, found in history.validation if name in found]
    if points:
        ax.plot(*zip(*points), ".", color="C1", markersize=3, label="validation")
    if name == "loss" and (values > 0).all():
        ax.set_yscale("log")
    ax.set(xlabel="step", ylabel=name)
    ax.legend(frameon=False, fontsize="small")
    return ax


def eigenvalues(ax, pairs: EigenPairs):
    """Draw eigenvalues with bars as long as their residuals.

    Args:
        ax: Axes of matplotlib.
        pairs: From ``operators.eigsh``.

    Returns:
        ``ax``.
    """
    values, residuals = np.asarray(pairs.values), np.asarray(pairs.residuals)
    sound = np.asarray(pairs.converged)
    ranks = np.arange(1, len(values) + 1)
    for mask, color, label in [(sound, "C0", "converged"), (~sound, "C3", "not converged")]:
        if mask.any():
            bars = {"yerr": residuals[mask], "capsize": 3, "fmt": "o", "markersize": 4}
            ax.errorbar(ranks[mask], values[mask], color=color, label=label, **bars)
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set(xlabel="rank by magnitude", ylabel="eigenvalue ± residual", xticks=ranks)
    ax.legend(frameon=False, fontsize="small")
    return ax


def spectral_density(ax, spectrum: SpectralDensity, *, points: int = 250):
    """Draw a spectral density with a band of two standard errors over its probes.

    Args:
        ax: Axes of matplotlib.
        spectrum: From ``operators.spectral_density``.
        points: Of the grid.

    Returns:
        ``ax``.
    """
    low, high = float(spectrum.nodes.min()), float(spectrum.nodes.max())
    width = max((high - low) / 60, 1e-12)
    grid = np.linspace(low - 4 * width, high + 4 * width, points).astype(np.float32)
    estimate = smoothed_density(spectrum, jnp.asarray(grid), width)
    value, error = np.asarray(estimate.value), 2 * np.asarray(estimate.stderr)
    floor = 1e-6 * value.max()
    lower, upper = np.maximum(value - error, floor), np.maximum(value + error, floor)
    ax.fill_between(grid, lower, upper, color="C0", alpha=0.3, linewidth=0, label="± 2 s.e.")
    ax.plot(grid, np.maximum(value, floor), color="C0", linewidth=1)
    ax.set(yscale="log", xlabel="eigenvalue", ylabel=f"density (width {width:.2g})")
    ax.legend(frameon=False, fontsize="small")
    return ax


def confusion(ax, counts: Numbers):
    """Draw a confusion matrix with its counts.

    Args:
        ax: Axes of matplotlib.
        counts: ``(c, c)``: rows are labels, columns predictions.

    Returns:
        ``ax``.

    Raises:
        ValueError: If the matrix is not square.
    """
    if np.ndim(counts) != 2 or len(set(np.shape(counts))) != 1:
        raise ValueError(f"counts has shape {np.shape(counts)}; expected a square matrix")
    counts, classes = np.asarray(counts), len(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # cells, not an image: an image would be embedded as PNG
    edges = np.arange(classes + 1) - 0.5
    ax.pcolormesh(edges, edges, share, cmap="Blues", vmin=0, vmax=1.4, edgecolors="white")
    for (i, j), count in np.ndenumerate(counts):
        if count and classes <= 20:
            ax.text(j, i, str(int(count)), ha="center", va="center", fontsize="small")
    ticks = np.arange(classes)
    ax.set(xlabel="prediction", ylabel="label", aspect="equal")
    if classes <= 20:
        ax.set(xticks=ticks, yticks=ticks)
    ax.invert_yaxis()
    return ax


def images(axes: Sequence | np.ndarray, pictures: Numbers, titles: Sequence[str]):
    """Draw one image on each of the axes.

    Args:
        axes: As many axes as images.
        pictures: ``(k, h, w)``, or with a last axis of 1 or 3 channels.
        titles: Above them.

    Returns:
        ``axes``.

    Raises:
        ValueError: If there are not as many axes as pictures and titles.
    """
    if not len(axes) == len(pictures) == len(titles):
        raise ValueError(
            f"there are {len(axes)} axes, {len(pictures)} pictures and {len(titles)} titles; "
            "expected as many of each"
        )
    for ax, picture, title in zip(axes, np.asarray(pictures), titles):
        ax.imshow(picture.squeeze(), cmap="gray_r", interpolation="nearest")
        ax.set_title(title, fontsize="small")
        ax.set_axis_off()
    return axes


def ellipses(ax, components: Gaussian, *, probability: float = 0.9):
    """Draw the regions that Gaussians of two variables fill.

    Args:
        ax: Axes of matplotlib.
        components: Means ``(c, 2)`` and covariances ``(c, 2, 2)``.
        probability: Of each region.

    Returns:
        ``ax``.

    Raises:
        ValueError: If they are not of two variables.
    """
    if np.shape(components.mean)[1:] != (2,):
        raise ValueError(
            f"components.mean has shape {np.shape(components.mean)}; expected (c, 2), a plane"
        )
    regions = jax.vmap(lambda one: gaussian.ellipsoid(one, probability))(components)
    angle = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for k, (center, axes, lengths) in enumerate(zip(*map(np.asarray, regions))):
        outline = center[:, None] + (axes * lengths) @ circle
        ax.plot(*outline, color=f"C{k % 10}", linewidth=1.2)
        ax.plot(*center, "+", color=f"C{k % 10}")
    ax.set(xlabel="first component", ylabel="second component", aspect="equal")
    return ax


def bars(ax, names: Sequence[str], values: Numbers, *, label: str):
    """Draw horizontal bars with names, on a logarithmic axis.

    Args:
        ax: Axes of matplotlib.
        names: Of the bars, from top to bottom.
        values: Positive.
        label: Of the axis.

    Returns:
        ``ax``.

    Raises:
        ValueError: If names and values differ in number, or a value is not positive.
    """
    values = np.asarray(values)
    if values.shape != (len(names),):
        raise ValueError(f"there are {len(names)} names, but values has shape {values.shape}")
    for name, value in zip(names, values):
        if not value > 0:
            raise ValueError(f"bar {name!r} is {value}; a logarithmic axis needs positive numbers")
    ax.barh(names, values, color="C0", height=0.6)
    ax.invert_yaxis()
    ax.set(xlabel=label, xscale="log")
    return ax


def _thinned(x: np.ndarray, y: np.ndarray, limit: int = 300):
    """Keep a curve light: beyond the limit, the median of each of ``limit`` pieces."""
    if len(x) <= limit:
        return x, y
    pieces = np.array_split(np.arange(len(x)), limit)
    return x[[piece[-1] for piece in pieces]], np.array([np.median(y[piece]) for piece in pieces])
