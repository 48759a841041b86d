"""Change of variables for plain functions, and flows."""

from funcdl.density._audit import Check as Check
from funcdl.density._audit import check as check
from funcdl.density._injective import NotInjective as NotInjective
from funcdl.density._inspect import Inspection as Inspection
from funcdl.density._inspect import Row as Row
from funcdl.density._inspect import inspect as inspect
from funcdl.density._inverse import inverse as inverse
from funcdl.density._inverse import inverse_and_log_det as inverse_and_log_det
from funcdl.density._log_det import log_abs_det_jacobian as log_abs_det_jacobian
from funcdl.density._log_det import value_and_log_det as value_and_log_det
from funcdl.density._reversible import reversible as reversible
from funcdl.density._rule import rule as rule
from funcdl.density._transport import pullback as pullback
from funcdl.density._transport import pushforward as pushforward
from funcdl.density._transport import pushforward_branches as pushforward_branches
from funcdl.density._transport import sample_and_log_prob as sample_and_log_prob
from funcdl.density._volume import value_and_log_volume as value_and_log_volume
