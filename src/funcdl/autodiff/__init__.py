"""Transforms of plain functions: a function comes back, a direction is its second argument."""

from funcdl.autodiff._hvp import hvp as hvp
from funcdl.autodiff._mixing import MixedError as MixedError
from funcdl.autodiff._mixing import check_independent as check_independent
from funcdl.autodiff._outputs import ggn_diagonal as ggn_diagonal
from funcdl.autodiff._outputs import jacobian_gram as jacobian_gram
from funcdl.autodiff._per_example import Use as Use
from funcdl.autodiff._per_example import clipped_grad as clipped_grad
from funcdl.autodiff._per_example import grad_second_moment as grad_second_moment
from funcdl.autodiff._per_example import per_example_grad as per_example_grad
from funcdl.autodiff._per_example import per_example_grad_norm as per_example_grad_norm
from funcdl.autodiff._per_example import per_example_gram as per_example_gram
from funcdl.autodiff._per_example import per_example_uses as per_example_uses
