"""Whole networks as flax.linen modules, to be adapted with ``nn.from_linen``."""

from funcdl.nn.models._classifiers import MLP as MLP
from funcdl.nn.models._classifiers import LeNet as LeNet
from funcdl.nn.models._classifiers import SmallCNN as SmallCNN
