"""One program on many devices: the placement of parameters and batches on a mesh."""

import dataclasses
import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from funcdl import _batching, _tree
from funcdl._typing import PyTree
from funcdl.data import PerLane
from funcdl.train._program import Program, Run

Rule = PartitionSpec | Callable[..., PartitionSpec]  # fixed, or rule(shape, mesh)


def sharded(
    program: Program,
    mesh: Mesh | AbstractMesh,
    rules: dict[str, Rule] | None = None,
    *,
    batch: str | None = "data",
) -> Program:
    """Train on a mesh of devices, in one process or in many.

    Every batch is split over one axis of the mesh: each device computes its part, and XLA sums the
    gradients. Parameters are replicated on all devices unless a rule splits them: ``fsdp("data")``
    splits each parameter along its longest axis, and a ``PartitionSpec`` splits along named axes
    (tensor parallelism). The optimizer's state of a parameter is placed like the parameter. The
    results are those of one device, up to the order of sums.

    Args:
        program: The program that trains; ``sharded`` must be the outermost transform.
        mesh: A mesh with ``axis_types=(AxisType.Auto, ...)``.
        rules: A dict ``{glob: PartitionSpec or fsdp(axis)}`` by path of the parameters; the first
            glob that matches a leaf counts.
        batch: The axis of the mesh that splits batches. ``None`` replicates the batch on every
            device, as for a sweep whose lanes are split by ``{"**": PartitionSpec("data")}``.

    Returns:
        A program whose run is placed on the mesh. Its ``init`` raises ``ValueError`` if a glob
        matches no leaf, or an axis of the mesh does not divide the axis that it splits; its
        ``step`` raises it for the batch.

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
            f"mesh has axes of types {mesh.axis_types}; expected Auto: use jax.make_mesh(shape, "
            "names, axis_types=(AxisType.Auto,) * len(names))"
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
        replicate = NamedSharding(mesh, PartitionSpec())
        metrics = jax.lax.with_sharding_constraint(metrics, replicate)
        return jax.lax.with_sharding_constraint(run, shardings), metrics

    return Program(init, step)


def replicated(mesh: Mesh, tree: PyTree) -> PyTree:
    """Replicate arrays on every device of a mesh, in one process or in many.

    Args:
        mesh: A mesh of the devices of this process, or of all processes.
        tree: Any pytree of arrays and keys, such as ``data.Batches``; it must be the same in every
            process.

    Returns:
        The tree on the mesh.

    >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    >>> replicated(mesh, jnp.arange(3)).sharding.is_fully_replicated
    True
    """
    replicate = NamedSharding(mesh, PartitionSpec())

    def put(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                put(jax.random.key_data(x)), impl=jax.random.key_impl(x)
            )
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, replicate, lambda index: host[index])

    return jax.tree.map(put, tree)


@dataclasses.dataclass(frozen=True)
class _PerProcess:
    """A stream of the rows of one process; ``fit`` calls ``put`` on stacks of its batches."""

    stream: Iterable
    rows: NamedSharding

    def __iter__(self):
        return iter(self.stream)

    def seek(self, step: int) -> None:
        seek = getattr(self.stream, "seek", None)
        if seek is not None:
            seek(step)
        elif step:
            raise ValueError(
                f"the run resumes at step {step}, but the stream of this process's rows has no "
                "seek(step), so it cannot continue there; pass per_process a stream with seek"
            )

    def put(self, stacked: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(self.rows, stacked)


def per_process(mesh: Mesh, stream: Iterable, *, batch: str = "data") -> Iterable:
    """Let every process read its own rows of each batch, for data that no single host can hold.

    Args:
        mesh: The mesh that is passed to ``sharded``.
        stream: An iterable of this process's rows of every batch. Each process yields the same
            number of rows, in the order of the processes; leaves have a leading axis of examples. A
            stream with ``seek`` can resume.
        batch: The axis of the mesh that splits batches.

    Returns:
        Data for ``fit``, whose batches consist of the rows of all processes.

    Raises:
        ValueError: If the mesh has no such axis.

    >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    >>> next(iter(per_process(mesh, [np.ones(4), np.zeros(4)]))).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    _check_axes("batch", PartitionSpec(batch), mesh)
    return _PerProcess(stream, NamedSharding(mesh, PartitionSpec(None, batch)))


def fsdp(axis: str) -> Callable[..., PartitionSpec]:
    """Return the rule that splits a parameter along its longest axis that the mesh divides.

    A parameter without such an axis is replicated.

    Args:
        axis: The axis of the mesh, usually that of the batches ("fully sharded data parallel").

    Returns:
        A rule for ``sharded``, ``rule(shape, mesh) -> PartitionSpec``.

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


def _check_axes(name: str, spec: Rule, mesh: Mesh | AbstractMesh) -> None:
    if isinstance(spec, PartitionSpec):
        names = list(jax.tree.leaves(tuple(spec)))
    elif callable(spec):
        names = [spec.axis]  # pyright: ignore[reportFunctionMemberAccess]
    else:
        raise TypeError(f"the rule for {name!r} is {spec!r}; expected PartitionSpec or fsdp(axis)")
    for axis in names:
        if axis not in mesh.shape:
            raise ValueError(
                f"the rule for {name!r} names the axis {axis!r}, but the mesh has the axes "
                f"{mesh.axis_names}"
            )


def _shardings(run: Run, rules: dict[str, Rule], mesh: Mesh | AbstractMesh) -> Run:
    """Return the sharding of every leaf of a run.

    Parameters are placed by their rule, leaves with the path and the shape of a parameter like this
    parameter, and all other leaves are replicated.
    """
    paths, leaves = _tree.paths(run.params), jax.tree.leaves(run.params)
    specs = [PartitionSpec()] * len(leaves)
    for glob in reversed(rules):  # the first rule is applied last, so that it wins
        hits = _tree.matches(run.params, glob)
        specs = [
            _spec(rules[glob], path, leaf, mesh) if hit else spec
            for hit, path, leaf, spec in zip(hits, paths, leaves, specs)
        ]
    known = {path: (leaf.shape, spec) for path, leaf, spec in zip(paths, leaves, specs)}

    # An optimizer's moments repeat the paths of the parameters below a prefix of their own
    # (opt_state/0/mu/dense/kernel), so the longest suffix that is the path of a parameter decides.
    def place(path, leaf):
        parts = _tree.path_text(path).split("/")
        ends = ("/".join(parts[i:]) for i in range(len(parts) + 1))
        spec = next((known[e][1] for e in ends if e in known and known[e][0] == leaf.shape), None)
        return NamedSharding(mesh, spec or PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, run)


def _spec(
    rule: Rule, path: str, leaf: jax.Array | jax.ShapeDtypeStruct, mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    spec = rule if isinstance(rule, PartitionSpec) else rule(leaf.shape, mesh)
    if len(spec) > leaf.ndim:
        raise ValueError(f"the rule {spec} for {path!r} has more axes than its shape {leaf.shape}")
    for length, axes in zip(leaf.shape, spec):
        parts = math.prod(mesh.shape[axis] for axis in jax.tree.leaves(axes))
        if length % parts:
            raise ValueError(
                f"the rule {spec} for {path!r} splits {length} of its shape {leaf.shape} into "
                f"{parts} parts; expected a divisor"
            )
    return spec


def _split(batch: PyTree, mesh: Mesh | AbstractMesh, axis: str) -> PyTree:
    """Split the examples of a batch over the devices; batches per lane keep the axis of lanes."""
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
            "divide; choose a batch size that is a multiple"
        )
    rows = NamedSharding(mesh, PartitionSpec(*lanes, axis))
    split = lambda x: jax.lax.with_sharding_constraint(x, rows) if jnp.ndim(x) > len(lanes) else x
    return jax.tree.map(split, batch)
