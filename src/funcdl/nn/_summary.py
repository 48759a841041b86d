"""What a net is made of, and what it costs."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._typing import PyTree
from funcdl.nn._model import Model


class Layer(NamedTuple):
    """The parameters of one module.

    Attributes:
        path: Where they are, ``Dense_0``.
        shapes: The shape of each, by name.
        parameters: How many numbers.
        bytes: Of memory.
    """

    path: str
    shapes: dict[str, tuple[int, ...]]
    parameters: int
    bytes: int


class Summary(NamedTuple):
    """What a net is made of; ``print`` shows a table.

    Attributes:
        layers: The modules that have parameters, in the order of their paths.
        outputs: The form of the outputs, ``jax.ShapeDtypeStruct``.
        parameters: How many numbers are trained.
        bytes: Of parameters.
        state_bytes: Of state.
        forward_flops: Operations of an evaluation of the batch, as XLA counts them.
        gradient_flops: Operations of the outputs and a gradient of them, in training.
    """

    layers: tuple[Layer, ...]
    outputs: PyTree
    parameters: int
    bytes: int
    state_bytes: int
    forward_flops: float
    gradient_flops: float

    def __str__(self) -> str:
        """Write the table."""
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
            f"FLOPs: {forward:,.0f} forward, {gradient:,.0f} with gradient",
        ]
        return "\n".join(lines)


def summary(model: Model, x: PyTree) -> Summary:
    """List the layers of a net, their shapes, and what a batch costs.

    Nothing is drawn or computed. XLA counts the body of a loop once, however often it runs.

    Args:
        model: The pair.
        x: A batch, or its ``jax.ShapeDtypeStruct``.

    Returns:
        A ``Summary``; of a whole training step, ``train.summary``.

    >>> from flax import linen
    >>> from funcdl import nn
    >>> print(summary(nn.from_linen(linen.Dense(2, use_bias=False)), jnp.ones((4, 3))))
    layer  shapes         parameters  bytes
           kernel (3, 2)           6     24
    all                            6     24
    outputs float32[4, 2], state 0 bytes
    FLOPs: 48 forward, 96 with gradient
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(model.init, key, x)
    outputs = jax.eval_shape(model.apply, params, state, x)[0]

    def training(params, state, x, key):
        y, pull = jax.vjp(lambda params: model.apply(params, state, x, key)[0], params)
        return y, pull(jax.tree.map(jnp.ones_like, y))

    return Summary(
        _layers(params),
        outputs,
        _tree.size(params),
        nbytes(params),
        nbytes(state),
        _flops(lambda params, state, x: model.apply(params, state, x)[0], params, state, x),
        _flops(training, params, state, x, key),
    )


def nbytes(tree: PyTree) -> int:
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def _layers(params: PyTree) -> tuple[Layer, ...]:
    modules = {}
    for path, leaf in zip(_tree.paths(params), jax.tree.leaves(params)):
        module, _, name = path.rpartition("/")
        modules.setdefault(module, {})[name] = leaf
    return tuple(
        Layer(
            module,
            {name: tuple(leaf.shape) for name, leaf in leaves.items()},
            _tree.size(leaves),
            nbytes(leaves),
        )
        for module, leaves in modules.items()
    )


def _flops(f, *forms) -> float:
    return float((jax.jit(f).lower(*forms).cost_analysis() or {}).get("flops", math.nan))
