"""The layers of a net, and the cost of a batch."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import record
from funcdl._cost import counted
from funcdl._typing import Function, PyTree
from funcdl.nn._model import Model


class Layer(NamedTuple):
    """The parameters of one module.

    Attributes:
        path: The path of the module, such as ``Dense_0``.
        shapes: The shape of each parameter, by name.
        parameters: The number of scalars.
        bytes: The size in bytes.
    """

    path: str
    shapes: dict[str, tuple[int, ...]]
    parameters: int
    bytes: int


class Summary(NamedTuple):
    """The layers of a net and the cost of a batch; ``print`` shows a table.

    Attributes:
        layers: The modules that have parameters, in the order of their paths.
        outputs: The form of the outputs, ``jax.ShapeDtypeStruct``.
        parameters: The number of trained scalars.
        bytes: The size of the parameters in bytes.
        state_bytes: The size of the state in bytes.
        forward_flops: The operations of one evaluation of the batch, as XLA counts them.
        gradient_flops: The operations of the outputs and one gradient of them, in training.
    """

    layers: tuple[Layer, ...]
    outputs: PyTree
    parameters: int
    bytes: int
    state_bytes: int
    forward_flops: float
    gradient_flops: float

    def __str__(self) -> str:
        """Format the table."""
        rows = [("layer", "shapes", "parameters", "bytes")]
        for layer in self.layers:
            shapes = ", ".join(f"{name} {shape}" for name, shape in layer.shapes.items())
            rows.append((layer.path, shapes, f"{layer.parameters:,}", f"{layer.bytes:,}"))
        rows.append(("all", "", f"{self.parameters:,}", f"{self.bytes:,}"))
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = [
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
            for a, b, c, d in rows
        ]
        outputs = ", ".join(f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(self.outputs))
        forward, gradient = self.forward_flops, self.gradient_flops
        lines += [
            f"outputs {outputs}, state {self.state_bytes:,} bytes",
            f"FLOPs: {_number(forward)} forward, {_number(gradient)} with gradient",
        ]
        return "\n".join(lines)


def summary(model: Model, x: PyTree) -> Summary:
    """List the layers of a net, their shapes, and the cost of a batch.

    Nothing is executed. The body of a scan is counted as often as it runs. If the net has a loop
    whose length depends on values, the operations are unknown, NaN. For the cost of a whole
    training step, use ``train.summary``.

    Args:
        model: The model.
        x: A batch, or its ``jax.ShapeDtypeStruct``.

    Returns:
        A ``Summary``.

    >>> from flax import linen
    >>> from funcdl import nn
    >>> print(summary(nn.from_linen(linen.Dense(2, use_bias=False)), jnp.ones((4, 3))))
    layer  shapes         parameters  bytes
           kernel (3, 2)           6     24
    all                            6     24
    outputs float32[4, 2], state 0 bytes
    FLOPs: 48 forward, 96 with gradient
    """
    record("model", model, Model, "such as nn.from_linen(module)")
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(model.init, key, x)
    outputs = jax.eval_shape(model.apply, params, state, x)[0]

    def training(params, state, x, key):
        y, pull = jax.vjp(lambda params: model.apply(params, state, x, key)[0], params)
        return y, pull(jax.tree.map(jnp.ones_like, y))

    evaluation = lambda params, state, x: model.apply(params, state, x)[0]
    return Summary(
        layers=_layers(params),
        outputs=outputs,
        parameters=_tree.size(params),
        bytes=nbytes(params),
        state_bytes=nbytes(state),
        forward_flops=_flops(evaluation, params, state, x),
        gradient_flops=_flops(training, params, state, x, key),
    )


def nbytes(tree: PyTree) -> int:
    """Return the size of all arrays of a tree in bytes."""
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def _layers(params: PyTree) -> tuple[Layer, ...]:
    modules = {}
    for path, leaf in zip(_tree.paths(params), jax.tree.leaves(params)):
        module, _, name = path.rpartition("/")
        modules.setdefault(module, {})[name] = leaf
    return tuple(
        Layer(
            path=module,
            shapes={name: tuple(leaf.shape) for name, leaf in leaves.items()},
            parameters=_tree.size(leaves),
            bytes=nbytes(leaves),
        )
        for module, leaves in modules.items()
    )


def _number(flops: float) -> str:
    return "unknown" if math.isnan(flops) else f"{flops:,.0f}"


def _flops(f: Function, *forms: PyTree) -> float:
    analyze = lambda lowered: {
        "flops": float((lowered.cost_analysis() or {}).get("flops", math.nan))
    }
    return counted(f, *forms, analyze=analyze)["flops"]
