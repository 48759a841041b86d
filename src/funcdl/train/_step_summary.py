"""The cost of a training step."""

import math
from typing import Any, NamedTuple

import jax

from funcdl._cost import counted
from funcdl._typing import PyTree
from funcdl.train._program import Program, check_program


class StepSummary(NamedTuple):
    """The cost of a training step as XLA counts it; ``print`` shows it in words.

    Attributes:
        parameters: The number of trained scalars.
        params: The size of the parameters in bytes.
        state: The size of the model's state in bytes.
        opt_state: The size of the optimizer's state in bytes.
        batch: The size of a batch in bytes.
        temporary: The additional bytes that a step needs for activations and gradients.
        flops: The floating-point operations of a step: forward, backward and update.
        accessed: The bytes that a step reads and writes.
    """

    parameters: int
    params: int
    state: int
    opt_state: int
    batch: int
    temporary: int
    flops: float
    accessed: float

    def __str__(self) -> str:
        """Describe the cost in words."""
        return (
            f"{self.parameters:,} parameters; bytes: params {self.params:,}, "
            f"state {self.state:,}, opt_state {self.opt_state:,}, batch {self.batch:,}\n"
            f"one step: {_number(self.flops)} FLOPs, {_number(self.accessed)} bytes accessed, "
            f"{self.temporary:,} bytes of temporary memory"
        )


def summary(program: Program, batch: PyTree, *, hyper: dict | None = None) -> StepSummary:
    """Compile one step and count its operations and bytes.

    Nothing is executed. The body of a scan is counted as often as it runs. If a step has a loop
    whose length depends on values, its operations and bytes are unknown, NaN. For an ensemble or a
    sweep, the step is that of all members together.

    Args:
        program: The program whose step is measured.
        batch: A batch, or its ``jax.ShapeDtypeStruct``, such as ``batches.form``.
        hyper: The hyper-parameters, as passed to ``program.init``.

    Returns:
        A ``StepSummary``.

    >>> import jax.numpy as jnp, optax
    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: jnp.zeros(3), lambda w, x: ((x @ w - 1) ** 2).mean())
    >>> print(summary(train.program(line, optax.sgd(0.1)), jnp.ones((4, 3))))
    3 parameters; bytes: params 12, state 0, opt_state 0, batch 48
    one step: ... FLOPs, ... bytes accessed, ... bytes of temporary memory
    """
    check_program(program)
    key = jax.eval_shape(lambda: jax.random.key(0))
    run = jax.eval_shape(lambda key, batch: program.init(key, batch, hyper), key, batch)
    memory = jax.jit(program.step, donate_argnums=0).lower(run, batch).compile().memory_analysis()
    cost = counted(program.step, run, batch, analyze=_compiled)
    return StepSummary(
        parameters=sum(math.prod(p.shape) for p in jax.tree.leaves(run.params)),
        params=_bytes(run.params),
        state=_bytes(run.state),
        opt_state=_bytes(run.opt_state),
        batch=_bytes(batch),
        temporary=memory.temp_size_in_bytes if memory else 0,
        flops=cost["flops"],
        accessed=cost["bytes accessed"],
    )


def _compiled(lowered: Any) -> dict[str, float]:
    cost = lowered.compile().cost_analysis() or {}
    return {name: float(cost.get(name, math.nan)) for name in ("flops", "bytes accessed")}


def _number(count: float) -> str:
    return "unknown" if math.isnan(count) else f"{count:,.0f}"


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))
