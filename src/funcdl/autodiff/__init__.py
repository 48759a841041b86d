"""Transforms of plain functions: a function comes back, a direction is its second argument."""

from funcdl.autodiff._hvp import hvp as hvp
