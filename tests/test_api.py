"""The public names and their arguments are written down; a change shows in the diff."""

import importlib
import inspect
from pathlib import Path

import pytest

FAMILIES = ("bernoulli", "categorical", "gaussian", "mixture", "student_t")
MEASURES = ("joint_table", "mi_bounds", "monte_carlo", "neighbors")
ROOMS = (
    *("linalg", "operators", "autodiff", "per_example", "curvature"),
    *("stats", "density", "flows", *(f"stats.{name}" for name in (*FAMILIES, *MEASURES))),
    *("losses", "nn", "nn.models", "data", "train", "viz"),
)
SNAPSHOT = Path(__file__).parent / "api.txt"


def public(room: str) -> dict:
    module = importlib.import_module(f"funcdl.{room}")
    names = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
    found = {n: getattr(module, n) for n in names}
    return {n: x for n, x in sorted(found.items()) if not inspect.ismodule(x)}


def line(room: str, name: str, x) -> str:
    if not callable(x):
        return f"{room}.{name}"
    if inspect.isclass(x) and issubclass(x, Exception):
        return f"{room}.{name} (exception)"
    parameters = inspect.signature(x).parameters.values()
    star = False
    words = []
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and not star:
            words.append("*")
            star = True
        words.append(("*" if p.kind is p.VAR_POSITIONAL else "") + p.name)
    return f"{room}.{name}({', '.join(words)})"


def test_the_public_api_is_the_one_written_down():
    lines = [line(room, name, x) for room in ROOMS for name, x in public(room).items()]
    now = "\n".join(lines) + "\n"
    assert now == SNAPSHOT.read_text(), f"if this is meant, write it to {SNAPSHOT.name}:\n{now}"


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_a_docstring(room):
    for name, x in public(room).items():
        if inspect.isclass(x) or inspect.isfunction(x):
            assert (x.__doc__ or "").strip(), f"{room}.{name} has no docstring"
        if inspect.isfunction(x):
            doc = inspect.getdoc(x)
            assert "Args:" in doc or not inspect.signature(x).parameters, f"{room}.{name}"
            assert "Returns:" in doc or "Yields:" in doc, f"{room}.{name}: no Returns"
