"""Audit the log-determinants of distrax and flowjax, using only their forward functions.

    python experiments/audit.py                      # all peers that are installed
    python experiments/audit.py --peers distrax

Every bijector has random constants. Its forward function is passed to ``funcdl.density`` as a plain
function, which derives the log-determinant from the operations, and the inverse by propagation or
Newton steps. Both are compared in float32 with the methods of the author's class. The reference is
the dense Jacobian in float64, or a closed form for functions of single numbers. The points are two
normal draws and two extremes of magnitude 20 and 100; round trips are judged at the draws. Writes a
folder with ``report.html``, ``audit.md`` and ``config.json``.

Cost: 6 minutes on one core, nearly all of it compilation. Result (distrax 0.1.9, flowjax 19.1.2,
jax 0.10.2): of 70 bijectors, our log-determinant is correct for 69, and the authors' for 68. Both
are -inf for one coupling at 100, where a scale underflows in float32; distrax's ``Lambda`` of sinh
is inf there. Our inverse is correct for 69, and the authors' for 66: flowjax has no inverse of
planar layers with a tanh and of block autoregressive nets; its ``Power`` raises on negative
numbers, which our search encounters.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

import _run

Peer = Literal["by hand", "distrax", "flowjax"]
# relative to 1 + abs(log_det), or to 1 + abs(x); rounding in float32 gives 1e-6
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings."""

    peers: tuple[Peer, ...] = ("by hand", "distrax", "flowjax")
    """Peers whose bijectors are audited; a peer that is not installed is reported and skipped."""
    draws: int = 2
    """Number of normally distributed points."""
    extremes: tuple[float, ...] = (20.0, 100.0)
    """Magnitudes of the extreme points."""
    only: str = ""
    """Part of the names of the bijectors to audit; others are skipped."""
    seed: int = 0
    """Seed of all random numbers."""
    out: Path | None = None
    """Folder of the run; runs/audit by default."""


TINY = {"peers": ("by hand",), "draws": 1, "extremes": (100.0,), "only": "sigmoid"}


class Point(NamedTuple):
    """The log-determinant at a point: the true one, ours and the claimed one."""

    scale: str
    truth: float
    ours: float
    claimed: float


class Row(NamedTuple):
    """The results for one bijector."""

    peer: str
    name: str
    points: list
    refusal: str
    """The reason for a missing log-determinant or inverse; empty if both exist."""
    ours: float | None
    """The largest error of a round trip with our inverse."""
    theirs: float | None
    """The largest error of a round trip with the author's inverse, or None without one."""

    def worst(self, of: str) -> tuple[float, str]:
        """Return the largest error of a log-determinant, and the scale of its point."""
        errors = [(error(getattr(p, of), p.truth), p.scale) for p in self.points]
        return max(errors, key=lambda pair: np.nan_to_num(pair[0], nan=np.inf), default=(0.0, ""))

    @property
    def verdict(self) -> str:
        """Describe who is correct."""
        if not self.points:
            return f"ours raised: {self.refusal}"
        beyond = [p for p in self.points if p.ours == p.claimed == -np.inf]
        if alike := [p for p in beyond if error(-np.inf, p.truth)]:
            return f"both -inf at {alike[0].scale}, where float32 underflows"
        told = [
            f"{who} {np.format_float_scientific(e, 0) if np.isfinite(e) else e} off at {at}"
            for who, (e, at) in (("ours", self.worst("ours")), ("peer", self.worst("claimed")))
            if not e <= TOLERANCE
        ]
        return "; ".join(told) or "agree"


def error(value: float, truth: float) -> float:
    """Return the error relative to 1 + abs(truth) in float32, where both may be infinite."""
    if abs(truth) > float(np.finfo(np.float32).max):
        truth = np.copysign(np.inf, truth)
    return 0.0 if value == truth else abs(value - truth) / (1 + abs(truth))


def main(config: Config) -> dict:
    """Run the experiment in its folder.

    Returns:
        ``folder``; ``rows``, one per bijector; ``missing``, the peers that are not installed.
    """
    return _run.conduct(experiment, config, "audit")


def experiment(config: Config, job: _run.Job) -> _run.Findings:
    """Audit every bijector of every peer that is installed."""
    rows, missing = [], []
    for peer, family in families().items():
        if peer not in config.peers:
            continue
        try:
            cases = family(np.random.default_rng(config.seed))
        except ModuleNotFoundError as absent:
            missing.append(peer)
            _run.say("audit", f"{peer} is skipped: {absent}")
            continue
        for case in cases:
            if config.only.lower() in case.name.lower():
                with job.clock(peer):
                    rows.append(audited(peer, case, config))
                _run.say("audit", f"{peer} {case.name}: {rows[-1].verdict}; {rows[-1].refusal}")
    found = {"rows": rows, "missing": missing}
    job.folder.joinpath("audit.md").write_text(markdown(rows))
    return _run.Findings(found, verdict(rows, missing), sections(rows, missing), {})


def families() -> dict[str, Callable]:
    """Return the functions that build the bijectors of each peer."""
    import _bijectors
    import _flowjax

    return {
        "by hand": _bijectors.by_hand,
        "distrax": _bijectors.of_distrax,
        "flowjax": _flowjax.of_flowjax,
    }


def points(case, config: Config) -> list[tuple[str, np.ndarray]]:
    """Return points of a domain with their names: normal draws, then extremes of both signs."""
    rng = np.random.default_rng(config.seed)
    drawn = [("a draw", rng.normal(size=case.shape)) for _ in range(config.draws)]
    signs = np.where(np.arange(np.prod(case.shape)) % 2, -1.0, 1.0).reshape(case.shape)
    into = {
        "real": (lambda z: z, lambda s: s * signs),
        "positive": (np.exp, lambda s: s**signs),
        "ball": (np.tanh, lambda s: (1 - 1 / s) * signs),
    }
    inside, extreme = into[case.domain]
    found = [(name, inside(z)) for name, z in drawn]
    found += [(f"{s:g}", extreme(s)) for s in config.extremes]
    return [(name, x.astype(np.float32)) for name, x in found]


def audited(peer: str, case, config: Config) -> Row:
    """Compare the claims for one bijector with the results from its forward function."""
    import jax.numpy as jnp

    from funcdl import density

    found, refusal, ours, theirs = [], "", [], []
    for scale, x in points(case, config):
        x = jnp.asarray(x)
        claimed = float(case.claim(x))
        try:
            checked = density.check(case.forward, x)
        except Exception as refused:  # the table shows any kind of error
            message = f"{type(refused).__name__}: {first_line(refused)}"
            return Row(peer, case.name, [], message, None, None)
        truth = checked.reference
        if case.slope is not None:
            truth = float(case.slope(np.asarray(x, "float64")).sum())
        found.append(Point(scale, truth, checked.log_det, claimed))
        refusal = first_line(checked.refusal or "")
        if scale == "a draw":
            ours.append(checked.round_trip)
            theirs.append(round_trip(case, x))
    largest = lambda errors: None if None in errors else max(errors, default=None)
    return Row(peer, case.name, found, refusal, largest(ours), largest(theirs))


def round_trip(case, x) -> float | None:
    """Return the error of a round trip with the author's inverse, or None without one."""
    try:
        again = case.inverse(case.forward(x))
    except NotImplementedError:
        return None
    return float((abs(again - x) / (1 + abs(x))).max())


def first_line(message: object) -> str:
    """Shorten a message; one of XLA contains a traceback, whose last line is kept."""
    lines = [line for line in str(message).split("\n") if "Error: " in line]
    return (lines[-1] if lines else str(message).split("\n")[0]).split(";")[0][:200]


def verdict(rows: list[Row], missing: list[str]) -> str:
    """Summarize the audit in one line."""
    judged = [r for r in rows if r.points]
    wrong = {of: sum(not r.worst(of)[0] <= TOLERANCE for r in judged) for of in ("ours", "claimed")}
    text = (
        f"{len(rows)} bijectors: our log-determinant is correct for {len(judged) - wrong['ours']}, "
        f"the authors' for {len(judged) - wrong['claimed']}; our inverse for "
        f"{count(rows, 'ours')}, the authors' for {count(rows, 'theirs')}"
    )
    return text + (f"; not installed: {', '.join(missing)}" if missing else "")


def count(rows: list[Row], of: str) -> int:
    """Count the round trips that are correct."""
    errors = [getattr(r, of) for r in rows]
    return sum(e is not None and e <= TOLERANCE for e in errors)


HEADER = (
    "peer", "bijector", "points", "ours against float64", "peer against float64", "verdict",
    "round trip, ours", "round trip, peer", "our error",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """Format a row."""
    number = lambda e: "" if e is None else f"{e:.0e}"
    errors = [number(row.worst(of)[0]) if row.points else "" for of in ("ours", "claimed")]
    trips = ["none" if e is None else number(e) for e in (row.ours, row.theirs)]
    return [row.peer, row.name, str(len(row.points)), *errors, row.verdict, *trips, row.refusal]


def markdown(rows: list[Row]) -> str:
    """Format the table in Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *map(cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def error_figure(rows: list[Row]) -> str:
    """Draw the largest error of every log-determinant, ours and the author's."""
    from funcdl import viz

    def draw(ax):
        for of, label, mark in (
            ("ours", "from the forward function", "o"),
            ("claimed", "claimed", "x"),
        ):
            errors = np.array([row.worst(of)[0] for row in rows])
            errors = np.clip(np.nan_to_num(errors, nan=np.inf), 1e-9, 1e3)
            ax.plot(errors, mark, fillstyle="none", markersize=4, label=label)
        ax.axhline(TOLERANCE, color="0.6", linewidth=0.8)
        ax.set(yscale="log", xlabel="bijector", ylabel="largest error, at most 1e3")
        ax.legend(frameon=False)

    return viz.figure(draw, alt="largest error of every log-determinant", size=(7, 3))


def sections(rows: list[Row], missing: list[str]) -> list:
    """Build the sections of the report: the table, and every point with an error."""
    from funcdl import viz

    body = (
        error_figure(rows)
        + viz.text(
            "Errors are the largest over the points, relative to 1 + |log-determinant|, or to 1 + "
            "|x| "
            f"for a round trip; errors up to {TOLERANCE:g} count as correct."
        )
        + viz.table([cells(row) for row in rows], header=HEADER)
    )
    if missing:
        body += viz.text(f"Not installed, and therefore skipped: {', '.join(missing)}.")
    off = [
        (row.peer, row.name, p.scale, f"{p.truth:.6g}", f"{p.ours:.6g}", f"{p.claimed:.6g}")
        for row in rows
        for p in row.points
        if not max(error(p.ours, p.truth), error(p.claimed, p.truth)) <= TOLERANCE
    ]
    header = ("peer", "bijector", "|x|", "true log-determinant", "ours", "claimed")
    errors = viz.table(off, header=header) if off else viz.text("none")
    return [viz.Section("Bijectors", body), viz.Section("Points with errors", errors)]


if __name__ == "__main__":
    _run.command_line(main, Config, __doc__)
