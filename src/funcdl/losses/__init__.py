"""Scalar losses and metrics that never broadcast; ``Mean`` carries its weight."""

from funcdl._mean import Mean as Mean
from funcdl.losses._classification import accuracy as accuracy
from funcdl.losses._classification import masked_accuracy as masked_accuracy
from funcdl.losses._classification import (
    masked_softmax_cross_entropy as masked_softmax_cross_entropy,
)
from funcdl.losses._classification import sigmoid_cross_entropy as sigmoid_cross_entropy
from funcdl.losses._classification import softmax_cross_entropy as softmax_cross_entropy
from funcdl.losses._regression import absolute_error as absolute_error
from funcdl.losses._regression import huber as huber
from funcdl.losses._regression import squared_error as squared_error
