"""Networks as pairs of pure functions: ``Model``, adapters, and the layers that Flax lacks."""

from funcdl.nn import models as models
from funcdl.nn._conv import Conv as Conv
from funcdl.nn._conv import conv as conv
from funcdl.nn._linen import from_linen as from_linen
from funcdl.nn._model import Model as Model
from funcdl.nn._model import Variables as Variables
from funcdl.nn._pool import avg_pool as avg_pool
from funcdl.nn._pool import max_pool as max_pool
