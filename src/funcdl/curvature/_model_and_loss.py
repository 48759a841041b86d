"""Losses that consist of a model and a loss of its outputs."""

from typing import Any

import jax
from jax.tree_util import Partial

from funcdl import _batching, _tree
from funcdl._batch_size import check_mean
from funcdl._closure import hoisted
from funcdl._typing import LossFunction, ModelFunction, PyTree
from funcdl.curvature._mean_operator import check_function, check_scalar


def split(
    f: ModelFunction,
    loss: LossFunction,
    params: PyTree,
    data: PyTree,
    *,
    sizes: tuple[int, ...] = (),
) -> tuple:
    """Check a model and a loss of its outputs, and hoist the tracers that they captured.

    Args:
        f: ``f(params, batch) -> z``.
        loss: ``loss(z, batch)``.
        params: Any pytree of float arrays.
        data: One batch or ``Batches``.
        sizes: Additional batch sizes with which both will be called.

    Returns:
        Both as ``Partial``.

    Raises:
        ValueError: If the loss is not scalar, is a sum over the examples, or ``data`` is ``None``;
            if a leaf that is read example by example has no entries.
    """
    check_function(f, "f", "params, batch")
    check_function(loss, "loss", "z, batch")
    _tree.check_floating(params, "params")
    if data is None:
        raise ValueError("data is None; expected one batch of arrays, or Batches")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if sizes and not leaf.size:
            raise ValueError(
                f"params at path {_tree.path_text(path)!r} has shape {leaf.shape}, no entries; "
                "expected at least one: leave it out"
            )
    forms = _batching.forms(data)
    forms += [_batching.resized(forms[0], size) for size in sizes]
    f = hoisted(f, *((params, form) for form in forms))
    outputs = [jax.eval_shape(f, params, form) for form in forms]
    _tree.check_floating(outputs[0], "z = f(params, batch)")
    loss = hoisted(loss, *zip(outputs, forms))
    check_scalar(jax.eval_shape(loss, outputs[0], forms[0]))
    check_mean(Partial(_composed, f, loss), params, forms[0])
    return f, loss


def _composed(f: ModelFunction, loss: LossFunction, params: PyTree, batch: PyTree) -> Any:
    return loss(f(params, batch), batch)
