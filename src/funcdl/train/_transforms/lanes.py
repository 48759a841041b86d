"""Many runs as one program: ensembles and sweeps, whose runs have a leading axis of lanes."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcdl import _jaxpr, _tree
from funcdl._check import at_least, integer
from funcdl._typing import Array, PyTree
from funcdl.data import PerLane
from funcdl.train._program import Program, Run

_AXES = Run(0, 0, 0, 0, None, 0)  # lanes share the number of the step


def ensemble(program: Program, n: int) -> Program:
    """Train n members at once, each from a key of its own.

    Members share the batches of ``data.Batches``; ``data.orders`` gives each its own order.

    Args:
        program: Of one member.
        n: How many.

    Returns:
        A program whose run has a leading axis n on every leaf but ``step``, which members share;
        so have its metrics. ``lane(run, i)`` takes one out.

    Raises:
        ValueError: If ``n < 1``.

    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: jax.random.normal(key), lambda w, x: (w - x).mean())
    >>> many = ensemble(train.program(line, optax.sgd(0.1)), 3)
    >>> many.init(jax.random.key(0), jnp.ones(4)).params.shape
    (3,)
    """
    at_least("n", n, 1, "member")
    return _lanes(program, {}, n)


def sweep(program: Program, *, seeds: int = 1, **values) -> Program:
    """Train with several values of hyper-parameters at once, each from several seeds.

    ``sweep(program, learning_rate=[0.1, 0.01], decay=[0.0, 1e-3], seeds=5)`` has ten lanes: two
    configurations, each five times. Lane ``i`` has configuration ``i // seeds`` and seed
    ``i % seeds``; the same seed draws the same parameters and noise whatever the configuration, so
    that configurations are compared in pairs. ``grid`` makes all combinations.

    A lane computes what its run alone computes, up to rounding: XLA may sum in another order, and
    an adaptive optimizer lifts rounding noise to the size of a step where a gradient vanishes.
    Losses agree to 1e-5, relatively, over tens of steps, to 2e-3 over a thousand.

    Args:
        program: Of one lane; its optimizer or objective is a function of ``hyper``.
        seeds: Runs of every configuration.
        values: Of each hyper-parameter, one a configuration; they take the place of those given
            to ``init``. What changes shapes, such as the batch size, is a program each.

    Returns:
        A program whose run has a leading axis of lanes on every leaf but ``step``. Tracing it
        raises ``TypeError`` with file and line where a Python branch depends on a swept value.

    Raises:
        TypeError: If a hyper-parameter has no leading axis, or ``seeds`` is no integer.
        ValueError: If their lengths differ, there are none, or ``seeds < 1``.

    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: jnp.ones(()), lambda w, x: jnp.mean((w - x) ** 2))
    >>> sgd = train.program(line, lambda hyper: optax.sgd(hyper["rate"]))
    >>> many = train.sweep(sgd, rate=[0.0, 0.25, 0.5])
    >>> run = many.init(jax.random.key(0), jnp.zeros(4))
    >>> many.step(run, jnp.zeros(4))[0].params.tolist()
    [1.0, 0.5, 0.0]
    """
    at_least("seeds", seeds, 1)
    if not values:
        raise ValueError("values is empty; expected a hyper-parameter, or use ensemble(program, n)")
    return _lanes(program, _columns(values), seeds)


def grid(**values) -> dict[str, np.ndarray]:
    """Combine all values of hyper-parameters, the last one varying fastest.

    Args:
        values: Of each hyper-parameter, ``(m,)``.

    Returns:
        What ``sweep(program, **grid(...))`` takes: each ``(product of all m,)``.

    Raises:
        TypeError: If a hyper-parameter has no axis of values.
        ValueError: If it has none, or more than one axis.

    >>> {name: x.tolist() for name, x in grid(rate=[0.1, 0.2], decay=[0, 1]).items()}
    {'rate': [0.1, 0.1, 0.2, 0.2], 'decay': [0, 1, 0, 1]}
    """
    columns = {name: np.asarray(x) for name, x in values.items()}
    for name, x in columns.items():
        if not x.ndim:
            raise TypeError(f"{name} is {x}; expected a sequence of values")
        if x.ndim > 1 or not x.size:
            raise ValueError(f"{name} has shape {x.shape}; expected some values, one axis")
    axes = np.meshgrid(*columns.values(), indexing="ij")
    return {name: axis.reshape(-1) for name, axis in zip(columns, axes)}


def lane(run: Run, i: int) -> Run:
    """Take one run out of an ensemble's or a sweep's; it continues alone.

    Args:
        run: With lanes.
        i: Which, from 0.

    Returns:
        The run of that lane.

    Raises:
        TypeError: If i is no integer.
        ValueError: If the run has no such lane (indexing would take the nearest one).
    """
    n, i = run.key.shape[0] if run.key.ndim else 0, integer("i", i)
    if not 0 <= i < n:
        raise ValueError(f"i is {i}; expected 0 <= i < n of a run that has {n} lanes")
    return take(run, i)


def take(run: Run, lanes: Array | int) -> Run:
    """Index the axis of lanes."""
    return jax.tree.map(lambda leaf: leaf[lanes], run._replace(step=None))._replace(step=run.step)


def _lanes(program: Program, values: dict, seeds: int) -> Program:
    """Make the program whose lanes are all configurations, each with all seeds."""
    count = len(next(iter(values.values()))) if values else 1
    n = count * seeds

    def init(key, batch, hyper: dict | None = None) -> Run:
        batch, axis = _unwrapped(batch, n)
        if axis == 0:  # init reads shapes, those of one lane
            batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
        one = lambda key, own: program.init(key, batch, {**(hyper or {}), **own})
        keys = jnp.tile(jax.random.split(key, seeds), count)
        own = {name: jnp.repeat(jnp.asarray(x), seeds, axis=0) for name, x in values.items()}
        with _branches_refused(values):
            run = jax.vmap(one, out_axes=_AXES)(keys, own)
            _refuse_unread(program, take(run, 0), batch, values)
        return run

    def step(run: Run, batch) -> tuple[Run, dict]:
        batch, axis = _unwrapped(batch, run.key.shape[0])
        with _branches_refused(values):
            return jax.vmap(program.step, (_AXES, axis), (_AXES, 0))(run, batch)

    return Program(init, step)


def _unwrapped(batch: PyTree, n: int) -> tuple[PyTree, int | None]:
    """Return a batch and its axis of lanes; of one that each lane has its own, checked."""
    if not isinstance(batch, PerLane):
        return batch, None
    found = {jnp.shape(x)[:1] for x in jax.tree.leaves(batch)}
    if found != {(n,)}:
        raise ValueError(
            f"batch has {' and '.join(map(str, sorted(found)))} lanes; expected {(n,)}, as the run "
            "has: data.orders(batches, keys) needs a key for each lane"
        )
    return batch.batch, 0


def _columns(values: dict) -> dict:
    columns = {name: np.asarray(x) for name, x in values.items()}
    for name, x in columns.items():
        if not x.ndim:
            raise TypeError(f"{name} is {x}; expected a sequence, one value a configuration")
        if not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool):
            raise TypeError(f"{name} is of dtype {x.dtype}; expected numbers, one a configuration")
    lengths = {name: len(x) for name, x in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"hyper-parameters have different numbers of values: {lengths}; expected one of each a "
            "configuration; sweep(program, **train.grid(...)) takes all combinations"
        )
    if not all(lengths.values()):
        raise ValueError(f"{next(iter(columns))} has no values; expected at least one")
    return columns


def _refuse_unread(program: Program, run: Run, batch: PyTree, values: dict) -> None:
    """Refuse a hyper-parameter that changes nothing, as one with a misspelt name does."""
    first = (0,) * run.key.ndim  # of lanes inside this one
    key, hyper = jax.tree.map(lambda x: x[first], (run.key, run.hyper))
    without = lambda run: run._replace(hyper={})  # handing it on is no use of it

    def make(hyper, batch):
        return without(program.init(key, batch, hyper))

    def step(hyper, batch):
        new, metrics = program.step(run._replace(hyper=hyper), batch)
        return without(new), metrics

    unread = set(values)
    for f, given in ((step, run.hyper), (make, hyper)):
        if unread:
            read = _jaxpr.inputs_read(jax.make_jaxpr(f)(given, batch))
            unread -= {name for name, is_read in zip(_tree.paths(run.hyper), read) if is_read}
    if unread:
        raise ValueError(
            f"{', '.join(sorted(unread))}: no such hyper-parameter is read by optimizer or "
            f"objective, every lane would be the same; hyper holds {sorted(run.hyper)}"
        )


@contextlib.contextmanager
def _branches_refused(values: dict) -> Iterator[None]:
    """Say which line wants the value of a hyper-parameter that differs from lane to lane."""
    try:
        yield
    except TypeError as error:
        needs_value = isinstance(error, jax.errors.ConcretizationTypeError)
        if not values or not (needs_value or "sequences of concrete values" in str(error)):
            raise
        raise TypeError(
            f"{_line(error)}: a Python branch, a shape or a conversion to a number depends on a "
            f"swept value ({', '.join(values)}), which differs from lane to lane; use jnp.where or "
            "jax.lax.cond; what changes shapes, such as the batch size, is a program each"
        ) from error


def _line(error: BaseException) -> str:
    """Find the innermost line outside of the libraries through which an error went."""
    roots = [str(Path(m.__file__).parent) for m in (jax, optax, flax)] + [
        str(Path(__file__).parent)
    ]
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(tuple(roots))] or frames
    return f"{own[-1].filename}:{own[-1].lineno} ({own[-1].name})"
