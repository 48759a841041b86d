"""The examples of the pages run, in their order, and print what the pages say."""

import re
from pathlib import Path

import jax
import numpy as np
import optax

from funcdl import data, flows, train

DOCS = Path(__file__).parent.parent / "docs"


def run(page: str, capsys) -> tuple[dict, str]:
    """Run all examples of a page in one namespace."""
    names = {}
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)):
        exec(compile(code, f"docs/{page} example {i}", "exec"), names)
    return names, capsys.readouterr().out


def test_streams(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names, out = run("streams.md", capsys)
    assert "[ 1. -2.  3.  0.]" in out
    assert "[ 1. -2.]" in out
    assert len(next(iter(names["threaded"]))) == len(next(iter(names["stream"]))) == 16
    assert names["record"].broken
    origin = names["origin"]
    assert origin.layer == "Net/Middle_0"
    assert origin.derivative
    assert "docs/streams.md example 3" in origin.place
    assert (tmp_path / "positions").exists() is False  # fewer than 100 batches were read


def test_flows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(400, 2))
    np.savetxt("moons.csv", x, delimiter=",")
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "flows.md").read_text(), re.S)
    names = {"data": data, "flows": flows, "train": train, "optax": optax}
    keys = jax.random.split(jax.random.key(0), 3)
    names |= zip(("key_split", "key_order", "key_init"), keys)
    exec(compile(code.replace("steps=3000", "steps=3"), "docs/flows.md", "exec"), names)
    assert abs(names["nats"] - (1 + np.log(2 * np.pi))) < 0.2  # the entropy of a normal point


def test_reading_prints_what_it_says(capsys):
    text = (DOCS / "reading.md").read_text()
    _, out = run("reading.md", capsys)
    assert out == "".join(re.findall(r"```text\n(.*?)```", text, re.DOTALL))


def test_every_page_is_in_the_index_and_every_link_leads_somewhere():
    index = (DOCS / "index.md").read_text()
    for page in DOCS.glob("*.md"):
        assert page.name == "index.md" or f"({page.name}" in index, page.name
    for page in [*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
