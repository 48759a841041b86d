"""The tables of benchmarks: what several runs printed becomes one table with spreads."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "experiments" / "benchmarks"


def load(script: Path):
    spec = importlib.util.spec_from_file_location(f"benchmark_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = load(BENCHMARKS / "_tables.py")

# what three runs print in a cell -> what is shown
CELLS = {
    "equal numbers": (["10", "10", "10"], "10"),
    "a spread": (["9.0", "10.0", "11.0"], "10.0 ±10%"),
    "a spread below 1 %": (["10.00", "10.01", "10.02"], "10.01"),
    "thousands": (["1,000", "1,100", "1,200"], "1,100 ±9%"),
    "two figures": (["9 (1.00)", "10 (1.00)", "11 (1.00)"], "10 ±10% (1.00)"),
    "a unit": (["1.5×", "1.6×", "1.7×"], "1.6× ±6%"),
    "a unit of letters": (["9ms", "10ms", "11ms"], "10ms ±10%"),
    "percent": (["9%", "10%", "11%"], "10% ±10%"),
    "bold": (["**1.5×**", "**1.6×**", "**1.7×**"], "**1.6×** ±6%"),
    "bold words": (["**9 ms, best**", "**10 ms, best**", "**11 ms, best**"],
                   "**10 ms, best** ±10%"),
    "bold range": (["**1**", "**3**", "**9**"], "**3** (1 to 9)"),
    "median 0": (["0", "0", "2"], "0 to 2"),
    "another sign": (["-1.0", "10.0", "11.0"], "-1.0 to 11.0"),
    "a large spread": (["1e-07", "4e-07", "9e-07"], "1e-07 to 9e-07"),
    "a range with unit": (["1×", "3×", "9×"], "1× to 9×"),
    "negative numbers": (["-9", "-10", "-11"], "-10 ±10%"),
    "nan": (["nan", "nan", "nan"], "nan"),
    "one nan": (["3.0", "nan", "5.0"], "3.0"),
    "inf": (["inf", "inf", "inf"], "inf"),
    "other words": (["torch 3", "jax 4", "torch 5"], "torch 3"),
    "names": (["float32 in 2.13.0, conv1x1"] * 3, "float32 in 2.13.0, conv1x1"),
}  # fmt: skip


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_merged_from_its_runs(name):
    runs, expected = CELLS[name]
    assert tables.merged([[f"| job | {cell} |"] for cell in runs]) == [f"| job | {expected} |"]
    assert tables.merged([[cell] for cell in runs]) == [expected]


def test_a_cell_with_other_words_leaves_its_neighbors_merged():
    runs = [["| a | best torch | 9 |"], ["| a | best jax | 10 |"], ["| a | best torch | 11 |"]]
    assert tables.merged(runs) == ["| a | best torch | 10 ±10% |"]


def test_runs_of_other_lines_or_cells_show_the_first(capsys):
    assert tables.merged([["| a | 1 |"], ["| a |"]]) == ["| a | 1 |"]
    assert tables.merged([["one"], ["one", "two"]]) == ["one"]
    assert "[1, 2] lines" in capsys.readouterr().err


CONFIG = """import sys
class Config:
    {field}: int = 0
print("|", *sys.argv[1:], "| 1 |")
sys.exit({code})
"""


@pytest.mark.parametrize(("field", "is_passed"), [("path", True), ("steps", False)])
def test_a_path_is_passed_to_scripts_that_take_one(field, is_passed, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(CONFIG.format(field=field, code=0))
    (line,) = tables.output(script, 1, tmp_path, tmp_path / "raw")
    assert (f"--path {tmp_path}" in line) == is_passed
    assert "--path" not in tables.output(script, 2, None, tmp_path / "raw")[0]


def test_what_a_run_printed_is_kept_even_if_it_failed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(CONFIG.format(field="steps", code=3))
    with pytest.raises(subprocess.CalledProcessError):
        tables.output(script, 2, None, tmp_path / "raw")
    assert (tmp_path / "raw" / "script-2.txt").read_text() == "| | 1 |\n"


def test_the_benchmarks_that_read_mnist_take_a_path():
    taking = {path.stem for path in BENCHMARKS.glob("[!_]*.py") if tables.takes_path(path)}
    assert taking == {"decompositions", "mixtures"}
