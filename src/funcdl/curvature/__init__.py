"""Curvature of losses as linear operators: built from a loss, used with ``funcdl.linalg``."""

from funcdl.curvature._fisher import every_label as every_label
from funcdl.curvature._fisher import fisher_empirical as fisher_empirical
from funcdl.curvature._fisher import fisher_exact as fisher_exact
from funcdl.curvature._ggn import ggn as ggn
from funcdl.curvature._hessian import hessian as hessian
from funcdl.curvature._jacobian import jacobian as jacobian
from funcdl.curvature._jacobian import ntk as ntk
from funcdl.curvature._kfac import ekfac as ekfac
from funcdl.curvature._kfac import kfac as kfac
from funcdl.curvature._landscape import filter_normalized as filter_normalized
from funcdl.curvature._landscape import landscape as landscape
from funcdl.curvature._landscape import overlap as overlap
from funcdl.curvature._noise import noise_scale as noise_scale
from funcdl.curvature._sharpness import WorstLoss as WorstLoss
from funcdl.curvature._sharpness import sharpness as sharpness
from funcdl.curvature._sharpness import worst_loss as worst_loss
