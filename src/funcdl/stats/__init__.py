"""Families of distributions, mixtures, k-means and information: functions of plain parameters.

Measures of information are grouped by the data they are computed from:

- parameters, in closed form: ``gaussian``, ``categorical``, ``bernoulli``, each with ``entropy``,
  ``cross_entropy`` and ``kl``; a vector of log-probabilities is a ``Categorical``;
- a joint distribution of two labels, exactly: ``joint_table``; of two blocks of Gaussian
  coordinates: ``gaussian.mutual_information``;
- a density and its draws: ``monte_carlo``; any mean over draws: ``expectation``;
- data alone: ``neighbors``;
- the scores of a critic: ``mi_bounds``.

All are in nats. Estimates come with their standard errors.
"""

from funcdl.stats import bernoulli as bernoulli
from funcdl.stats import categorical as categorical
from funcdl.stats import gaussian as gaussian
from funcdl.stats import joint_table as joint_table
from funcdl.stats import mi_bounds as mi_bounds
from funcdl.stats import mixture as mixture
from funcdl.stats import monte_carlo as monte_carlo
from funcdl.stats import neighbors as neighbors
from funcdl.stats import student_t as student_t
from funcdl.stats._bayes import Posterior as Posterior
from funcdl.stats._bayes import bayes as bayes
from funcdl.stats._expectation import expectation as expectation
from funcdl.stats._intrinsic_dimension import intrinsic_dimension as intrinsic_dimension
from funcdl.stats._kmeans import KMeans as KMeans
from funcdl.stats._kmeans import kmeans as kmeans
from funcdl.stats._kmeans import kmeans_plus_plus as kmeans_plus_plus
from funcdl.stats._kmeans import lloyd as lloyd
from funcdl.stats._moments import Moments as Moments
from funcdl.stats._moments import covariance as covariance
from funcdl.stats._moments import merge as merge
from funcdl.stats._moments import moments as moments
