"""Programs that keep a state of their own around the ``opt_state`` of an inner program.

The invariant: the inner program only ever sees a run with its own ``opt_state``. Between steps,
``run.opt_state`` is a NamedTuple whose field ``inner`` holds that state and whose other fields
belong to the transform, so they are saved, vmapped and donated with the rest of the run.
"""

from collections.abc import Callable
from typing import Any

import jax

from funcdl.train._program import Program, Run, check_run


def wrapped(
    program: Program, start: Callable[..., Any], advance: Callable[..., tuple[Run, Any, dict]]
) -> Program:
    """Wrap a program in a transform that carries a state of its own.

    Args:
        program: The inner program.
        start: ``start(run, batch) -> own``, called with the initial run of the inner program. The
            result is a NamedTuple whose field ``inner`` is ``run.opt_state``.
        advance: ``advance(run, own, batch) -> (run, own, metrics)``, which calls ``program.step``
            once. Both runs are those of the inner program; the field ``inner`` of the returned
            ``own`` is ignored.

    Returns:
        The program with the wider run.
    """

    def init(key, batch, hyper: dict | None = None) -> Run:
        run = program.init(key, batch, hyper)
        return run._replace(opt_state=start(run, batch))

    def step(run: Run, batch) -> tuple[Run, dict]:
        own = run.opt_state
        run, own, metrics = advance(run._replace(opt_state=own.inner), own, batch)
        return run._replace(opt_state=own._replace(inner=run.opt_state)), metrics

    return Program(init, step)


def carried(run: Run, kind: type) -> Any:
    """Find the state of a transform in a run, at any depth of transforms and optimizers.

    Args:
        run: The run, with or without lanes.
        kind: The NamedTuple class of the transform's state.

    Returns:
        The outermost state of this class, or ``None`` if the run has no such state.
    """
    check_run(run)
    is_kind = lambda x: isinstance(x, kind)
    return next(filter(is_kind, jax.tree.leaves(run.opt_state, is_leaf=is_kind)), None)


def refuse_lanes(run: Run, advice: str) -> None:
    """Check that a new run is not that of an ensemble or a sweep.

    Args:
        run: The initial run of the inner program.
        advice: The alternative that ends the message.

    Raises:
        ValueError: If the run has lanes.
    """
    if run.key.ndim:
        raise ValueError(f"program is an ensemble, whose run has lanes; {advice}")
