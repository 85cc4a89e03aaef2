"""What tests of whole systems share."""

import jax
import pytest


@pytest.fixture
def little_compiled():
    """For programs that run once: compiling them well would take longer than they do."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
