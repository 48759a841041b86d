"""What a training step costs."""

import math
from typing import NamedTuple

import jax

from funcdl._typing import PyTree
from funcdl.train._program import Program


class StepSummary(NamedTuple):
    """What a training step costs, as XLA counts it; ``print`` shows it in words.

    Attributes:
        parameters: How many numbers are trained.
        params: Bytes of the parameters.
        state: Bytes of the model's state.
        opt_state: Bytes of the optimizer's state.
        batch: Bytes of a batch.
        temporary: Bytes that a step needs besides, for activations and gradients.
        flops: Operations of a step: forward, backward and update.
        accessed: Bytes that a step reads and writes.
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
        """Write it in words."""
        return (
            f"{self.parameters:,} parameters; bytes: params {self.params:,}, "
            f"state {self.state:,}, opt_state {self.opt_state:,}, batch {self.batch:,}\n"
            f"a step: {self.flops:,.0f} FLOPs, {self.accessed:,.0f} bytes accessed, "
            f"{self.temporary:,} bytes of temporary memory"
        )


def summary(program: Program, batch: PyTree, *, hyper: dict | None = None) -> StepSummary:
    """Compile one step and count it.

    Nothing is drawn or computed. XLA counts the body of a loop once, however often it runs; of an
    ensemble or a sweep the step is that of all members.

    Args:
        program: The pair.
        batch: A batch, or its ``jax.ShapeDtypeStruct``, such as ``batches.form``.
        hyper: Hyper-parameters, as ``program.init`` takes them.

    Returns:
        A ``StepSummary``.

    >>> import jax.numpy as jnp, optax
    >>> from funcdl import train
    >>> line = train.objective(lambda key, x: jnp.zeros(3), lambda w, x: ((x @ w - 1) ** 2).mean())
    >>> print(summary(train.program(line, optax.sgd(0.1)), jnp.ones((4, 3))))
    3 parameters; bytes: params 12, state 0, opt_state 0, batch 48
    a step: ... FLOPs, ... bytes accessed, ... bytes of temporary memory
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    run = jax.eval_shape(lambda key, batch: program.init(key, batch, hyper), key, batch)
    compiled = jax.jit(program.step, donate_argnums=0).lower(run, batch).compile()
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    return StepSummary(
        sum(math.prod(p.shape) for p in jax.tree.leaves(run.params)),
        *(_bytes(part) for part in (run.params, run.state, run.opt_state, batch)),
        memory.temp_size_in_bytes if memory else 0,
        float(cost.get("flops", math.nan)),
        float(cost.get("bytes accessed", math.nan)),
    )


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))
