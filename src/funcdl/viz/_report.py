"""One self-contained HTML file: no script, no network, every string escaped."""

import html
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple


class Section(NamedTuple):
    """A part of a report.

    Attributes:
        title: The heading of the section.
        body: HTML, from ``figure``, ``table`` and ``text``.
    """

    title: str
    body: str


def figure(
    draw: Callable,
    *,
    alt: str,
    size: tuple[float | int, float | int] = (5, 3),
    grid: tuple[int, int] = (1, 1),
) -> str:
    """Draw a figure as inline SVG; equal inputs give equal bytes.

    Args:
        draw: ``draw(ax)``, or ``draw(axes)`` of a grid with several.
        alt: A description of the figure for readers who cannot see it.
        size: Width and height in inches.
        grid: The numbers of rows and columns of axes.

    Returns:
        The figure as HTML.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {"svg.hashsalt": "funcdl", "svg.fonttype": "none", "font.size": 9}
    with mpl.rc_context(style | {"font.sans-serif": ["DejaVu Sans"]}):
        canvas = Figure(figsize=size, layout="constrained")  # no pyplot: no global state
        axes = canvas.subplots(*grid)
        draw(axes)
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(file, format="svg", metadata=no_metadata)
    label = f'<svg role="img" aria-label="{html.escape(alt, quote=True)}" '
    return label + _slim(file.getvalue())


def _slim(svg: str) -> str:
    """Drop the parts that a browser does not need: half of Matplotlib's bytes."""
    svg = svg[svg.index("<svg") + len("<svg ") :]
    for pattern, short in _SLIMMER:
        svg = pattern.sub(short, svg)
    return svg


def table(rows: Iterable[Sequence], *, header: Sequence[str] = (), bold: Sequence[int] = ()) -> str:
    """Format a table.

    Args:
        rows: The cells of each row, formatted by ``str``.
        header: The cells of the header.
        bold: The indices of the rows to print in bold.

    Returns:
        The table as HTML.
    """

    def line(cells: Sequence, tag: str, strong: bool = False) -> str:
        style = ' class="bold"' if strong else ""
        cells = "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)
        return f"<tr{style}>{cells}</tr>"

    head = line(header, "th") if header else ""
    return f"<table>{head}{''.join(line(r, 'td', i in bold) for i, r in enumerate(rows))}</table>"


def text(sentence: str) -> str:
    """Format a paragraph.

    Args:
        sentence: Plain text.

    Returns:
        The paragraph as HTML.
    """
    return f"<p>{html.escape(sentence)}</p>"


def report(
    path: str | os.PathLike, *, title: str, verdict: str, sections: Iterable[Section]
) -> Path:
    """Write a report, completely or not at all.

    Args:
        path: The path of the HTML file; its folder is created.
        title: The title of the page.
        verdict: The result in one line.
        sections: The sections, in order.

    Returns:
        The path.

    Raises:
        TypeError: If a section is not a ``Section``.
    """
    path, sections = Path(path), list(sections)
    for section in sections:
        if not isinstance(section, Section):
            raise TypeError(f"a section is a {type(section).__name__}; expected a viz.Section")
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"<section><h2>{html.escape(s.title)}</h2>{s.body}</section>" for s in sections]
    page = _PAGE.substitute(
        title=html.escape(title), verdict=html.escape(verdict), body="\n".join(parts)
    )
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


_SLIMMER = [
    (re.compile(r"<metadata>.*?</metadata>", re.DOTALL), ""),
    (re.compile(r'<g id="\w+\.?\w*">'), "<g>"),  # ids would clash between the figures of a page
    (re.compile(r"<[^>]*>"), lambda tag: re.sub(r"(\.\d{2})\d+", r"\1", tag[0])),  # not in text
    (re.compile(r"font-family: [^;\"]*"), "font-family: sans-serif"),
    (re.compile(r" transform=\"rotate\(-0 [^)]*\)\""), ""),
    (re.compile(r"\s*\n\s*"), " "),
    (re.compile(r"> <"), "><"),
]

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body{font:15px/1.5 system-ui,sans-serif;color:#1b1f24;max-width:1060px;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.5rem;margin:0}
h2{font-size:1.05rem;margin:2rem 0 .5rem;border-bottom:1px solid #d9dee3}
.verdict{font-size:1.1rem;background:#eef5ee;border-left:4px solid #3a7d44;padding:.6rem 1rem}
table{border-collapse:collapse;font-size:.85rem;margin:.5rem 1.5rem .5rem 0;display:inline-block;
vertical-align:top;max-width:100%;overflow-x:auto}
td,th{text-align:left;padding:.15rem .8rem .15rem 0;border-bottom:1px solid #eceff1;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.bold td{font-weight:700}svg{max-width:100%;height:auto;vertical-align:top}p{margin:.4rem 0}
</style></head><body><h1>$title</h1><p class="verdict">$verdict</p>
$body
</body></html>
""")
