"""Strict by default: no rank promotion, types checked at call time, float64 on request."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS"):  # then let XLA compile as fast as it can
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_cpu_parallel_codegen_split_count=1"]
    if jax.__version_info__ < (0, 11):  # the old emitter takes half the time; it was removed
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(flags)
install_import_hook("funcdl", "beartype.beartype")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing makes many short-lived objects; collecting them by the hundred takes a tenth of a run.
gc.set_threshold(200_000, 50, 50)


def pytest_configure(config):
    """Keep compiled programs on disk; a folder per worker, so that no two write one file."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    folder = Path(config.rootpath) / ".pytest_cache" / f"jax-{jax.__version__}" / worker
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    config.pluginmanager.register(FreeMemoryBetweenFiles())


def free_memory():
    """Forget what was compiled: the programs of all modules would take 5 GB per worker."""
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":  # glibc keeps freed pages, unless it is asked
        ctypes.CDLL(None).malloc_trim(0)


class FreeMemoryBetweenFiles:
    """A plugin rather than a fixture, which would not reach the examples in ``src``."""

    def __init__(self):
        self.before = ""

    def pytest_runtest_logstart(self, nodeid):
        path = Path(nodeid.split("::")[0])
        # the examples of one folder are few per file, and share most of what they compile
        group = str(path.parent if path.parts[0] == "src" else path)
        if group != self.before:
            free_memory()
        self.before = group


@pytest.fixture
def free_memory_after_test():
    """For tests that compile hundreds of programs each."""
    yield
    free_memory()


@pytest.fixture
def x64():
    """Run one test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    return jax.random.key(0)
