"""Networks as pairs of pure functions: ``Model``, adapters, and the layers that Flax lacks."""

from funcdl.nn._model import Model as Model
from funcdl.nn._model import Variables as Variables
