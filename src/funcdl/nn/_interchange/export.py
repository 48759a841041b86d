"""Export of a net to StableHLO, for any batch size."""

import hashlib
import os
from pathlib import Path

import jax
from jax import export as jax_export

from funcdl._typing import PyTree
from funcdl.nn._interchange import atomic_file as _file
from funcdl.nn._model import Model


def export(
    model: Model, variables: tuple, x: PyTree, *, platforms: tuple[str, ...] | None = None
) -> jax_export.Exported:
    """Export the evaluation of a net, including its variables, to StableHLO.

    The batch size is a symbol ``b``, so the exported net accepts batches of any size.

    Args:
        model: The model.
        variables: ``(params, state)``; they become constants of the exported net.
        x: An input, or its ``jax.ShapeDtypeStruct``; every leaf has a leading batch axis.
        platforms: The platforms to support, such as ``("cpu", "cuda", "tpu")``; the current one if
            ``None``.

    Returns:
        The exported net. ``exported.call(x)`` computes the outputs, also under jit and vmap;
        ``exported.mlir_module()`` is the program as text, and ``save_export`` writes a file.

    Raises:
        ValueError: If ``x`` or an output has no batch axis, if one program cannot serve all batch
            sizes, or if the model calls back to Python.

    >>> import jax.numpy as jnp
    >>> from funcdl import nn
    >>> model = nn.Model(lambda key, x: None, lambda p, s, x, key=None: (p["w"] * x, s))
    >>> exported = export(model, ({"w": jnp.float32(2)}, {}), jnp.ones((1, 3)))
    >>> exported.call(jnp.ones((2, 3))).tolist(), exported.out_avals[0].str_short()
    ([[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]], 'float32[b,3]')
    """
    (b,) = jax_export.symbolic_shape("b")
    params, state = variables

    def form(leaf):
        if not leaf.shape:
            raise ValueError("x has a scalar leaf; expected a leading batch axis")
        return jax.ShapeDtypeStruct((b, *leaf.shape[1:]), leaf.dtype)

    forms = jax.tree.map(form, jax.eval_shape(lambda x: x, x))
    evaluated = jax.jit(lambda x: model.apply(params, state, x)[0])
    try:
        exported = jax_export.export(evaluated, platforms=platforms)(forms)
    except Exception as error:
        raise ValueError(
            "the model cannot be exported as one program for any batch of "
            f"{[f'{leaf.dtype}{leaf.shape}' for leaf in jax.tree.leaves(forms)]}: {error}"
        ) from error
    for out in exported.out_avals:
        if out.shape[:1] != (b,):
            raise ValueError(
                f"the model returns {out.str_short()}; expected a leading batch axis b"
            )
    return exported


def save_export(path: str | os.PathLike, exported: jax_export.Exported) -> Path:
    """Write an exported net to a file atomically.

    Args:
        path: The file; an existing file is replaced. ``jax.export.deserialize`` can read it too.
        exported: The result of ``export``.

    Returns:
        The path of the file.

    Raises:
        ValueError: If the net cannot be serialized, for example because its inputs are in a
            container that JAX cannot serialize.
        ImportError: If ``flatbuffers`` is missing.
    """
    _require_flatbuffers()
    try:
        content = bytes(exported.serialize())
    except Exception as error:
        raise ValueError(f"the exported model cannot be serialized: {error}") from error
    return _file.write(path, content + hashlib.sha256(content).digest())


def load_export(path: str | os.PathLike) -> jax_export.Exported:
    """Read an exported net from its file; the code of the model is not needed.

    Args:
        path: The file that ``save_export`` wrote.

    Returns:
        The exported net, as ``export`` returned it; ``exported.call(x)`` computes the outputs.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged.
        ImportError: If ``flatbuffers`` is missing.
    """
    _require_flatbuffers()
    content = Path(path).read_bytes()
    size = hashlib.sha256().digest_size
    if hashlib.sha256(content[:-size]).digest() != content[-size:]:
        raise ValueError(f"{path} is damaged: it does not match its SHA-256")
    return jax_export.deserialize(bytearray(content[:-size]))


def _require_flatbuffers() -> None:
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise ImportError("this needs flatbuffers: pip install 'funcdl[export]'") from error
