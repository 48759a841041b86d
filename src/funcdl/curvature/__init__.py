"""Curvature of losses as linear operators: built from a loss, used with ``funcdl.linalg``."""

from funcdl.curvature._ggn import fisher_empirical as fisher_empirical
from funcdl.curvature._ggn import ggn as ggn
from funcdl.curvature._hessian import hessian as hessian
from funcdl.curvature._jacobian import jacobian as jacobian
from funcdl.curvature._jacobian import ntk as ntk
