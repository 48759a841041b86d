"""Small classifiers of images and vectors, whose inputs have a leading batch axis."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen

from funcdl._typing import Array, ArrayLike, Elementwise
from funcdl.nn._conv import Conv
from funcdl.nn._pool import max_pool


class MLP(linen.Module):
    """Dense layers with an activation between them; inputs are flattened.

    Attributes:
        widths: The number of units of each layer; the last one is the number of outputs.
        activation: The activation function between the layers.
    """

    widths: Sequence[int]
    activation: Elementwise = linen.relu

    @linen.compact
    def __call__(self, x: ArrayLike) -> Array:
        """Map ``(b, ...)`` to ``(b, widths[-1])``."""
        x = jnp.asarray(x)
        x = x.reshape(x.shape[0], -1)
        for width in self.widths[:-1]:
            x = self.activation(linen.Dense(width)(x))
        return linen.Dense(self.widths[-1])(x)


class SmallCNN(linen.Module):
    """Two 3x3 convolutions, each with a 2x2 max-pool, and one hidden layer.

    Attributes:
        classes: The number of outputs.
        channels: The numbers of channels of the two convolutions.
        hidden: The number of units of the hidden layer.
    """

    classes: int = 10
    channels: Sequence[int] = (16, 32)
    hidden: int = 64

    @linen.compact
    def __call__(self, x: ArrayLike) -> Array:
        """Map images ``(b, h, w, c)`` to logits ``(b, classes)``."""
        x = jnp.asarray(x)
        for channels in self.channels:
            x = max_pool(linen.relu(Conv(channels, (3, 3))(x)), (2, 2))
        return MLP((self.hidden, self.classes))(x)


class LeNet(linen.Module):
    """Two 5x5 convolutions without padding, each with a 2x2 max-pool, and two hidden layers.

    Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86 (1998), with ReLU and max-pooling, as is usual today.

    Attributes:
        classes: The number of outputs.
        channels: The numbers of channels of the two convolutions.
        hidden: The numbers of units of the two hidden layers.
    """

    classes: int = 10
    channels: Sequence[int] = (6, 16)
    hidden: Sequence[int] = (120, 84)

    @linen.compact
    def __call__(self, x: ArrayLike) -> Array:
        """Map images ``(b, h, w, c)`` to logits ``(b, classes)``."""
        x = jnp.asarray(x)
        for channels in self.channels:
            x = max_pool(linen.relu(Conv(channels, (5, 5), padding="VALID")(x)), (2, 2))
        return MLP((*self.hidden, self.classes))(x)
