"""Other views of an operator: on flat vectors, on chosen leaves, and as its inverse."""

import dataclasses

import jax

from funcdl import _tree
from funcdl._typing import Globs
from funcdl.operators._core import algebra as _algebra
from funcdl.operators._core.space import Operator, space


def padded_block(a: Operator, rows: Globs, columns: Globs) -> Operator:
    """Return a block by products with zero-padded vectors; this works for any operator."""
    rows = (rows,) if isinstance(rows, str) else tuple(rows)
    columns = (columns,) if isinstance(columns, str) else tuple(columns)
    space_in = space(_tree.select(a.shape_in, columns).chosen)
    space_out = space(_tree.select(a.shape_out, rows).chosen)
    same = a.symmetric and space_in == space_out
    return dataclasses.replace(
        a,
        action=_algebra.block(rows, columns),
        operands=a,
        space_in=space_in,
        space_out=space_out,
        symmetric=same,
    )


def raveled(a: Operator) -> Operator:
    """View an operator as one between flat vectors, ``(n_in,)`` to ``(n_out,)``."""
    flat_in, flat_out = (
        space(jax.eval_shape(lambda form=form: _tree.ravel(form)[0](_tree.zeros(form))))
        for form in (a.shape_in, a.shape_out)
    )
    return dataclasses.replace(
        a, action=_algebra.RAVELED, operands=a, space_in=flat_in, space_out=flat_out
    )


def inverse(a: Operator) -> Operator:
    """View an operator that has a ``solve`` as its inverse."""
    action = _algebra.like_inverse(a.action)
    spaces = {"space_in": a.space_out, "space_out": a.space_in}
    return dataclasses.replace(a, action=action, operands=a, **spaces)
