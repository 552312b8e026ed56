"""Keeps a long run of tests within what Linux lets one process map.

Every compiled program takes some memory maps, of which a process may have 65,530; where
they run out the compiler crashes. Nothing else is dropped with them: what is needed
again is compiled again.
"""

import gc
import pathlib

import jax
import pytest

_MAPS = pathlib.Path("/proc/self/maps")
_MOST = 30_000


@pytest.fixture(autouse=True, scope="module")
def _few_compiled_programs():
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST:
        jax.clear_caches()
        gc.collect()
