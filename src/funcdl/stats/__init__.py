"""Families of distributions, mixtures and k-means: plain functions of plain parameters."""

from funcdl.stats import bernoulli as bernoulli
from funcdl.stats import categorical as categorical
from funcdl.stats import gaussian as gaussian
from funcdl.stats import mixture as mixture
from funcdl.stats import student_t as student_t
from funcdl.stats._bayes import Posterior as Posterior
from funcdl.stats._bayes import bayes as bayes
from funcdl.stats._kmeans import KMeans as KMeans
from funcdl.stats._kmeans import kmeans as kmeans
from funcdl.stats._kmeans import kmeans_plus_plus as kmeans_plus_plus
from funcdl.stats._kmeans import lloyd as lloyd
