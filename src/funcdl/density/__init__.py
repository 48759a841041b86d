"""Change of variables for plain functions.

A density is a function ``log_prob(x)`` and a map is a plain function of one point; there is no
class of bijections. The effect of a map on a density is read from its jaxpr.
"""

from funcdl.density._check import Check as Check
from funcdl.density._check import check as check
from funcdl.density._inspect import Inspection as Inspection
from funcdl.density._inspect import Row as Row
from funcdl.density._inspect import inspect as inspect
from funcdl.density._inverse import inverse as inverse
from funcdl.density._inverse import inverse_and_log_det as inverse_and_log_det
from funcdl.density._inversion.injectivity import NotInjectiveError as NotInjectiveError
from funcdl.density._log_det import log_abs_det_jacobian as log_abs_det_jacobian
from funcdl.density._log_det import value_and_log_det as value_and_log_det
from funcdl.density._log_det_estimators import lanczos_log_det as lanczos_log_det
from funcdl.density._log_det_estimators import power_series_log_det as power_series_log_det
from funcdl.density._log_det_estimators import roulette_log_det as roulette_log_det
from funcdl.density._log_volume import value_and_log_volume as value_and_log_volume
from funcdl.density._program.custom_rules import rule as rule
from funcdl.density._pushforward import pullback as pullback
from funcdl.density._pushforward import pushforward as pushforward
from funcdl.density._pushforward import pushforward_branches as pushforward_branches
from funcdl.density._pushforward import sample_and_log_prob as sample_and_log_prob
from funcdl.density._reversible import reversible as reversible
