"""Derivatives of the loss of every single example, from one backward pass over a batch."""

from funcdl.per_example._gradients import clipped_grad as clipped_grad
from funcdl.per_example._gradients import grad as grad
from funcdl.per_example._gradients import grad_norm as grad_norm
from funcdl.per_example._gradients import grad_second_moment as grad_second_moment
from funcdl.per_example._gradients import gram as gram
from funcdl.per_example._independence import ExamplesInteractError as ExamplesInteractError
from funcdl.per_example._independence import require_independent as require_independent
from funcdl.per_example._jacobians import ggn_diagonal as ggn_diagonal
from funcdl.per_example._jacobians import jacobian_gram as jacobian_gram
from funcdl.per_example._kronecker_factors import KroneckerBases as KroneckerBases
from funcdl.per_example._kronecker_factors import KroneckerFactors as KroneckerFactors
from funcdl.per_example._kronecker_factors import fisher_factors as fisher_factors
from funcdl.per_example._kronecker_factors import ggn_factors as ggn_factors
from funcdl.per_example._kronecker_factors import ggn_moments as ggn_moments
from funcdl.per_example._uses import Use as Use
from funcdl.per_example._uses import uses as uses
