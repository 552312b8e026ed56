"""Compiles each program once, and keeps a long run of tests within its memory.

Nearly all of the time goes into compiling, and many tests want the programs of others,
those that start a process above all.

Every compiled program takes some memory maps, of which Linux lets one process have
65,530; where they run out the compiler crashes. Nothing else is dropped with them: what
is needed again is read again.
"""

import gc
import pathlib
import tempfile

import jax
import psutil
import pytest

_MAPS = pathlib.Path("/proc/self/maps")
_MOST = 30_000
_MOST_BYTES = 6 * 2**30

# Also of what takes no time to compile: there are thousands.
_KEPT = {"jax_persistent_cache_min_compile_time_secs": 0.0}


@pytest.fixture(autouse=True, scope="session")
def _compiled_once():
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # The environment is for processes that tests start.
        for name, value in {"jax_compilation_cache_dir": folder, **_KEPT}.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield
        jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(autouse=True, scope="module")
def _few_compiled_programs():
    yield
    too_many = _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST
    if too_many or psutil.Process().memory_info().rss > _MOST_BYTES:
        jax.clear_caches()
        gc.collect()
