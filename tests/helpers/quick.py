"""A pytest plugin: tests compile without optimizations, but where `optimized` is used.

What they compile runs for milliseconds and takes seconds to optimize. JAX's own setting
turns LLVM's optimizations off; XLA's older code generator, while there is one, halves
what is left.
"""

from collections.abc import Iterator

import jax
import pytest
from jax._src import compiler

OLDER = {"xla_cpu_use_fusion_emitters": False}
_options = {}  # what programs are compiled with beside JAX's own settings


def pytest_configure():
    if _has_older():
        compiler.get_compile_options = _with_options(compiler.get_compile_options)
    disable_optimizations(True)


@pytest.fixture
def optimized() -> Iterator[None]:
    """For tests about the very bits that users get, or whose loops run for long."""
    disable_optimizations(False)
    jax.clear_caches()
    yield
    disable_optimizations(True)


def disable_optimizations(disable: bool) -> None:
    jax.config.update("jax_disable_most_optimizations", disable)
    _options.clear()
    _options.update(OLDER if disable else {})


def _has_older() -> bool:
    try:
        jax.jit(lambda x: x + 1, compiler_options=OLDER)(0)
    except jax.errors.JaxRuntimeError as error:
        assert "No such compile option" in str(error)
        return False
    return hasattr(compiler, "get_compile_options")


def _with_options(get_compile_options):
    def options(*arguments, **settings):
        found = get_compile_options(*arguments, **settings)
        found.env_option_overrides = [*_options.items(), *found.env_option_overrides]
        return found

    return options
