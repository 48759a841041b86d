"""The public names and their arguments are written down; a change shows in the diff."""

import importlib
import inspect
import re
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
PAGE = Path(__file__).parent.parent / "docs" / "reference.md"


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


def snapshot() -> str:
    lines = [line(room, name, x) for room in ROOMS for name, x in public(room).items()]
    return "\n".join(lines) + "\n"


def reference() -> str:
    """A page with every public name, its signature and the first sentence of its docstring."""
    parts = [
        "# Reference\n\nEvery public name. `help` shows shapes, errors, the source and an example."
    ]
    for room in ROOMS:
        module = importlib.import_module(f"funcdl.{room}")
        parts.append(f"## {room}\n\n{plain(first(module))}\n\n| name | purpose |\n|---|---|")
        for name, x in public(room).items():
            call = line(room, name, x).removeprefix(f"{room}.").replace("|", "\\|")
            has_doc = inspect.isclass(x) or inspect.isroutine(x)
            about = first(x) if has_doc else f"A constant, a `{type(x).__name__}`."
            parts[-1] += f"\n| `{call}` | {plain(about)} |"
    return "\n\n".join(parts) + "\n"


def first(x) -> str:
    paragraph = (inspect.getdoc(x) or "").split("\n\n")[0]
    return " ".join(paragraph.split())


def plain(text: str) -> str:
    """reStructuredText as Markdown, in a cell of a table."""
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text.replace("``", "`"))
    return text.replace("|", "\\|")


def test_the_public_api_is_the_one_written_down():
    assert snapshot() == SNAPSHOT.read_text(), "if this is meant, run `python tests/test_api.py`"


def test_the_reference_has_the_public_api():
    assert reference() == PAGE.read_text(), "run `python tests/test_api.py`"


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_a_docstring(room):
    for name, x in public(room).items():
        if inspect.isclass(x) or inspect.isfunction(x):
            assert (x.__doc__ or "").strip(), f"{room}.{name} has no docstring"
        if inspect.isfunction(x):
            doc = inspect.getdoc(x)
            assert "Args:" in doc or not inspect.signature(x).parameters, f"{room}.{name}"
            assert "Returns:" in doc or "Yields:" in doc, f"{room}.{name}: no Returns"


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot())
    PAGE.write_text(reference())
