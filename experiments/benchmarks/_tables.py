"""Run benchmarks several times and write their tables, with the spread of every figure.

    python experiments/benchmarks/_tables.py training.py density.py --repeats 3

Each script prints Markdown tables. The same cell of all runs becomes one cell: the median, and
``±`` half of the range in percent where that is at least 1 %. The result replaces the lines
between ``<!-- training.py -->`` and ``<!-- end -->`` in ``docs/benchmarks.md``.
"""

import argparse
import re
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
PAGES = {"derivatives.py": DOCS / "linalg.md"}  # the others stand in benchmarks.md
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*\.?\d*(?:e[+-]?\d+)?%?(?![\w.]*[A-Za-z_])")


def tables(script: str) -> list[str]:
    """Run a script; return the lines of the tables and sentences that it prints."""
    command = [sys.executable, str(HERE / script)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parents[1]
    )
    return [line.rstrip() for line in done.stdout.strip().splitlines()]


def merged(runs: list[list[str]]) -> list[str]:
    """Merge the same lines of several runs into one; lines that differ in words are an error."""
    if len({len(run) for run in runs}) != 1:
        raise ValueError(f"the runs printed {[len(run) for run in runs]} lines; expected as many")
    return [_line(lines) for lines in zip(*runs, strict=True)]


def _line(lines: tuple[str, ...]) -> str:
    words = {NUMBER.sub("#", line) for line in lines}
    numbers = [NUMBER.findall(line) for line in lines]
    if len(words) != 1:
        raise ValueError(f"the runs differ in more than numbers: {sorted(words)}")
    cells = iter([_figure(figures) for figures in zip(*numbers, strict=True)])
    return NUMBER.sub(lambda _: next(cells), lines[0])


def _figure(figures: tuple[str, ...]) -> str:
    """The median of a figure as it was printed, with half of its range."""
    values = [float(figure.strip("%").replace(",", "")) for figure in figures]
    middle = figures[values.index(statistics.median_low(values))]
    spread = (max(values) - min(values)) / 2 / max(abs(statistics.median(values)), 1e-300)
    return middle if spread < 0.01 else f"{middle} ±{100 * spread:.0f}%"


def write(page: Path, script: str, lines: list[str]) -> None:
    """Replace the tables of a script in a page."""
    text = page.read_text()
    start, end = f"<!-- {script} -->\n", "<!-- end -->"
    if start not in text:
        raise ValueError(f"{page.name} has no line {start.strip()}; add a section for {script}")
    before, rest = text.split(start, 1)
    _, after = rest.split(end, 1)
    page.write_text(before + start + "\n" + "\n".join(lines) + "\n\n" + end + after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scripts", nargs="*", help="all benchmarks by default")
    parser.add_argument("--repeats", type=int, default=3, help="runs per script")
    options = parser.parse_args()
    for script in options.scripts or sorted(path.name for path in HERE.glob("[!_]*.py")):
        runs = [tables(script) for _ in range(options.repeats)]
        lines = merged(runs)
        print("\n".join(lines), flush=True)
        write(PAGES.get(script, DOCS / "benchmarks.md"), script, lines)


if __name__ == "__main__":
    main()
