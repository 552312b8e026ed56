import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def quick_compilation():
    """Most of the time here goes into compiling what runs for milliseconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
