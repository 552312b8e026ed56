"""Item A: packages, devices and peak speeds."""

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._gpu.context import Context, timed

_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "scipy",
    "torch",
    "triton",
    "foolbox",
)


def run(context: Context) -> Mapping[str, Any]:
    """Packages, devices, and the peak bytes and operations per second."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    size = context.size(2**28, 2**16)
    key = jax.random.key(0)
    values = jax.random.normal(key, (size,))
    copy = jax.jit(lambda x: x + 1)
    copied = min(timed(lambda: copy(values), repeats=10))
    side = context.size(8192, 64)
    half = jax.random.normal(key, (side, side), jnp.bfloat16)
    multiply = jax.jit(jnp.matmul)
    halves = min(timed(lambda: multiply(half, half), repeats=10))
    single = half.astype(jnp.float32)
    precise = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
    singles = min(timed(lambda: precise(single, single), repeats=5))
    return {
        "versions": versions,
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "copied_gbytes_per_second": 2 * values.nbytes / copied / 1e9,
        "bfloat16_tflops": 2 * side**3 / halves / 1e12,
        "float32_tflops": 2 * side**3 / singles / 1e12,
    }
