"""Strict by default: no rank promotion, types checked at call time, float64 on request."""

import jax
import pytest
from jaxtyping import install_import_hook

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
