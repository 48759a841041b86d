"""Figures of plain results: each function draws on the axes that it is given and returns them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcdl._typing import Array
from funcdl.operators import EigenPairs, SpectralDensity, smoothed_density
from funcdl.stats import gaussian
from funcdl.stats.gaussian import Gaussian
from funcdl.train import History

Numbers = Sequence | Array | np.ndarray  # anything that NumPy reads as an array
Axes = Any  # matplotlib.axes.Axes; matplotlib is an optional dependency


def curve(ax: Axes, history: History, name: str, *, window: int = 25) -> Axes:
    """Draw a metric against the steps: raw in gray, its running mean, validation as points.

    Args:
        ax: Matplotlib axes.
        history: The history of ``train.fit``.
        name: The name of the metric; ``"loss"`` gets a logarithmic axis.
        window: The number of steps in the running mean.

    Returns:
        The same axes.

    Raises:
        ValueError: If the history does not have this metric; the message lists the others.
    """
    if name not in history.metrics:
        raise ValueError(f"no metric {name!r}; the history has {sorted(history.metrics)}")
    steps, values = history.steps, np.asarray(history.metrics[name], float)
    values = values.reshape(len(values), -1).mean(axis=1)
    ax.plot(*_thinned(steps, values), color="0.75", linewidth=0.6, label="each step")
    window = min(window, len(values))
    mean = np.convolve(values, np.ones(window) / window, mode="valid")
    ax.plot(*_thinned(steps[window - 1 :], mean), color="C0", label=f"mean of {window}")
    number = lambda x: getattr(x, "value", x)  # it may be an Estimate
    points = [(step, number(v[name])) for step, v in history.validation if name in v]
    if points:
        ax.plot(*zip(*points), ".", color="C1", markersize=3, label="validation")
    if name == "loss" and (values > 0).all():
        ax.set_yscale("log")
    ax.set(xlabel="step", ylabel=name)
    ax.legend(frameon=False, fontsize="small")
    return ax


def eigenvalues(ax: Axes, pairs: EigenPairs) -> Axes:
    """Draw eigenvalues with bars as long as their residuals.

    Args:
        ax: Matplotlib axes.
        pairs: The result of ``operators.eigsh``.

    Returns:
        The same axes.
    """
    values, residuals = np.asarray(pairs.values), np.asarray(pairs.residuals)
    converged = np.asarray(pairs.converged)
    ranks = np.arange(1, len(values) + 1)
    for mask, color, label in [(converged, "C0", "converged"), (~converged, "C3", "not converged")]:
        if mask.any():
            bars = {"yerr": residuals[mask], "capsize": 3, "fmt": "o", "markersize": 4}
            ax.errorbar(ranks[mask], values[mask], color=color, label=label, **bars)
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set(xlabel="rank by magnitude", ylabel="eigenvalue ± residual", xticks=ranks)
    ax.legend(frameon=False, fontsize="small")
    return ax


def spectral_density(ax: Axes, spectrum: SpectralDensity, *, points: int = 250) -> Axes:
    """Draw a spectral density with a band of two standard errors over its probes.

    Args:
        ax: Matplotlib axes.
        spectrum: The result of ``operators.spectral_density``.
        points: The number of grid points.

    Returns:
        The same axes.
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


def confusion(ax: Axes, counts: Numbers) -> Axes:
    """Draw a confusion matrix with its counts.

    Args:
        ax: Matplotlib axes.
        counts: ``(c, c)``; rows are labels, columns are predictions.

    Returns:
        The same axes.

    Raises:
        ValueError: If the matrix is not square.
    """
    if np.ndim(counts) != 2 or len(set(np.shape(counts))) != 1:
        raise ValueError(f"counts has shape {np.shape(counts)}; expected a square matrix")
    counts, classes = np.asarray(counts), len(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # cells rather than an image, which would be embedded as PNG
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


def images(axes: Sequence | np.ndarray, pictures: Numbers, titles: Sequence[str]) -> Any:
    """Draw one image on each of the axes.

    Args:
        axes: One Matplotlib axes per image.
        pictures: ``(k, h, w)``, or with a last axis of 1 or 3 channels.
        titles: The titles above the images.

    Returns:
        The same axes.

    Raises:
        ValueError: If there are not as many axes as pictures and titles.
    """
    if not len(axes) == len(pictures) == len(titles):
        raise ValueError(
            f"there are {len(axes)} axes, {len(pictures)} pictures and {len(titles)} titles; "
            "expected equal numbers"
        )
    for ax, picture, title in zip(axes, np.asarray(pictures), titles):
        ax.imshow(picture.squeeze(), cmap="gray_r", interpolation="nearest")
        ax.set_title(title, fontsize="small")
        ax.set_axis_off()
    return axes


def ellipses(ax: Axes, components: Gaussian, *, probability: float = 0.9) -> Axes:
    """Draw the regions of a given probability of Gaussians in two variables.

    Args:
        ax: Matplotlib axes.
        components: Means ``(c, 2)`` and covariances ``(c, 2, 2)``.
        probability: The probability of each region.

    Returns:
        The same axes.

    Raises:
        ValueError: If they do not have two variables.
    """
    if np.shape(components.mean)[1:] != (2,):
        raise ValueError(
            f"components.mean has shape {np.shape(components.mean)}; expected (c, 2), in a plane"
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


def bars(ax: Axes, names: Sequence[str], values: Numbers, *, label: str) -> Axes:
    """Draw horizontal bars with names, on a logarithmic axis.

    Args:
        ax: Matplotlib axes.
        names: The names of the bars, from top to bottom.
        values: The lengths of the bars, positive.
        label: The label of the axis.

    Returns:
        The same axes.

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


def _thinned(x: np.ndarray, y: np.ndarray, limit: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Keep a curve small: beyond the limit, take the median of each of ``limit`` pieces."""
    if len(x) <= limit:
        return x, y
    pieces = np.array_split(np.arange(len(x)), limit)
    return x[[piece[-1] for piece in pieces]], np.array([np.median(y[piece]) for piece in pieces])
