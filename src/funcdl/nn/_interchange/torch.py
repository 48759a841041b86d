"""Conversion of a net's arrays to PyTorch's layouts, and back."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
from funcdl.nn._interchange.safetensors import check_uncast
from funcdl.nn._model import Variables

_LEAVES = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def to_torch(
    variables: tuple,
    *,
    names: dict[str, str] | None = None,
    images: dict[str, tuple[int, int, int]] | None = None,
) -> dict[str, np.ndarray]:
    """Convert the variables of a Flax net to a ``state_dict`` of PyTorch.

    A ``kernel`` (..., in, out) becomes ``weight`` (out, in, ...): a transpose for a dense layer,
    HWIO to OIHW for a convolution. The ``scale`` of a norm and an ``embedding`` become ``weight``;
    ``mean`` and ``var`` become ``running_mean`` and ``running_var``.

    Args:
        variables: ``(params, state)`` of ``from_linen`` or ``from_nnx``. The net may have dense
            layers, convolutions, norms and embeddings.
        names: A dict from the path of a module to its name in PyTorch, ``{"Dense_0": "fc1"}``.
            Other modules keep their path, with dots.
        images: A dict ``{"Dense_0": (h, w, c)}`` for each dense layer that reads a flattened image,
            because PyTorch flattens (c, h, w).

    Returns:
        NumPy arrays by name, for ``{k: torch.from_numpy(v)}`` or ``save_safetensors``.

    Raises:
        ValueError: If a leaf has no counterpart (in attention, in a transposed convolution, or with
            an unknown name), or a key of ``names`` or ``images`` is not a module.

    >>> variables = {"Dense_0": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}, {}
    >>> {k: v.shape for k, v in to_torch(variables, names={"Dense_0": "fc1"}).items()}
    {'fc1.bias': (2,), 'fc1.weight': (2, 3)}
    """
    layouts = _layouts(variables, names or {}, images or {})
    return {
        layout.name: layout.to_torch(np.asarray(leaf))
        for layout, leaf in zip(layouts, jax.tree.leaves(variables))
    }


def from_torch(
    state_dict: Mapping[str, Any],
    like: tuple,
    *,
    names: dict[str, str] | None = None,
    images: dict[str, tuple[int, int, int]] | None = None,
) -> Variables:
    """Convert a ``state_dict`` of PyTorch to the variables of a Flax net.

    Args:
        state_dict: Arrays by name, ``{k: v.numpy() for k, v in module.state_dict().items()}``.
            ``num_batches_tracked`` is ignored.
        like: ``(params, state)`` of arrays or ``jax.ShapeDtypeStruct``, such as
            ``jax.eval_shape(model.init, key, x)``.
        names: As in ``to_torch``.
        images: As in ``to_torch``.

    Returns:
        ``(params, state)`` with the structure of ``like``.

    Raises:
        ValueError: As in ``to_torch``, and if an array is missing, unexpected, or of another shape
            or dtype, or of a 64-bit dtype without ``jax_enable_x64``; nothing is cast.

    >>> like = {"Dense_0": {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}}, {}
    >>> arrays = {"fc1.weight": np.float32([[1], [2]]), "fc1.bias": np.float32([3, 4])}
    >>> from_torch(arrays, like, names={"Dense_0": "fc1"}).params["Dense_0"]["kernel"].tolist()
    [[1.0, 2.0]]
    """
    layouts = _layouts(like, names or {}, images or {})
    arrays = {k: np.asarray(v) for k, v in state_dict.items() if not k.endswith("_tracked")}
    expected = [layout.name for layout in layouts]
    extra = sorted({*arrays} - {*expected})
    if extra:
        raise ValueError(f"state_dict has {extra[0]!r}, which the net lacks; expected {expected}")
    leaves = []
    for layout, form in zip(layouts, jax.tree.leaves(like)):
        if layout.name not in arrays:
            raise ValueError(f"state_dict lacks {layout.name!r}; it has {list(arrays)}")
        array, want = arrays[layout.name], f"{np.dtype(form.dtype)}{list(layout.shape)}"
        have = f"{array.dtype}{list(array.shape)}"
        if have != want:
            raise ValueError(f"{layout.name!r} is {have} in state_dict; expected {want}")
        check_uncast(f"{layout.name!r} in state_dict", array)
        leaves.append(jnp.asarray(layout.from_torch(array).reshape(form.shape)))
    return Variables(*jax.tree.unflatten(jax.tree.structure(like), leaves))


class _Layout(NamedTuple):
    """The layout of an array in PyTorch.

    Attributes:
        name: The name in the ``state_dict``.
        axes: The lengths of the axes in Flax, with a flattened image unflattened.
        order: The order of these axes in PyTorch.
        is_image: Whether the first axis of a dense kernel is a flattened image.
    """

    name: str
    axes: tuple[int, ...]
    order: tuple[int, ...]
    is_image: bool

    @property
    def permuted(self) -> tuple[int, ...]:
        return tuple(self.axes[i] for i in self.order)

    @property
    def shape(self) -> tuple[int, ...]:
        permuted = self.permuted
        return (permuted[0], int(np.prod(permuted[1:]))) if self.is_image else permuted

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        permuted = array.reshape(self.axes).transpose(self.order)
        return np.ascontiguousarray(permuted).reshape(self.shape)

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        inverse = np.argsort(self.order)
        return np.ascontiguousarray(array.reshape(self.permuted).transpose(inverse))


def _layouts(variables: tuple, names: dict, images: dict) -> list[_Layout]:
    if not isinstance(variables, (tuple, list)) or len(variables) != 2:
        raise TypeError(
            f"variables is a {type(variables).__name__}; expected the pair (params, state)"
        )
    params, state = variables
    _tree.check_shaped(variables, "variables")
    paths = _tree.paths(params) + [p.removeprefix("batch_stats/") for p in _tree.paths(state)]
    forms = jax.tree.leaves((params, state))
    modules = {path.rpartition("/")[0] for path in paths}
    for module in [*names, *images]:
        if module not in modules:
            raise ValueError(f"{module!r} is not a module of the net; it has {sorted(modules)}")
    return [_layout(path, form.shape, names, images) for path, form in zip(paths, forms)]


def _layout(path: str, shape: tuple[int, ...], names: dict, images: dict) -> _Layout:
    module, _, leaf = path.rpartition("/")
    is_attention = module.rpartition("/")[2] in {"query", "key", "value"} and len(shape) == 3
    is_transposed = "ConvTranspose" in module
    ndim = len(shape)
    is_odd = (leaf not in {"kernel", "embedding"} and ndim != 1) or ndim < 1
    if leaf not in _LEAVES or is_attention or is_transposed or is_odd:
        raise ValueError(
            f"leaf {path!r} of shape {shape} has no counterpart in PyTorch; expected dense layers, "
            f"convolutions, norms and embeddings, whose leaves are {list(_LEAVES)}"
        )
    name = ".".join(filter(None, (names.get(module, module.replace("/", ".")), _LEAVES[leaf])))
    if leaf != "kernel":
        return _Layout(name, axes=shape, order=tuple(range(len(shape))), is_image=False)
    is_image = module in images
    axes = (*images[module], shape[-1]) if is_image else shape
    if int(np.prod(axes)) != int(np.prod(shape)):
        raise ValueError(
            f"images has {images[module]} for {module!r}, whose kernel has shape {shape}; expected "
            "(h, w, c) with this number of inputs"
        )
    last = len(axes) - 1
    return _Layout(name, axes=axes, order=(last, last - 1, *range(last - 1)), is_image=is_image)
