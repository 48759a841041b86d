"""One program on many devices: where parameters and batches lie, decided in one place."""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from funcdl import _batching, _tree
from funcdl._typing import PyTree
from funcdl.data import PerLane
from funcdl.train._program import Program, Run


def sharded(
    program: Program,
    mesh: Mesh | AbstractMesh,
    rules: dict | None = None,
    *,
    batch: str | None = "data",
) -> Program:
    """Train on a mesh of devices, in one process or in many.

    Every batch is split over one axis of the mesh, so that each device computes its part and XLA
    adds the gradients up. Parameters are on all devices unless a rule splits them: ``fsdp("data")``
    splits each along its longest axis, a ``PartitionSpec`` along named ones (tensor parallel). What
    the optimizer holds of a parameter lies as the parameter does. Numbers are those of one device,
    up to the order of sums.

    Args:
        program: What is trained; ``sharded`` is the outermost transformation.
        mesh: With ``axis_types=(AxisType.Auto, ...)``.
        rules: ``{glob: PartitionSpec or fsdp(axis)}`` by path of the parameters; the first glob
            that names a leaf counts.
        batch: The axis of the mesh that splits batches; ``None`` gives every device all of it, as
            for a sweep whose lanes are split by ``{"**": PartitionSpec("data")}``.

    Returns:
        A program whose run lies on the mesh. ``init`` raises ``ValueError`` if a glob names no
        leaf, or an axis does not divide what it splits; so does ``step`` for the batch.

    Raises:
        TypeError: If a rule is neither a ``PartitionSpec`` nor a function.
        ValueError: If the mesh has no such axis, or its axes are not ``Auto``.

    >>> import optax
    >>> from funcdl import train
    >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    >>> line = train.objective(lambda key, x: jnp.ones(2), lambda w, x: jnp.mean((w - x) ** 2))
    >>> sgd = train.program(line, optax.sgd(0.5))
    >>> program = train.sharded(sgd, mesh, {"**": train.fsdp("data")})
    >>> run = program.init(jax.random.key(0), jnp.zeros((4, 2)))
    >>> tuple(run.params.sharding.spec)
    ('data',)
    """
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            f"mesh has axes {mesh.axis_types}; expected Auto: jax.make_mesh(shape, names, "
            "axis_types=(AxisType.Auto,) * len(names))"
        )
    rules = dict(rules or {})
    for name, spec in {"batch": PartitionSpec(batch), **rules}.items():
        _check_axes(name, spec, mesh)

    def init(key, batch, hyper: dict | None = None) -> Run:
        make = lambda key, hyper: program.init(key, batch, hyper)
        form = jax.eval_shape(make, key, hyper)
        return jax.jit(make, out_shardings=_shardings(form, rules, mesh))(key, hyper)

    def step(run: Run, data) -> tuple[Run, dict]:
        shardings = _shardings(run, rules, mesh)
        if batch is not None:
            data = _split(data, mesh, batch)
        run, metrics = program.step(run, data)
        whole = NamedSharding(mesh, PartitionSpec())
        metrics = jax.lax.with_sharding_constraint(metrics, whole)
        return jax.lax.with_sharding_constraint(run, shardings), metrics

    return Program(init, step)


def replicated(mesh: Mesh, tree: PyTree) -> PyTree:
    """Put arrays on every device of a mesh, in one process or in many.

    Args:
        mesh: Of this process's devices, or of all processes'.
        tree: Any pytree of arrays and keys, such as ``data.Batches``; the same in every process.

    Returns:
        The tree on the mesh.

    >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    >>> replicated(mesh, jnp.arange(3)).sharding.is_fully_replicated
    True
    """
    whole = NamedSharding(mesh, PartitionSpec())

    def put(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                put(jax.random.key_data(x)), impl=jax.random.key_impl(x)
            )
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, whole, lambda index: host[index])

    return jax.tree.map(put, tree)


@dataclasses.dataclass(frozen=True)
class _PerProcess:
    """A stream whose batches are one process's rows; ``fit`` calls ``put`` on stacks of them."""

    stream: Iterable
    rows: NamedSharding

    def __iter__(self):
        return iter(self.stream)

    def seek(self, step: int) -> None:
        if hasattr(self.stream, "seek"):
            self.stream.seek(step)
        elif step:
            raise ValueError(
                f"the run resumes at step {step}, but the stream of this process's rows has no "
                "seek(step): it cannot tell its position; give per_process one that has"
            )

    def put(self, stacked: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(self.rows, stacked)


def per_process(mesh: Mesh, stream: Iterable, *, batch: str = "data") -> Iterable:
    """Let every process read its own rows of each batch: what no host can hold alone.

    Args:
        mesh: That of ``sharded``.
        stream: Gives this process's rows of every batch, equally many in each process, in the order
            of the processes; leaves have a leading axis of examples. With ``seek`` it resumes.
        batch: The axis of the mesh that splits batches.

    Returns:
        Data for ``fit``: batches of the rows of all processes.

    Raises:
        ValueError: If the mesh has no such axis.

    >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    >>> next(iter(per_process(mesh, [np.ones(4), np.zeros(4)]))).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    _check_axes("batch", PartitionSpec(batch), mesh)
    return _PerProcess(stream, NamedSharding(mesh, PartitionSpec(None, batch)))


def fsdp(axis: str) -> Callable:
    """Split a parameter along its longest axis that the mesh divides; a small one stays whole.

    Args:
        axis: Of the mesh, usually that of the batches ("fully sharded data parallel").

    Returns:
        A rule for ``sharded``: ``rule(shape, mesh) -> PartitionSpec``.

    Source: Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter
    models", SC (2020).

    >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    >>> tuple(fsdp("data")((3, 8), mesh))
    (None, 'data')
    """

    def rule(shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
        lengths = [length if length % mesh.shape[axis] == 0 else 0 for length in shape]
        if not any(lengths):
            return PartitionSpec()
        return PartitionSpec(*[None] * lengths.index(max(lengths)), axis)

    rule.axis = axis
    return rule


def _check_axes(name: str, spec, mesh: Mesh | AbstractMesh) -> None:
    if not callable(spec) and not isinstance(spec, PartitionSpec):
        raise TypeError(f"the rule for {name!r} is {spec!r}; expected PartitionSpec or fsdp(axis)")
    names = [spec.axis] if callable(spec) else list(jax.tree.leaves(tuple(spec)))
    for axis in names:
        if axis not in mesh.shape:
            raise ValueError(
                f"the rule for {name!r} names the axis {axis!r}; the mesh has {mesh.axis_names}"
            )


def _shardings(run: Run, rules: dict, mesh: Mesh | AbstractMesh) -> Run:
    """Place parameters by rule, what has a parameter's path and shape as it, all else whole."""
    paths, leaves = _tree.paths(run.params), jax.tree.leaves(run.params)
    specs = [PartitionSpec()] * len(leaves)
    for glob in reversed(rules):
        hits = _tree.matches(run.params, glob)
        specs = [
            _spec(rules[glob], *at, mesh) if hit else spec
            for hit, at, spec in zip(hits, zip(paths, leaves), specs)
        ]
    known = {path: (leaf.shape, spec) for path, leaf, spec in zip(paths, leaves, specs)}

    def place(path, leaf):
        parts = _tree.path_text(path).split("/")
        ends = ("/".join(parts[i:]) for i in range(len(parts) + 1))
        spec = next((known[e][1] for e in ends if e in known and known[e][0] == leaf.shape), None)
        return NamedSharding(mesh, spec or PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, run)


def _spec(rule, path: str, leaf, mesh: Mesh | AbstractMesh) -> PartitionSpec:
    spec = rule(leaf.shape, mesh) if callable(rule) else rule
    if len(spec) > leaf.ndim:
        raise ValueError(f"the rule {spec} for {path!r} has more axes than its shape {leaf.shape}")
    for length, axes in zip(leaf.shape, spec):
        parts = 1
        for axis in jax.tree.leaves(axes):
            parts *= mesh.shape[axis]
        if length % parts:
            raise ValueError(
                f"the rule {spec} for {path!r} splits {length} of its shape {leaf.shape} in "
                f"{parts} parts"
            )
    return spec


def _split(batch: PyTree, mesh: Mesh | AbstractMesh, axis: str) -> PyTree:
    """Split the examples of a batch over the devices; lanes with a batch each keep their axis."""
    lanes = [None] * isinstance(batch, PerLane)
    one = (
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
        if lanes
        else batch
    )
    b, devices = _batching.examples(one), mesh.shape[axis]
    if b % devices:
        raise ValueError(
            f"the batch has {b} examples, which the {devices} devices of axis {axis!r} do not "
            "divide"
        )
    rows = NamedSharding(mesh, PartitionSpec(*lanes, axis))
    split = lambda x: jax.lax.with_sharding_constraint(x, rows) if jnp.ndim(x) > len(lanes) else x
    return jax.tree.map(split, batch)
