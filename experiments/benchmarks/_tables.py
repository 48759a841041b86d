"""Run benchmarks several times and write their tables, with the spread of every figure.

    python experiments/benchmarks/_tables.py training.py density.py --repeats 3
    python experiments/benchmarks/_tables.py --path DIR   # with MNIST's IDX files

Each script prints Markdown tables. The same cell of all runs becomes one cell: the median, and
``±`` half of the range in percent where that is at least 1 %, or "low to high" where it exceeds
50 % or has no meaning. A cell whose words differ is that of the first run. The result replaces the
lines between ``<!-- training.py -->`` and ``<!-- end -->`` in ``docs/benchmarks.md``. The
output of each run is kept in ``runs/bench/training-1.txt`` and so on.
"""

import argparse
import ast
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOCS = ROOT / "docs"
RAW = ROOT / "runs" / "bench"
PAGES = {"derivatives.py": DOCS / "linalg.md"}  # the others stand in benchmarks.md
NUMBER = re.compile(
    r"(?<![\w.])(-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?)(%|×|[mnµμ]?s|[kMG]?B)?(?!\w|\.\w)"
)
BOLD = re.compile(r"(\*\*.+?\*\*)")


def takes_path(script: Path) -> bool:
    """Tell whether the ``Config`` of a script has a field ``path``, without importing it."""
    classes = [n for n in ast.parse(script.read_text()).body if isinstance(n, ast.ClassDef)]
    return any(
        isinstance(field, ast.AnnAssign) and ast.unparse(field.target) == "path"
        for config in classes
        if config.name == "Config"
        for field in config.body
    )


def output(script: Path, run: int, path: Path | None, raw: Path) -> list[str]:
    """Run a script, keep its output in a file, and return its lines."""
    flags = ["--path", str(path.resolve())] if path and takes_path(script) else []
    command = [sys.executable, str(script), *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    raw.mkdir(parents=True, exist_ok=True)
    (raw / f"{script.stem}-{run}.txt").write_text(done.stdout)
    done.check_returncode()
    return [line.rstrip() for line in done.stdout.strip().splitlines()]


def merged(runs: list[list[str]]) -> list[str]:
    """Merge the same lines of several runs, cell by cell; the first run decides on words."""
    if len({len(run) for run in runs}) != 1:
        counts = [len(run) for run in runs]
        print(f"the runs printed {counts} lines; only the first run is shown", file=sys.stderr)
        return runs[0]
    return [_line(lines) for lines in zip(*runs, strict=True)]


def _line(lines: tuple[str, ...]) -> str:
    rows = [line.split("|") for line in lines]  # a line that is no row is one cell
    if len({len(row) for row in rows}) != 1:
        return lines[0]
    return "|".join(_cell(cells) for cells in zip(*rows, strict=True))


def _cell(cells: tuple[str, ...]) -> str:
    words = {NUMBER.sub(r"#\2", " ".join(cell.split())) for cell in cells}
    if len(words) != 1:
        return cells[0]
    numbers = zip(*([found[1] for found in NUMBER.finditer(cell)] for cell in cells), strict=True)
    figures = iter([_figure(texts) for texts in numbers])
    parts = [_part(part, figures) for part in BOLD.split(cells[0])]
    return "".join(parts)


def _part(part: str, figures) -> str:
    """Replace the numbers of a part of a cell; notes on bold numbers stand behind the bold text."""
    notes = []

    def replacement(found: re.Match) -> str:
        (low, middle, high), note = next(figures)
        unit = found[2] or ""
        spread = f"{low}{unit} to {high}{unit}"
        if BOLD.fullmatch(part):
            notes.append(f" ({spread})" if note == "range" else note)
            return f"{middle}{unit}"
        return spread if note == "range" else f"{middle}{unit}{note}"

    return NUMBER.sub(replacement, part) + "".join(notes)


def _figure(texts: tuple[str, ...]) -> tuple[tuple[str, str, str], str]:
    """The lowest, median and highest text of a number, and its note: nothing, ± or "range"."""
    values = [float(text.replace(",", "")) for text in texts]
    low, middle, high = min(values), statistics.median_low(values), max(values)
    three = tuple(texts[values.index(value)] for value in (low, middle, high))
    if low == high:
        return three, ""
    center = abs(statistics.median(values))
    spread = (high - low) / 2 / center if center else math.inf
    if low < 0 < high or not spread <= 0.5:
        return three, "range"
    return three, "" if spread < 0.01 else f" ±{100 * spread:.0f}%"


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
    parser.add_argument(
        "--path", type=Path, help="folder of MNIST's IDX files, where a script reads it"
    )
    options = parser.parse_args()
    for script in options.scripts or sorted(path.name for path in HERE.glob("[!_]*.py")):
        count = range(1, options.repeats + 1)
        runs = [output(HERE / script, i, options.path, RAW) for i in count]
        lines = merged(runs)
        print("\n".join(lines), flush=True)
        write(PAGES.get(script, DOCS / "benchmarks.md"), script, lines)


if __name__ == "__main__":
    main()
