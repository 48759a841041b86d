"""The numbers of a net as torch lays them out, and back."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcdl import _tree
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
    """Write the numbers of a net of Flax as a ``state_dict`` of torch.

    A ``kernel`` (..., in, out) becomes ``weight`` (out, in, ...): a transpose for a dense layer,
    HWIO to OIHW for a convolution. ``scale`` of a norm and ``embedding`` become ``weight``,
    ``mean`` and ``var`` become ``running_mean`` and ``running_var``.

    Args:
        variables: ``(params, state)`` of ``from_linen`` or ``from_nnx``, of dense layers,
            convolutions, norms and embeddings.
        names: Torch's name of a module for a path, ``{"Dense_0": "fc1"}``. The others keep their
            path, with dots.
        images: ``{"Dense_0": (h, w, c)}`` for a dense layer that reads a flattened image: torch
            flattens (c, h, w).

    Returns:
        NumPy arrays by name, for ``{k: torch.from_numpy(v)}`` or ``save_safetensors``.

    Raises:
        ValueError: If a leaf has no counterpart (of attention, a transposed convolution or
            another name), or ``names`` or ``images`` name no module.

    >>> variables = {"Dense_0": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}, {}
    >>> {k: v.shape for k, v in to_torch(variables, names={"Dense_0": "fc1"}).items()}
    {'fc1.bias': (2,), 'fc1.weight': (2, 3)}
    """
    places = _places(variables, names or {}, images or {})
    return {
        p.name: p.there(np.asarray(leaf)) for p, leaf in zip(places, jax.tree.leaves(variables))
    }


def from_torch(
    state_dict: dict,
    like: tuple,
    *,
    names: dict[str, str] | None = None,
    images: dict[str, tuple[int, int, int]] | None = None,
) -> Variables:
    """Read the numbers of a net of Flax from a ``state_dict`` of torch.

    Args:
        state_dict: Arrays by name, ``{k: v.numpy() for k, v in module.state_dict().items()}``.
            ``num_batches_tracked`` is left out.
        like: ``(params, state)`` of arrays or ``jax.ShapeDtypeStruct``, such as
            ``jax.eval_shape(model.init, key, x)``.
        names: As in ``to_torch``.
        images: As in ``to_torch``.

    Returns:
        ``(params, state)`` with the structure of ``like``.

    Raises:
        ValueError: As ``to_torch``, or if an array is missing, too many, or of another shape or
            dtype: nothing is cast.

    >>> like = {"Dense_0": {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}}, {}
    >>> arrays = {"fc1.weight": np.float32([[1], [2]]), "fc1.bias": np.float32([3, 4])}
    >>> from_torch(arrays, like, names={"Dense_0": "fc1"}).params["Dense_0"]["kernel"].tolist()
    [[1.0, 2.0]]
    """
    places = _places(like, names or {}, images or {})
    arrays = {k: np.asarray(v) for k, v in state_dict.items() if not k.endswith("_tracked")}
    extra = sorted({*arrays} - {p.name for p in places})
    if extra:
        raise ValueError(f"state_dict has {extra[0]!r}; expected {[p.name for p in places]}")
    leaves = []
    for place, form in zip(places, jax.tree.leaves(like)):
        if place.name not in arrays:
            raise ValueError(f"state_dict lacks {place.name!r}; it has {list(arrays)}")
        have, want = arrays[place.name], f"{np.dtype(form.dtype)}{list(place.shape)}"
        if f"{have.dtype}{list(have.shape)}" != want:
            raise ValueError(
                f"{place.name!r} is {have.dtype}{list(have.shape)} in state_dict; expected {want}"
            )
        leaves.append(jnp.asarray(place.back(have).reshape(form.shape)))
    return Variables(*jax.tree.unflatten(jax.tree.structure(like), leaves))


class _Place(NamedTuple):
    """Where an array goes: its name, the axes it is seen with, and their order in torch."""

    name: str
    axes: tuple[int, ...]
    order: tuple[int, ...]
    image: bool

    @property
    def shape(self) -> tuple[int, ...]:
        there = tuple(self.axes[i] for i in self.order)
        return (there[0], int(np.prod(there[1:]))) if self.image else there

    def there(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.reshape(self.axes).transpose(self.order)).reshape(
            self.shape
        )

    def back(self, array: np.ndarray) -> np.ndarray:
        there = tuple(self.axes[i] for i in self.order)
        return np.ascontiguousarray(array.reshape(there).transpose(np.argsort(self.order)))


def _places(variables: tuple, names: dict, images: dict) -> list[_Place]:
    params, state = variables
    paths = _tree.paths(params) + [p.removeprefix("batch_stats/") for p in _tree.paths(state)]
    forms = jax.tree.leaves((params, state))
    modules = {path.rpartition("/")[0] for path in paths}
    for module in [*names, *images]:
        if module not in modules:
            raise ValueError(f"{module!r} is no module of the net; it has {sorted(modules)}")
    return [_place(path, form.shape, names, images) for path, form in zip(paths, forms)]


def _place(path: str, shape: tuple, names: dict, images: dict) -> _Place:
    module, _, leaf = path.rpartition("/")
    attention = module.rpartition("/")[2] in {"query", "key", "value"} and len(shape) == 3
    transposed = "ConvTranspose" in module
    odd = (leaf != "kernel" and leaf != "embedding" and len(shape) != 1) or len(shape) < 1
    if leaf not in _LEAVES or attention or transposed or odd:
        raise ValueError(
            f"leaf {path!r} of shape {shape} has no counterpart in torch; expected dense layers, "
            f"convolutions, norms and embeddings, whose leaves are {list(_LEAVES)}"
        )
    name = ".".join(filter(None, (names.get(module, module.replace("/", ".")), _LEAVES[leaf])))
    if leaf != "kernel":
        return _Place(name, shape, tuple(range(len(shape))), False)
    image = module in images
    axes = (*images[module], shape[-1]) if image else shape
    if int(np.prod(axes)) != int(np.prod(shape)):
        raise ValueError(f"images has {images[module]} for {module!r}, whose kernel is {shape}")
    last = len(axes) - 1
    return _Place(name, axes, (last, last - 1, *range(last - 1)), image)
