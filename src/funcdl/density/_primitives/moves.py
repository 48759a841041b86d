"""Records of the operations that only move numbers: reshapes, slices, gathers, scatters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcdl.density._primitives.primitive import Primitive
from funcdl.density._primitives.slope import ONE, Numbers, of


def _broadcast(params: dict, x: np.ndarray, *_sizes: np.ndarray) -> np.ndarray:
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], x.shape):
        shape[axis] = size
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _slice(params: dict, x: np.ndarray) -> np.ndarray:
    bounds = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * x.ndim
    return x[tuple(slice(a, b, s) for a, b, s in zip(*bounds, strides))]


def _iota(params: dict) -> np.ndarray:
    dimension, shape = params["dimension"], params["shape"]
    along = [-1 if axis == dimension else 1 for axis in range(len(shape))]
    line = np.arange(shape[dimension], dtype=params["dtype"])
    return np.broadcast_to(line.reshape(along), shape)


def _select(_params: dict, predicate: np.ndarray, *cases: np.ndarray) -> np.ndarray | None:
    return np.where(predicate.astype(bool), cases[1], cases[0]) if len(cases) == 2 else None


def _select_slopes(_params: dict, predicate: Numbers, *cases_and_result: Numbers) -> tuple:
    cases = cases_and_result[:-1]
    if jnp.issubdtype(jnp.result_type(predicate), jnp.bool_):
        return ONE, of(~predicate), of(predicate)
    chosen = jnp.asarray(predicate, jnp.int32)
    return ONE, *(of(chosen == case) for case in range(len(cases)))


def _move(*sources: int, **facts: Any) -> Primitive:
    return Primitive(sources=sources or (0,), linear="jointly", **facts)


def _recast(**facts: Any) -> Primitive:
    return _move(in_place=True, **facts)


MOVES: dict[str, Primitive] = {
    "iota": Primitive(evaluate=_iota),
    "reshape": _move(evaluate=lambda p, x: x.reshape(p["new_sizes"])),
    "transpose": _move(evaluate=lambda p, x: x.transpose(p["permutation"])),
    "squeeze": _move(evaluate=lambda p, x: x.squeeze(tuple(p["dimensions"]))),
    "expand_dims": _move(evaluate=lambda p, x: np.expand_dims(x, p["dimensions"])),
    "broadcast_in_dim": _move(evaluate=_broadcast),
    "slice": _move(evaluate=_slice),
    "rev": _move(evaluate=lambda p, x: np.flip(x, p["dimensions"])),
    "split": _move(),
    "concatenate": Primitive(
        sources=slice(None),
        linear="jointly",
        evaluate=lambda p, *x: np.concatenate(x, p["dimension"]),
    ),
    "stack": _move(),
    "pad": _move(0, 1),
    "gather": _move(indices=slice(1, None)),
    "dynamic_slice": _move(indices=slice(1, None)),
    "dynamic_update_slice": _move(0, 1, indices=slice(2, None)),
    "scatter": _move(0, 2, indices=slice(1, 2), rebuild=jax.lax.scatter),
    "select_n": Primitive(
        slopes=_select_slopes,
        slope_bounds=lambda _at, _x, _y, _p: (1.0, 1.0),
        sources=slice(1, None),
        indices=slice(0, 1),
        evaluate=_select,
        pointwise=True,
        jumps=True,
        choice=True,
        missing={
            "bounds": "they follow from its sources",
            "inverse": "the case that is not chosen stays unknown",
        },
    ),
    "convert_element_type": _recast(pointwise=True),
    "reduce_precision": _recast(),
    "copy_p": _recast(),
    "name": _recast(),
    "optimization_barrier": _recast(),
}
