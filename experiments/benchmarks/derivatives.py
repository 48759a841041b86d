"""Check the derivatives of matrix functions at ties, for JAX's own formulas and funcdl's.

    python experiments/benchmarks/derivatives.py

Every function is differentiated once and twice at matrices of every shape and degeneracy. The
reference are fourth-order differences of NumPy in float64 at two step sizes. A cell holds the worst
results over the matrices of its column, for orders 1 / 2: ``ok``; the relative error if it is
finite and wrong; NaN; ``finite`` where no derivative exists; ``raises``. The result is that in
float64, followed by that in float32 if it differs. The tolerance is 1e-5 / 1e-3 in float64 and
1e-3 / 2e-2 in float32.

Cost: ten minutes, nearly all of it compilation. Result (jax 0.10.2): every cell of funcdl is ``ok``
or ``finite``; of the seventeen functions of JAX that can be differentiated, fifteen have a NaN or a
wrong cell. The table is in docs/linalg.md.
"""

import dataclasses
from collections.abc import Callable

from _differences import TOLERANCE, Verdict, judge
from _ties import KINDS, Row, rows


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    rows: tuple[str, ...] = ()
    """Names of the functions to check; all by default."""
    jax: bool = True
    """Whether to differentiate JAX's own formulas as well."""


TINY = {"rows": ("nuclear norm",), "jax": False}


def cell(verdicts: list[Verdict], dtype: str) -> str:
    """Format the worst of some verdicts, order 1 / order 2."""
    return " / ".join(word([v for v in verdicts if v.order == o], dtype, o) for o in (1, 2))


def word(verdicts: list[Verdict], dtype: str, order: int) -> str:
    """Format the worst of the verdicts of one order."""
    judged = [v for v in verdicts if v.error is not None]
    if not judged:
        return "finite" if all(v.finite for v in verdicts) else "NaN"
    if not all(v.finite for v in judged):
        return "NaN"
    worst = max(v.error for v in judged)
    return "ok" if worst < TOLERANCE[dtype][order - 1] else f"**{worst:.0e}**"


def table_row(row: Row, f: Callable) -> list[str]:
    """Check one side of a function in both precisions, with one cell per kind of matrix."""
    import jax.numpy as jnp

    cells = {}
    for dtype in map(jnp.dtype, ("float64", "float32")):
        name = dtype.name
        try:
            verdicts = [v for shape in row.shapes for v in judge(row, shape, f, dtype)]
        except NotImplementedError:
            return ["raises"] * len(KINDS)
        groups = [[v for v in verdicts if v.kind == kind] for kind in KINDS]
        cells[name] = [cell(group, name) if group else "" for group in groups]
    pairs = zip(cells["float64"], cells["float32"])
    return [wide if wide == narrow else f"{wide}; f32 {narrow}" for wide, narrow in pairs]


def main(config: Config) -> dict[tuple[str, str], list[str]]:
    """Print a markdown table of both sides.

    Returns:
        The cells of each function, by ``(name, "jax" or "funcdl")``.
    """
    import jax

    cells = {}
    with jax.enable_x64(True):
        print(f"| function | by | {' | '.join(KINDS)} |")
        print("|---" * (2 + len(KINDS)) + "|")
        for row in rows():
            if config.rows and row.name not in config.rows:
                continue
            sides = {"jax": row.theirs} if config.jax else {}
            for side, f in (sides | {"funcdl": row.ours}).items():
                cells[row.name, side] = table_row(row, f)
                print(f"| {row.name} | {side} | {' | '.join(cells[row.name, side])} |", flush=True)
    return cells


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
