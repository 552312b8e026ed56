"""A pytest plugin: tests compile without optimizations, but where `optimized` is used.

What they compile runs for milliseconds and takes seconds to optimize. JAX's own setting
turns LLVM's optimizations off; XLA's older code generator, while there is one, and code
in one piece take half of what is left.
"""

from collections.abc import Iterator

import jax
import pytest
from jax._src import compiler

QUICKER = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
_options = {}  # what programs are compiled with beside JAX's own settings


def pytest_configure():
    if _are_options():
        compiler.get_compile_options = _with_options(compiler.get_compile_options)
    disable_optimizations(True)


def _optimized() -> Iterator[None]:
    """For tests about the very bits that users get, or whose loops run for long."""
    disable_optimizations(False)
    jax.clear_caches()
    yield
    disable_optimizations(True)


optimized = pytest.fixture(_optimized, name="optimized")
optimized_module = pytest.fixture(_optimized, scope="module", name="optimized_module")


def disable_optimizations(disable: bool) -> None:
    jax.config.update("jax_disable_most_optimizations", disable)
    _options.clear()
    _options.update(QUICKER if disable else {})


def _are_options() -> bool:
    try:
        jax.jit(lambda x: x + 1, compiler_options=QUICKER)(0)
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
