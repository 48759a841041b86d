"""Audit the log-determinants that distrax and flowjax claim, from their forward functions alone.

    python experiments/audit.py                      # of what is installed
    python experiments/audit.py --peers distrax

Every bijector gets random constants. Its forward function is handed to ``funcdl.density`` as a
plain function: the log-determinant is found in its operations, its inverse by propagation or Newton
steps, and both are compared, in float32, with what the author's class claims. The judge is the
dense Jacobian in float64, or the closed form of functions of single numbers. Points are two normal
draws and two extremes, of magnitude 20 and 100; round trips are judged at the draws. Leaves a
folder with ``report.html``, ``audit.md`` and ``config.json``.

Cost: 6 minutes on one core, nearly all of it compiling. Result (distrax 0.1.9, flowjax 19.1.2, jax
0.10.2): of 70 bijectors our log-determinant is right of 69, the authors' of 68. Both are -inf for
one coupling at 100, where a scale underflows in float32; distrax's ``Lambda`` of sinh is inf there.
Our inverse is right of 69, the authors' of 66: flowjax has none of planar layers with a tanh and of
block autoregressive nets; its ``Power`` raises on negative numbers, which our search meets.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

import _run

Peer = Literal["by hand", "distrax", "flowjax"]
# relative to 1 + abs(log_det), or to 1 + abs(x): rounding of float32 gives 1e-6
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings."""

    peers: tuple[Peer, ...] = ("by hand", "distrax", "flowjax")
    """Whose bijectors are audited; a peer that is not installed is named and left out."""
    draws: int = 2
    """Normal points."""
    extremes: tuple[float, ...] = (20.0, 100.0)
    """Magnitudes of the points beyond them."""
    only: str = ""
    """Part of a bijector's name; the others are left out."""
    seed: int = 0
    out: Path | None = None
    """Folder of the run; runs/audit by default."""


TINY = {"peers": ("by hand",), "draws": 1, "extremes": (100.0,), "only": "sigmoid"}


class Point(NamedTuple):
    """A log-determinant three times."""

    scale: str
    truth: float
    ours: float
    claimed: float


class Row(NamedTuple):
    """What was found of one bijector."""

    peer: str
    name: str
    points: list
    refusal: str
    """Why there is no log-determinant, or no inverse; empty if there are both."""
    ours: float | None
    """The largest error of a round trip."""
    theirs: float | None
    """The same of the author's inverse; None if it has none."""

    def worst(self, of: str) -> tuple[float, str]:
        """Return the largest error of a log-determinant, and where."""
        errors = [(error(getattr(p, of), p.truth), p.scale) for p in self.points]
        return max(errors, key=lambda pair: np.nan_to_num(pair[0], nan=np.inf), default=(0.0, ""))

    @property
    def verdict(self) -> str:
        """Say who is right."""
        if not self.points:
            return f"ours refused: {self.refusal}"
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
    """The error relative to 1 + abs(truth), in float32, where both may be infinite."""
    if abs(truth) > float(np.finfo(np.float32).max):
        truth = np.copysign(np.inf, truth)
    return 0.0 if value == truth else abs(value - truth) / (1 + abs(truth))


def main(config: Config) -> dict:
    """Run the experiment in its folder.

    Returns:
        ``folder``; ``rows``, one a bijector; ``missing``, the peers that are not installed.
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
            _run.say("audit", f"{peer} is left out: {absent}")
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
    """Return what makes the bijectors of each peer."""
    import _bijectors
    import _flowjax

    return {
        "by hand": _bijectors.by_hand,
        "distrax": _bijectors.of_distrax,
        "flowjax": _flowjax.of_flowjax,
    }


def points(case, config: Config) -> list[tuple[str, np.ndarray]]:
    """Return names and points of a domain: normal draws, then extremes of both signs."""
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
    """Compare the claims for one bijector with what its forward function says."""
    import jax.numpy as jnp

    from funcdl import density

    found, refusal, ours, theirs = [], "", [], []
    for scale, x in points(case, config):
        x = jnp.asarray(x)
        claimed = float(case.claim(x))
        try:
            checked = density.check(case.forward, x)
        except Exception as refused:  # whatever it is, the table names it
            told = f"{type(refused).__name__}: {first_line(refused)}"
            return Row(peer, case.name, [], told, None, None)
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
    """The error of the author's inverse, None if there is none."""
    try:
        again = case.inverse(case.forward(x))
    except NotImplementedError:
        return None
    return float((abs(again - x) / (1 + abs(x))).max())


def first_line(message: object) -> str:
    """Cut a message; one of XLA holds a traceback, of which the last line counts."""
    lines = [line for line in str(message).split("\n") if "Error: " in line]
    return (lines[-1] if lines else str(message).split("\n")[0]).split(";")[0][:200]


def verdict(rows: list[Row], missing: list[str]) -> str:
    """Sum up in one line."""
    judged = [r for r in rows if r.points]
    wrong = {of: sum(not r.worst(of)[0] <= TOLERANCE for r in judged) for of in ("ours", "claimed")}
    text = (
        f"{len(rows)} bijectors: our log-determinant right of {len(judged) - wrong['ours']}, the "
        f"authors' of {len(judged) - wrong['claimed']}; inverse {count(rows, 'ours')} and "
        f"{count(rows, 'theirs')}"
    )
    return text + (f"; not installed: {', '.join(missing)}" if missing else "")


def count(rows: list[Row], of: str) -> int:
    """Count round trips that are right."""
    errors = [getattr(r, of) for r in rows]
    return sum(e is not None and e <= TOLERANCE for e in errors)


HEADER = (
    "peer", "bijector", "points", "ours against float64", "peer against float64", "verdict",
    "round trip, ours", "round trip, peer", "ours refused",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """Write a row."""
    number = lambda e: "" if e is None else f"{e:.0e}"
    errors = [number(row.worst(of)[0]) if row.points else "" for of in ("ours", "claimed")]
    trips = ["none" if e is None else number(e) for e in (row.ours, row.theirs)]
    return [row.peer, row.name, str(len(row.points)), *errors, row.verdict, *trips, row.refusal]


def markdown(rows: list[Row]) -> str:
    """Write the table."""
    lines = [HEADER, ["---"] * len(HEADER), *map(cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def sections(rows: list[Row], missing: list[str]) -> list:
    """Make the report's sections: the table, and every point where somebody is off."""
    from funcdl import viz

    body = viz.text(
        "Errors are the largest over the points, relative to 1 + |log-determinant|, or to 1 + |x| "
        f"of a round trip; up to {TOLERANCE:g} is right."
    ) + viz.table([cells(row) for row in rows], header=HEADER)
    if missing:
        body += viz.text(f"Not installed, and left out: {', '.join(missing)}.")
    off = [
        (row.peer, row.name, p.scale, f"{p.truth:.6g}", f"{p.ours:.6g}", f"{p.claimed:.6g}")
        for row in rows
        for p in row.points
        if not max(error(p.ours, p.truth), error(p.claimed, p.truth)) <= TOLERANCE
    ]
    header = ("peer", "bijector", "|x|", "true log-determinant", "ours", "claimed")
    told = viz.table(off, header=header) if off else viz.text("none")
    return [viz.Section("Bijectors", body), viz.Section("Where somebody is off", told)]


if __name__ == "__main__":
    _run.command_line(main, Config, __doc__)
