"""Networks as pairs of pure functions: ``Model``, adapters, and the layers that Flax lacks."""

from funcdl.nn import models as models
from funcdl.nn._adapters.equinox import from_equinox as from_equinox
from funcdl.nn._adapters.haiku import from_haiku as from_haiku
from funcdl.nn._adapters.linen import from_linen as from_linen
from funcdl.nn._adapters.nnx import from_nnx as from_nnx
from funcdl.nn._adapters.split_merge import merge as merge
from funcdl.nn._adapters.split_merge import split as split
from funcdl.nn._conv import Conv as Conv
from funcdl.nn._conv import conv as conv
from funcdl.nn._interchange.export import export as export
from funcdl.nn._interchange.export import load_export as load_export
from funcdl.nn._interchange.export import save_export as save_export
from funcdl.nn._interchange.safetensors import load_safetensors as load_safetensors
from funcdl.nn._interchange.safetensors import save_safetensors as save_safetensors
from funcdl.nn._interchange.torch import from_torch as from_torch
from funcdl.nn._interchange.torch import to_torch as to_torch
from funcdl.nn._model import Model as Model
from funcdl.nn._model import Variables as Variables
from funcdl.nn._pool import avg_pool as avg_pool
from funcdl.nn._pool import max_pool as max_pool
from funcdl.nn._summary import Layer as Layer
from funcdl.nn._summary import Summary as Summary
from funcdl.nn._summary import summary as summary
