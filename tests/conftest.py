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
