"""Linear algebra whose derivatives are right, on matrices and on matrix-free operators."""

from funcdl.linalg._build import from_dense as from_dense
from funcdl.linalg._build import operator as operator
from funcdl.linalg._eigsh import eigsh as eigsh
from funcdl.linalg._export import Cost as Cost
from funcdl.linalg._operator import LinearOperator as LinearOperator
from funcdl.linalg._results import EigenPairs as EigenPairs
from funcdl.linalg._results import Estimate as Estimate
from funcdl.linalg._results import NotConvergedError as NotConvergedError
from funcdl.linalg._results import SpectralDensity as SpectralDensity
from funcdl.linalg._results import require_converged as require_converged
from funcdl.linalg._space import Action as Action
from funcdl.linalg._space import Space as Space
from funcdl.linalg._space import space as space
from funcdl.linalg._stochastic import integrate as integrate
from funcdl.linalg._stochastic import sample_mean as sample_mean
from funcdl.linalg._stochastic import smooth as smooth
from funcdl.linalg._stochastic import spectral_density as spectral_density
from funcdl.linalg._stochastic import trace as trace
