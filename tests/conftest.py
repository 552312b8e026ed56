import contextlib

import jax
import pytest


@pytest.fixture
def x64():
    """Runs the test in float64; the default elsewhere stays float32."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    with contextlib.ExitStack() as stack:
        stack.callback(jax.config.update, "jax_enable_x64", before)
        yield


@pytest.fixture(scope="module")
def quick_compilation():
    """For modules of which most goes into compiling what runs for milliseconds.

    Not where a test is about the very bits that users get, or loops run for long.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    # What other modules compile is to be as users have it.
    jax.clear_caches()
