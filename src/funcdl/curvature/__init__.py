"""Curvature of losses as linear operators: built from a loss, used with ``funcdl.linalg``."""

from funcdl.curvature._hessian import hessian as hessian
