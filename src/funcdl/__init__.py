"""Deep learning as pure functions.

Rooms, in import order: ``linalg``, ``operators``, ``autodiff``, ``per_example``, ``curvature``,
``stats``, ``density``, ``flows``, ``losses``, ``nn``, ``data``, ``train``, ``viz``. Each is
imported when it is first used.
"""

import importlib

_ROOMS = (
    "linalg",
    "operators",
    "autodiff",
    "per_example",
    "curvature",
    "stats",
    "density",
    "flows",
    "losses",
    "nn",
    "data",
    "train",
    "viz",
)
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return importlib.import_module(f"funcdl.{name}")
    raise AttributeError(f"module 'funcdl' has no attribute {name!r}; its rooms are {_ROOMS}")


def __dir__() -> list[str]:
    return [*globals(), *_ROOMS]
