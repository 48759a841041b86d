"""The README's examples run as they stand, and print correct results."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
LIMITS = 8, 20, 6  # bring a loss; train, then look; a log-determinant


def run(number: int, capsys) -> dict:
    """Run an example that prints something, and return its names."""
    # fewer examples, epochs and eigenvalues: every line runs, none takes long
    code = EXAMPLES[number].replace("epochs=40", "epochs=10").replace("hessian, 10,", "hessian, 2,")
    code = code.replace("data.digits()", "jax.tree.map(lambda x: x[:128], data.digits())")
    names = {}
    exec(compile(code, f"README.md example {number}", "exec"), names)
    assert capsys.readouterr().out.strip()
    return names


def test_the_readme_and_its_examples_are_short():
    assert len(README.splitlines()) <= 120
    counts = [sum(bool(line.strip()) for line in example.splitlines()) for example in EXAMPLES]
    assert len(counts) == len(LIMITS)
    assert all(count <= limit for count, limit in zip(counts, LIMITS))


@pytest.mark.parametrize("number", [0, 1])
def test_an_example_finds_eigenvalues_of_a_hessian(number, capsys):
    names = run(number, capsys)
    assert names["hessian"].symmetric
    assert names["pairs"].converged.all()


def test_the_last_example_computes_a_log_determinant_and_inverts(capsys):
    names = run(2, capsys)
    x = np.asarray([0.5, -1.0])
    np.testing.assert_allclose(names["log_det"], np.log(np.cosh(x)).sum(), rtol=1e-6)
    np.testing.assert_allclose(names["density"].inverse(names["f"])(names["y"]), x, rtol=1e-5)


def test_every_experiment_is_in_the_gallery():
    gallery = (ROOT / "docs" / "gallery.md").read_text()
    for script in (ROOT / "experiments").glob("[!_]*.py"):
        assert f"experiments/{script.name}" in gallery


def test_nothing_was_left_open():
    assert "@@" not in README
