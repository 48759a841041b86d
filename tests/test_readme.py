"""The README's examples run as they stand, and say what they promise."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_two_examples_and_the_long_one_has_twenty_lines():
    assert len(EXAMPLES) == 2
    assert len([line for line in EXAMPLES[0].splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize("number", [0, 1])
def test_an_example_runs(number, capsys):
    # fewer examples, epochs and eigenvalues: every line runs, none is waited for
    code = EXAMPLES[number].replace("epochs=40", "epochs=10").replace("hessian, 10,", "hessian, 2,")
    code = code.replace("data.digits()", "jax.tree.map(lambda x: x[:128], data.digits())")
    names = {}
    exec(compile(code, f"README.md example {number}", "exec"), names)
    assert capsys.readouterr().out.strip()
    assert names["hessian"].symmetric


def test_every_experiment_is_in_the_table():
    for script in (Path(__file__).parent.parent / "experiments").glob("[!_]*.py"):
        assert f"experiments/{script.name}" in README


def test_nothing_was_left_open():
    assert "@@" not in README
