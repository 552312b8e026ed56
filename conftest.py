"""Compiles each program once, and keeps a long run of tests within time and memory.

Nearly all of the time goes into compiling. What was compiled is kept in `.cache`, which
may be deleted at any time, for the next run and for the processes that tests start.
"""

import contextlib
import gc
import hashlib
import os
import pathlib
import platform
import shutil

import jax
import psutil
import pytest

pytest_plugins = ["costs", "quick", "selection"]  # in tests/helpers

CACHES = pathlib.Path(__file__).parent / ".cache" / "programs"
LARGEST_CACHE = 2**30

# Net allocations between two searches for reference cycles. Tracing allocates so much
# that with Python's own number these take a tenth of the time.
ALLOCATIONS = 50_000

# Every compiled program takes some memory maps, of which Linux lets one process have
# 65,530; where they run out the compiler crashes.
MAPS = pathlib.Path("/proc/self/maps")
MOST_MAPS = 30_000
MOST_BYTES = 4 * 2**30


@pytest.hookimpl(tryfirst=True)  # before anyone uses JAX
def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        _limit(CACHES)
    folder = CACHES / _machine()
    folder.mkdir(parents=True, exist_ok=True)
    # The environment is for processes that tests start. Kept is also what takes no
    # time to compile: there are thousands.
    for name, value in {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    # Whichever binary runs first in this process; alone it takes all cores.
    jax.config.update("jax_num_cpu_devices", 1)
    gc.set_threshold(ALLOCATIONS)
    # Of scikit-learn and PyTorch: several would wait busily for cores that tests share.
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish():
    gc.freeze()  # what has been imported stays


def _machine():
    """JAX's version, and the CPU that programs are compiled for."""
    cpu = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu += "".join(sorted({x for x in lines if x.startswith(("model", "flags"))}))
    return f"jax-{jax.__version__}-{hashlib.sha256(cpu.encode()).hexdigest()[:12]}"


def _limit(folder):
    """Deletes all programs once they take up too much."""
    if sum(path.stat().st_size for path in folder.glob("*/*")) > LARGEST_CACHE:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def _few_compiled_programs():
    yield
    too_many = MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS
    if too_many or psutil.Process().memory_info().rss > MOST_BYTES:
        # Nothing else is dropped with them: what is needed again is read again.
        jax.clear_caches()
        gc.collect()
