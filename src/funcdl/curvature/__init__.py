"""Curvature of losses as linear operators: built from a loss, used with ``funcdl.linalg``."""

from funcdl.curvature._connectivity import Connection as Connection
from funcdl.curvature._connectivity import bezier as bezier
from funcdl.curvature._connectivity import loss_barrier as loss_barrier
from funcdl.curvature._connectivity import mode_connectivity as mode_connectivity
from funcdl.curvature._fisher import fisher_empirical as fisher_empirical
from funcdl.curvature._fisher import fisher_exact as fisher_exact
from funcdl.curvature._fisher import fisher_mc as fisher_mc
from funcdl.curvature._ggn import ggn as ggn
from funcdl.curvature._hessian import hessian as hessian
from funcdl.curvature._jacobian import jacobian as jacobian
from funcdl.curvature._jacobian import ntk as ntk
from funcdl.curvature._kfac import ekfac as ekfac
from funcdl.curvature._kfac import kfac as kfac
from funcdl.curvature._labels import draw_label as draw_label
from funcdl.curvature._labels import every_label as every_label
from funcdl.curvature._landscape import filter_normalized as filter_normalized
from funcdl.curvature._landscape import loss_landscape as loss_landscape
from funcdl.curvature._landscape import subspace_overlap as subspace_overlap
from funcdl.curvature._laplace import Laplace as Laplace
from funcdl.curvature._laplace import Predictive as Predictive
from funcdl.curvature._laplace import laplace as laplace
from funcdl.curvature._laplace import log_evidence as log_evidence
from funcdl.curvature._laplace import predictive as predictive
from funcdl.curvature._noise_scale import noise_scale as noise_scale
from funcdl.curvature._preconditioned import PreconditionedState as PreconditionedState
from funcdl.curvature._preconditioned import Preconditioner as Preconditioner
from funcdl.curvature._preconditioned import kl_clip as kl_clip
from funcdl.curvature._preconditioned import preconditioned as preconditioned
from funcdl.curvature._preconditioners import (
    ggn_diagonal_preconditioner as ggn_diagonal_preconditioner,
)
from funcdl.curvature._preconditioners import hutchinson_preconditioner as hutchinson_preconditioner
from funcdl.curvature._preconditioners import kfac_preconditioner as kfac_preconditioner
from funcdl.curvature._sharpness import WorstLoss as WorstLoss
from funcdl.curvature._sharpness import sharpness as sharpness
from funcdl.curvature._sharpness import stability_ratio as stability_ratio
from funcdl.curvature._sharpness import worst_loss as worst_loss
from funcdl.curvature._stream_operator import StreamOperator as StreamOperator
