"""Many runs in one program: ensembles and sweeps, whose runs have a leading axis of lanes."""

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcdl import _jaxpr, _tree
from funcdl._check import at_least, integer
from funcdl._typing import Array, ArrayLike, PyTree
from funcdl.data import PerLane
from funcdl.train._program import Program, Run, check_run

# An ensemble or a sweep is ``vmap`` of a program: ``init`` over keys and hyper-parameters, ``step``
# over runs. Lane i has configuration i // seeds and seed i % seeds. All lanes are at the same step,
# so ``run.step`` has no axis and selects one batch for all of them; batches of their own come as
# ``PerLane``. A misspelled hyper-parameter would not fail but give identical lanes, so ``init``
# traces one lane and checks that every swept value is read.

# vmap axes of a run: the lanes share the number of the step
_AXES = Run(0, 0, 0, 0, None, 0)  # pyright: ignore[reportArgumentType]


def ensemble(program: Program, n: int) -> Program:
    """Train n members at once, each from its own key.

    The members share the batches of ``data.Batches``; ``data.orders`` gives each member its own
    order.

    Args:
        program: The program of one member.
        n: The number of members.

    Returns:
        A program whose run has a leading axis n on every leaf except ``step``, which the members
        share; its metrics have this axis too. Use ``lane(run, i)`` to select one run.

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


def sweep(program: Program, *, seeds: int = 1, **values: ArrayLike | Sequence) -> Program:
    """Train with several values of hyper-parameters at once, each from several seeds.

    ``sweep(program, learning_rate=[0.1, 0.01], decay=[0.0, 1e-3], seeds=5)`` has ten lanes: two
    configurations with five seeds each. Lane ``i`` has configuration ``i // seeds`` and seed
    ``i % seeds``. A seed draws the same parameters and noise in every configuration, so
    configurations can be compared in pairs. ``grid`` makes all combinations.

    A lane computes the same as a single run up to rounding: XLA may sum in another order, and an
    adaptive optimizer amplifies rounding noise to the size of a step where a gradient vanishes. The
    losses agree to a relative error of 1e-5 over tens of steps and 2e-3 over a thousand steps.

    Args:
        program: The program of one lane; its optimizer or objective is a function of ``hyper``.
        seeds: The number of runs per configuration.
        values: The values of each hyper-parameter, one per configuration; they replace values that
            are passed to ``init``. A setting that changes shapes, such as the batch size, needs a
            separate program for each value.

    Returns:
        A program whose run has a leading axis of lanes on every leaf except ``step``. Tracing it
        raises ``TypeError`` with file and line where a Python branch depends on a swept value.

    Raises:
        TypeError: If a hyper-parameter has no leading axis, or ``seeds`` is not an integer.
        ValueError: If the lengths differ, no hyper-parameter is given, or ``seeds < 1``.

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
        raise ValueError(
            "values is empty; expected at least one hyper-parameter; for several seeds alone, use "
            "ensemble(program, n)"
        )
    return _lanes(program, _columns(values), seeds)


def grid(**values: ArrayLike | Sequence) -> dict[str, np.ndarray]:
    """Combine all values of hyper-parameters; the last one varies fastest.

    Args:
        values: The values of each hyper-parameter, ``(m,)``.

    Returns:
        The columns for ``sweep(program, **grid(...))``, each of shape ``(product of all m,)``.

    Raises:
        TypeError: If a hyper-parameter is a scalar.
        ValueError: If a hyper-parameter has no values, or more than one axis.

    >>> {name: x.tolist() for name, x in grid(rate=[0.1, 0.2], decay=[0, 1]).items()}
    {'rate': [0.1, 0.1, 0.2, 0.2], 'decay': [0, 1, 0, 1]}
    """
    columns = {name: np.asarray(x) for name, x in values.items()}
    for name, x in columns.items():
        if not x.ndim:
            raise TypeError(f"{name} is {x}; expected a sequence of values")
        if x.ndim > 1 or not x.size:
            raise ValueError(f"{name} has shape {x.shape}; expected one axis with at least 1 value")
    axes = np.meshgrid(*columns.values(), indexing="ij")
    return {name: axis.reshape(-1) for name, axis in zip(columns, axes)}


def lane(run: Run, i: int) -> Run:
    """Select the run of one lane of an ensemble or a sweep; it can continue on its own.

    Args:
        run: A run with lanes.
        i: The index of the lane, from 0.

    Returns:
        The run of that lane.

    Raises:
        TypeError: If i is not an integer.
        ValueError: If the run has no such lane (indexing would clamp to the nearest one).
    """
    check_run(run)
    n, i = run.key.shape[0] if run.key.ndim else 0, integer("i", i)
    if not 0 <= i < n:
        raise ValueError(f"i is {i}; expected 0 <= i < n for a run that has n = {n} lanes")
    return take(run, i)


def take(run: Run, lanes: Array | int) -> Run:
    """Index the axis of lanes."""
    return jax.tree.map(lambda leaf: leaf[lanes], run._replace(step=None))._replace(step=run.step)


def _lanes(program: Program, values: dict[str, np.ndarray], seeds: int) -> Program:
    """Build the program whose lanes are all configurations, each with all seeds."""
    count = len(next(iter(values.values()))) if values else 1
    n = count * seeds

    def init(key, batch, hyper: dict | None = None) -> Run:
        batch, axis = _unwrapped(batch, n)
        if axis == 0:  # init reads only shapes, and needs those of one lane
            batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
        one = lambda key, own: program.init(key, batch, {**(hyper or {}), **own})
        keys = jnp.tile(jax.random.split(key, seeds), count)
        own = {name: jnp.repeat(jnp.asarray(x), seeds, axis=0) for name, x in values.items()}
        with _traced_values_explained(values):
            run = jax.vmap(one, out_axes=_AXES)(keys, own)
            _check_read(program, take(run, 0), batch, values)
        return run

    def step(run: Run, batch) -> tuple[Run, dict]:
        batch, axis = _unwrapped(batch, run.key.shape[0])
        with _traced_values_explained(values):
            return jax.vmap(program.step, (_AXES, axis), (_AXES, 0))(run, batch)

    return Program(init, step)


def _unwrapped(batch: PyTree, n: int) -> tuple[PyTree, int | None]:
    """Return a batch and its axis of lanes, ``None`` for a batch that all lanes share."""
    if not isinstance(batch, PerLane):
        return batch, None
    lengths = {jnp.shape(x)[:1] for x in jax.tree.leaves(batch)}
    if lengths != {(n,)}:
        raise ValueError(
            f"batch has {' and '.join(map(str, sorted(lengths)))} lanes, but the run has {(n,)}; "
            "pass one key per lane to data.orders(batches, keys)"
        )
    return batch.batch, 0


def _columns(values: dict[str, ArrayLike | Sequence]) -> dict[str, np.ndarray]:
    columns = {name: np.asarray(x) for name, x in values.items()}
    for name, x in columns.items():
        if not x.ndim:
            raise TypeError(f"{name} is {x}; expected a sequence with one value per configuration")
        if not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool):
            raise TypeError(
                f"{name} is of dtype {x.dtype}; expected numbers, one per configuration"
            )
    lengths = {name: len(x) for name, x in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"hyper-parameters have different numbers of values: {lengths}; expected one value of "
            "each per configuration; for all combinations, use sweep(program, **train.grid(...))"
        )
    if not all(lengths.values()):
        raise ValueError(f"{next(iter(columns))} has no values; expected at least one")
    return columns


def _check_read(program: Program, run: Run, batch: PyTree, values: dict[str, np.ndarray]) -> None:
    """Reject a hyper-parameter that has no effect, such as one with a misspelled name."""
    first = (0,) * run.key.ndim  # the first lane of an ensemble inside the sweep
    key, hyper = jax.tree.map(lambda x: x[first], (run.key, run.hyper))
    without = lambda run: run._replace(hyper={})  # passing hyper on does not count as reading it

    def make(hyper, batch):
        return without(program.init(key, batch, hyper))

    def step(hyper, batch):
        new, metrics = program.step(run._replace(hyper=hyper), batch)
        return without(new), metrics

    unread = set(values)
    for f, argument in ((step, run.hyper), (make, hyper)):
        if unread:
            read = _jaxpr.inputs_read(jax.make_jaxpr(f)(argument, batch))
            unread -= {name for name, is_read in zip(_tree.paths(run.hyper), read) if is_read}
    if unread:
        raise ValueError(
            f"{', '.join(sorted(unread))}: no such hyper-parameter is read by the optimizer or the "
            f"objective, so all lanes would be identical; hyper holds {sorted(run.hyper)}"
        )


@contextlib.contextmanager
def _traced_values_explained(values: dict[str, np.ndarray]) -> Iterator[None]:
    """Name the line that needs the concrete value of a hyper-parameter that varies over lanes."""
    try:
        yield
    except TypeError as error:
        needs_value = isinstance(error, jax.errors.ConcretizationTypeError)
        if not values or not (needs_value or "sequences of concrete values" in str(error)):
            raise
        raise TypeError(
            f"{_line(error)}: a Python branch, a shape or a conversion to a number depends on a "
            f"swept value ({', '.join(values)}), which differs from lane to lane; use jnp.where or "
            "jax.lax.cond; a setting that changes shapes, such as the batch size, needs a separate "
            "program for each value"
        ) from error


def _line(error: BaseException) -> str:
    """Return the innermost line of an error's traceback that is outside of the libraries."""
    files = [*(str(module.__file__) for module in (jax, optax, flax)), __file__]
    libraries = tuple(str(Path(file).parent) for file in files)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(libraries)] or list(frames)
    return f"{own[-1].filename}:{own[-1].lineno} ({own[-1].name})"
