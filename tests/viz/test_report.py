"""A report is one file that needs nothing else, says the same twice, and is whole or not there."""

import html
import re
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest

from funcdl import viz
from funcdl.operators import EigenPairs, Estimate, SpectralDensity
from funcdl.train import History

SEED = 0
NASTY = "<script>alert('x')</script> & \"quoted\" http://evil.example"


def realistic():
    """A training of 2 000 steps, 360 test digits, ten eigenvalues, eight probes, ten leaves."""
    rng = np.random.default_rng(SEED)
    steps = np.arange(1, 2001)
    loss = np.exp(-steps / 400 + 0.2 * rng.normal(size=2000))
    history = History(
        steps,
        {"loss": loss, "accuracy": 1 - loss / 5},
        [(i, {"loss": 0.3}) for i in range(100, 2001, 100)],
        1.0,
        2.0,
    )
    logits, labels = rng.normal(size=(360, 10)), rng.integers(0, 10, 360)
    metrics = {"loss": Estimate(0.081, 0.012), "accuracy": Estimate(0.978, 0.008)}
    values = np.sort(rng.exponential(size=10))[::-1] * 10
    pairs = EigenPairs(values, None, values / 1e3, values > values.min(), np.int32(64))
    nodes = rng.normal(size=(8, 20)).astype(np.float32)
    spectrum = SpectralDensity(nodes, np.full((8, 20), 0.05, np.float32), 0.1, 160)
    params = {f"layer_{i}": {"kernel": jnp.ones(i + 1), "bias": jnp.zeros(2)} for i in range(5)}
    return [
        viz.training_section(history),
        viz.classification(metrics, logits, labels, rng.random((360, 8, 8, 1))),
        viz.curvature_section(
            pairs,
            spectrum,
            Estimate(31.0, 2.0, 32),
            subset="all",
            sampling=Estimate(values, values / 9),
        ),
        viz.norms_section(params, params),
        viz.settings_section(
            "Configuration", {"epochs": 40, "seed": 1}, default={"epochs": 40, "seed": 0}
        ),
        viz.Section("Notes", viz.text(NASTY) + viz.table([(NASTY, 1)], header=(NASTY, "n"))),
    ]


@pytest.fixture(scope="module")
def sections():
    return realistic()


@pytest.fixture(scope="module")
def page(sections, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    assert viz.report(path, title=NASTY, verdict=NASTY, sections=sections) == path
    return path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Reads a page as a browser would."""

    def __init__(self, page: str):
        super().__init__()
        self.found, self.open, self.texts = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_it_needs_no_script_and_no_network(page):
    tags = Tags(page)
    assert "<script" not in page.lower()
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in tags.found}
    addresses = set(re.findall(r"https?://[^\s\"'<&;]*", page))
    assert {a for a in addresses if not a.startswith("http://www.w3.org/")} == {
        "http://evil.example"
    }
    for tag, attributes in tags.found:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in {"src", "action"} or value.startswith("data:"), (tag, name)
            assert name not in {"href", "xlink:href"} or value.startswith(("#", "data:")), (
                tag,
                value,
            )


def test_every_string_of_the_user_is_shown_as_it_is(page):
    texts = Tags(page).texts
    assert texts.count(NASTY) == 6  # title, heading, verdict, paragraph, cell, header
    assert page.count(html.escape(NASTY)) == 6


def test_its_tags_are_closed_and_every_figure_says_what_it_shows(page):
    tags = Tags(page)
    assert tags.open == []
    figures = [attributes for tag, attributes in tags.found if tag == "svg"]
    assert len(figures) == 7
    assert all(f["role"] == "img" and f["aria-label"] for f in figures)


def test_ids_are_unique_on_the_page_or_refer_to_the_same(page):
    ids = re.findall(r' id="([^"]+)"', page)
    bodies = {}
    for name in set(ids):
        found = re.findall(rf'<(\w+) id="{re.escape(name)}"([^>]*)>', page)
        bodies[name] = set(found)
    assert {name: found for name, found in bodies.items() if len(found) > 1} == {}
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | set(
        re.findall(r'xlink:href="#([^"]+)"', page)
    )
    assert used <= set(ids)


def test_a_realistic_report_is_light(page):
    assert len(page.encode()) < 150_000


def test_equal_results_give_equal_bytes(page, tmp_path):
    path = viz.report(tmp_path / "again.html", title=NASTY, verdict=NASTY, sections=realistic())
    assert path.read_text(encoding="utf-8") == page


def test_numbers_written_in_a_figure_keep_their_digits():
    drawn = viz.figure(lambda ax: ax.set(title="0.03512", xlim=(0.0, 0.0375)), alt="a title")
    assert ">0.03512<" in drawn
    assert not re.search(r'x="\d+\.\d{3}', drawn)  # where a coordinate needs two


def test_figures_keep_their_names_apart_when_values_differ():
    one, two = (viz.figure(lambda ax, y=y: ax.plot([0, y]), alt="line") for y in (1, 2))
    assert one != two
    assert one == viz.figure(lambda ax: ax.plot([0, 1]), alt="line")


def fail(_):
    raise RuntimeError("pen is empty")


def test_a_failure_while_drawing_leaves_the_old_report(tmp_path):
    path = viz.report(tmp_path / "report.html", title="old", verdict="", sections=[])
    before = path.read_bytes()
    failing = (viz.Section("Bad", viz.figure(fail, alt="")) for _ in range(1))
    with pytest.raises(RuntimeError, match="pen is empty"):
        viz.report(path, title="new", verdict="", sections=failing)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_while_writing_leaves_the_old_report(tmp_path, monkeypatch):
    path = viz.report(tmp_path / "report.html", title="old", verdict="", sections=[])
    before = path.read_bytes()

    def full(self, *args, **kwargs):
        with self.open("w") as file:
            file.write("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_text", full)
    with pytest.raises(OSError, match="No space"):
        viz.report(path, title="new", verdict="", sections=[])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "report.html"
    for title in ("first", "second"):
        viz.report(path, title=title, verdict="", sections=[])
        assert f"<h1>{title}</h1>" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_dollars_in_a_text_are_no_placeholders(tmp_path):
    section = viz.Section("$title", viz.text("costs $body"))
    page = viz.report(tmp_path / "r.html", title="$5", verdict="$x", sections=[section]).read_text()
    assert all(text in page for text in ("<h1>$5</h1>", "$x", "<h2>$title</h2>", "costs $body"))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.98765, 0.00432, "0.9877 ± 0.0043"),
        (0.978, 0.008, "0.9780 ± 0.0080"),
        (31.4159, 2.7, "31.4 ± 2.7"),
        (1234.5, 120.0, "1234 ± 120"),
        (1234567.0, 95.0, "1234567 ± 95"),
        (-0.5, 0.0999, "-0.50 ± 0.10"),
        (1e-9, 3e-10, "1.00e-09 ± 3.0e-10"),
        (0.0, 3e-10, "0.0e+00 ± 3.0e-10"),
        (2.0, 0.0, "2 ± 0"),
        (2.5, float("nan"), "2.5 ± nan"),
        (float("nan"), 0.1, "nan ± 0.1"),
        (float("inf"), float("inf"), "inf ± inf"),
    ],
)
def test_an_estimate_has_as_many_digits_as_its_error_justifies(value, error, text):
    assert viz.plus_minus(Estimate(value, error)) == text


def test_settings_that_differ_from_the_default_are_bold():
    section = viz.settings_section("S", {"a": 1, "b": 2}, default={"a": 1, "b": 3})
    bold = re.findall(r'<tr class="bold">(.*?)</tr>', section.body)
    assert bold == ["<td>b</td><td>2</td><td>default 3</td>"]


def test_the_test_section_counts_what_was_taken_for_what():
    logits = np.eye(3)[[0, 1, 1, 2]] * 5
    section = viz.classification(
        {"accuracy": Estimate(0.75, 0.2)}, logits, np.asarray([0, 1, 2, 2])
    )
    assert "0.75 ± 0.20" in section.body
    assert len(re.findall(r"<svg", section.body)) == 1


def test_the_worst_examples_come_first():
    logits = np.asarray([[9.0, 0], [0, 9.0], [4.0, 0], [0, 1.0]])
    pictures, labels = np.zeros((4, 5, 5, 1)), np.asarray([1, 1, 1, 1])
    body = viz.classification({}, logits, labels, pictures, worst=2).body
    losses = re.findall(r"loss (\d+\.\d+)", body)
    assert losses == ["9.00", "4.02"]


def test_curvature_names_the_subset_and_what_did_not_converge(sections):
    body = sections[2].body
    assert "Hessian of the mean loss on all." in body
    assert body.count("<td>yes</td>") == 9
    assert body.count("<td>no</td>") == 1
    assert "31.0 ± 2.0" in body
