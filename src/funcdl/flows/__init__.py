"""Normalizing flows: plain functions with parameters; ``funcdl.density`` computes densities."""

from funcdl.flows._autoregressive import masked_autoregressive as masked_autoregressive
from funcdl.flows._autoregressive import spline_autoregressive as spline_autoregressive
from funcdl.flows._conditioner import Conditioner as Conditioner
from funcdl.flows._conditioner import cnn as cnn
from funcdl.flows._conditioner import mlp as mlp
from funcdl.flows._continuous import continuous as continuous
from funcdl.flows._continuous import velocity as velocity
from funcdl.flows._coupling import neural_spline as neural_spline
from funcdl.flows._coupling import real_nvp as real_nvp
from funcdl.flows._flow import Flow as Flow
from funcdl.flows._flow import chain as chain
from funcdl.flows._flow import from_function as from_function
from funcdl.flows._flow import repeat as repeat
from funcdl.flows._glow import actnorm as actnorm
from funcdl.flows._glow import conv1x1 as conv1x1
from funcdl.flows._glow import glow as glow
from funcdl.flows._glow import image_coupling as image_coupling
from funcdl.flows._glow import squeeze as squeeze
from funcdl.flows._likelihood import likelihood as likelihood
from funcdl.flows._ode import flow_ode as flow_ode
from funcdl.flows._ode import flow_ode_hutchinson as flow_ode_hutchinson
from funcdl.flows._ode import flow_ode_log_det as flow_ode_log_det
from funcdl.flows._ode_adaptive import flow_ode_adaptive as flow_ode_adaptive
from funcdl.flows._ode_adaptive import flow_ode_log_det_adaptive as flow_ode_log_det_adaptive
from funcdl.flows._planar import planar as planar
from funcdl.flows._rational_quadratic import rational_quadratic as rational_quadratic
from funcdl.flows._rational_quadratic import (
    rational_quadratic_inverse as rational_quadratic_inverse,
)
from funcdl.flows._standard_normal import sample_standard_normal as sample_standard_normal
from funcdl.flows._standard_normal import standard_normal as standard_normal
