"""Copy one figure of each experiment's report to ``docs/pictures``, for the gallery.

    python experiments/_pictures.py RUNS

``RUNS`` is the folder in which the experiments ran, with ``digits/report.html`` and the others. The
tutorial has no report; it is run here for its loss curve.
"""

import re
import sys
from pathlib import Path

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
# experiment -> the label of a figure in its report
FIGURES = {
    "audit": "largest error of every log-determinant",
    "decompositions": "variance and error against k",
    "digits": "spectral density with its error",
    "flows": "training loss of the flows on moons",
    "generalization": "training loss of every run against the steps",
    "mixtures": "mean log-likelihood of every restart against the steps of EM",
    "optimization": "each run&#x27;s loss, accuracy and sharpness",
    "spectrum": "loss and sharpness against the steps",
    "sweep": "held-out error against the learning rate",
}


def figure_of(page: str, label: str) -> str:
    """Return the figure with a label, as a file of its own."""
    found = re.search(
        rf'<svg role="img" aria-label="{re.escape(label)}" (.*?</svg>)', page, re.DOTALL
    )
    if found is None:
        raise ValueError(f"the report has no figure {label!r}")
    body = found.group(1)
    needed = {"xmlns": "http://www.w3.org/2000/svg", "xmlns:xlink": "http://www.w3.org/1999/xlink"}
    names = [f'{key}="{value}"' for key, value in needed.items() if f"{key}=" not in body]
    return f"<svg {' '.join(names)} {body}\n"


def tutorial() -> str:
    """Train the tutorial's network and draw its loss."""
    import tutorial
    from funcdl import viz

    losses = tutorial.main(tutorial.Config())["losses"]

    def draw(ax):
        ax.plot(losses, linewidth=0.8)
        ax.set(xlabel="step", ylabel="loss")

    return figure_of(viz.figure(draw, alt="loss against the steps"), "loss against the steps")


def main(runs: Path) -> None:
    """Write all pictures whose reports exist; name the others."""
    PICTURES.mkdir(exist_ok=True)
    for name, label in FIGURES.items():
        report = runs / name / "report.html"
        if report.exists():
            PICTURES.joinpath(f"{name}.svg").write_text(figure_of(report.read_text(), label))
        else:
            print(f"{report} is missing: run experiments/{name}.py first")
    PICTURES.joinpath("tutorial.svg").write_text(tutorial())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
