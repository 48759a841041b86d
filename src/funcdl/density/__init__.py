"""Change of variables for plain functions, and flows.

A density is a function ``log_prob(x)``, a map a plain function of one point; there is no class of
bijections. What a map does to a density is read from its jaxpr.
"""

from funcdl.density._audit import Check as Check
from funcdl.density._audit import check as check
from funcdl.density._autoregressive import masked_autoregressive as masked_autoregressive
from funcdl.density._autoregressive import spline_autoregressive as spline_autoregressive
from funcdl.density._base import sample_standard_normal as sample_standard_normal
from funcdl.density._base import standard_normal as standard_normal
from funcdl.density._conditioner import Conditioner as Conditioner
from funcdl.density._conditioner import cnn as cnn
from funcdl.density._conditioner import mlp as mlp
from funcdl.density._continuous import continuous as continuous
from funcdl.density._continuous import velocity as velocity
from funcdl.density._coupling import neural_spline as neural_spline
from funcdl.density._coupling import real_nvp as real_nvp
from funcdl.density._flow import Flow as Flow
from funcdl.density._flow import chain as chain
from funcdl.density._flow import lift as lift
from funcdl.density._flow import repeat as repeat
from funcdl.density._glow import actnorm as actnorm
from funcdl.density._glow import conv1x1 as conv1x1
from funcdl.density._glow import glow as glow
from funcdl.density._glow import image_coupling as image_coupling
from funcdl.density._glow import squeeze as squeeze
from funcdl.density._injective import NotInjective as NotInjective
from funcdl.density._inspect import Inspection as Inspection
from funcdl.density._inspect import Row as Row
from funcdl.density._inspect import inspect as inspect
from funcdl.density._inverse import inverse as inverse
from funcdl.density._inverse import inverse_and_log_det as inverse_and_log_det
from funcdl.density._likelihood import likelihood as likelihood
from funcdl.density._log_det import log_abs_det_jacobian as log_abs_det_jacobian
from funcdl.density._log_det import value_and_log_det as value_and_log_det
from funcdl.density._ode import flow_ode as flow_ode
from funcdl.density._ode import flow_ode_hutchinson as flow_ode_hutchinson
from funcdl.density._ode import flow_ode_log_det as flow_ode_log_det
from funcdl.density._ode_adaptive import flow_ode_adaptive as flow_ode_adaptive
from funcdl.density._ode_adaptive import flow_ode_log_det_adaptive as flow_ode_log_det_adaptive
from funcdl.density._planar import planar as planar
from funcdl.density._rational_quadratic import rational_quadratic as rational_quadratic
from funcdl.density._rational_quadratic import (
    rational_quadratic_inverse as rational_quadratic_inverse,
)
from funcdl.density._reversible import reversible as reversible
from funcdl.density._rule import rule as rule
from funcdl.density._stochastic import lanczos_log_det as lanczos_log_det
from funcdl.density._stochastic import power_series_log_det as power_series_log_det
from funcdl.density._stochastic import roulette_log_det as roulette_log_det
from funcdl.density._transport import pullback as pullback
from funcdl.density._transport import pushforward as pushforward
from funcdl.density._transport import pushforward_branches as pushforward_branches
from funcdl.density._transport import sample_and_log_prob as sample_and_log_prob
from funcdl.density._volume import value_and_log_volume as value_and_log_volume
