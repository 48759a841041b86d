"""The measurements and the report sections of the experiment with spectra."""

import numpy as np

COLORS = {"Hessian": "C0", "Gauss-Newton": "C1", "Fisher": "C2", "empirical Fisher": "C3"}


def stability(rate: float, log: dict) -> np.ndarray:
    """Return sharpness times learning rate / 2 at every step: 1 is the edge of stability."""
    from funcdl import curvature

    return np.asarray(curvature.stability_ratio(log["sharpness"], rate))


def late(values: np.ndarray) -> float:
    """Return the median over the last half."""
    return float(np.median(values[len(values) // 2 :]))


def outliers(values: np.ndarray) -> int:
    """Count the eigenvalues above the widest gap, on a logarithmic scale."""
    values = values[values > 0]
    return int(np.argmax(values[:-1] / values[1:])) + 1 if len(values) > 1 else len(values)


def edge_section(logs: dict):
    """Plot loss and sharpness of every run against the steps."""
    from funcdl import viz

    def draw(axes):
        for i, (rate, log) in enumerate(logs.items()):
            steps, style = np.arange(len(log["loss"])), {"color": f"C{i}", "linewidth": 0.9}
            axes[0].plot(steps, log["loss"], label=f"{rate:g}", **style)
            axes[1].plot(steps, log["sharpness"], **style)
            axes[1].axhline(2 / rate, linestyle=":", **style)
        axes[0].set(xlabel="step", ylabel="training loss", yscale="log")
        axes[0].legend(title="learning rate", frameon=False)
        axes[1].set(xlabel="step", ylabel="largest eigenvalue of the Hessian")

    rows = [
        (f"{rate:g}", f"{stability(rate, log).max():.3f}", f"{late(stability(rate, log)):.3f}")
        for rate, log in logs.items()
    ]
    header = ("learning rate", "sharpness × rate / 2, largest", "median of the last half")
    body = viz.text("Dotted lines: 2 / learning rate, above which a quadratic would diverge.")
    body += viz.figure(draw, alt="loss and sharpness against the steps", size=(8, 3), grid=(1, 2))
    return viz.Section("Edge of stability", body + viz.table(rows, header=header))


def spectra_section(spectra: dict):
    """Plot the largest eigenvalues of the four matrices at every measurement."""
    from funcdl import viz

    def draw(axes):
        for ax, (step, found) in zip(np.ravel(axes), spectra.items()):
            for name, result in found.items():
                values = np.asarray(result["pairs"].values)
                rank = np.arange(1, len(values) + 1)
                ax.plot(rank, values, ".-", color=COLORS[name], linewidth=0.7, label=name)
            ax.set(title=f"step {step}", xlabel="rank", yscale="log")
        first, *_, last = np.ravel(axes)
        first.set_ylabel("eigenvalue")
        last.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))

    rows = []
    for step, found in spectra.items():
        for name, result in found.items():
            pairs = result["pairs"]
            worst = float(np.max(np.asarray(pairs.residuals / abs(pairs.values))))
            sound = "all" if bool(pairs.converged.all()) else "NOT all"
            top = f"{float(pairs.values[0]):.4g}"
            rows.append(
                (step, name, top, outliers(np.asarray(pairs.values)), f"{worst:.1g}", sound)
            )
    header = ("step", "matrix", "λ_max", "outliers", "worst residual / |λ|", "converged")
    size = (1.9 * len(spectra) + 1.6, 2.8)
    alt = "largest eigenvalues of four matrices along the run"
    figure = viz.figure(draw, alt=alt, size=size, grid=(1, len(spectra)))
    return viz.Section("Upper spectra", figure + viz.table(rows, header=header))


def density_section(found: dict):
    """Plot the densities at the end, each with its error band."""
    from funcdl import operators, viz

    def draw(axes):
        for ax, (name, result) in zip(axes, found.items()):
            viz.spectral_density(ax, result["density"])
            ax.set_title(name)

    rows = []
    for name, result in found.items():
        mean = operators.spectral_mean(result["density"], lambda x: x)
        trace = operators.Estimate(result["size"] * mean.value, result["size"] * mean.stderr)
        rows.append((name, viz.plus_minus(trace)))
    alt = "spectral densities of four matrices at the end of the run"
    figure = viz.figure(draw, alt=alt, size=(10, 2.6), grid=(1, len(found)))
    table = viz.table(rows, header=("matrix", "trace ± standard error"))
    return viz.Section("Densities at the end", figure + table)


def turning_section(spectra: dict):
    """Show the overlap of the outliers' space with that at the end, and between the matrices."""
    from funcdl import curvature, viz

    last = list(spectra)[-1]
    k = min(10, len(spectra[last]["Hessian"]["pairs"].values))
    top = lambda step, name: leading(spectra[step][name]["pairs"].vectors, k)
    rows = []
    for step in spectra:
        shared = [
            float(curvature.subspace_overlap(top(step, name), top(last, name))) for name in COLORS
        ]
        rows.append((step, *(f"{x:.2f}" for x in shared)))
    across = [
        float(curvature.subspace_overlap(top(last, name), top(last, "Hessian"))) for name in COLORS
    ]
    body = viz.text(
        f"Overlap of the space of the {k} leading eigenvectors with that at the end, by matrix."
    )
    body += viz.table(rows, header=("step", *COLORS))
    body += viz.text("Overlap with the space of the Hessian, at the end.")
    body += viz.table([[f"{x:.2f}" for x in across]], header=tuple(COLORS))
    return viz.Section("Rotation of the leading space", body)


def leading(tree, k: int):
    """Select the first k vectors of a tree of vectors."""
    import jax

    return jax.tree.map(lambda x: x[:k], tree)
