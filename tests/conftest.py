"""Strict by default: no rank promotion, types checked at call time, float64 on request."""

import os

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


@pytest.fixture
def x64():
    """Run one test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    return jax.random.key(0)
