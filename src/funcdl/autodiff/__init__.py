"""Transforms of plain functions: each returns a function of the same arguments."""

from funcdl.autodiff._check_second_order import SecondOrder as SecondOrder
from funcdl.autodiff._check_second_order import check_second_order as check_second_order
from funcdl.autodiff._hessian import hessian as hessian
from funcdl.autodiff._hessian import hessian_matrix as hessian_matrix
from funcdl.autodiff._hvp import hvp as hvp
from funcdl.autodiff._implicit import implicit_argmin as implicit_argmin
from funcdl.autodiff._implicit import implicit_fixed_point as implicit_fixed_point
from funcdl.autodiff._implicit import implicit_root as implicit_root
from funcdl.autodiff._jacobian import jacobian as jacobian
from funcdl.autodiff._laplacian import laplacian as laplacian
from funcdl.autodiff._sparse import sparse_hessian as sparse_hessian
from funcdl.autodiff._sparse import sparse_jacobian as sparse_jacobian
from funcdl.autodiff._taylor import taylor as taylor
