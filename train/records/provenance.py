"""Where a result comes from: command, versions, hardware, precision, date."""

import datetime
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy")

# What launch.sh sets for everyone, on the processor alone.
LAUNCH_XLA_FLAGS = ("--xla_backend_extra_options=xla_cpu_disable_loop_unrolling",)


def provenance() -> dict[str, Any]:
    """Returns plain values for JSON; folders of this machine are left out of them."""
    return {
        "command": command(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "hardware": hardware(),
        "float32_products": float32_products(),
        **_xla_flags(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
    }


def command() -> str:
    """The command line as a shell takes it, absolute paths cut to their last part."""
    main = sys.modules["__main__"]
    module = main.__spec__.name if getattr(main, "__spec__", None) else None
    program = f"python -m {module}" if module else pathlib.Path(sys.argv[0]).name
    words = [_shortened(word) for word in sys.argv[1:]]
    return " ".join([program, *map(shlex.quote, words)])


def hardware() -> str:
    """The devices that JAX sees, and the processor with its number of usable cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    processor = f"{_processor()}, {cores or os.cpu_count()} cores"
    kinds = sorted({device.device_kind for device in jax.devices()})
    if jax.default_backend() == "cpu":
        return f"CPU ({processor})"
    return f"{len(jax.devices())} x {', '.join(kinds)} ({processor})"


def float32_products() -> str:
    """The precision of products of float32 numbers, convolutions among them.

    Those of purification ask for float32 themselves; the others have JAX's setting, or
    else what the backend does by default.
    """
    setting = jax.config.jax_default_matmul_precision
    if setting is not None:
        return f"{setting} by jax_default_matmul_precision; float32 in purification"
    return {
        "cpu": "float32",
        "gpu": "TF32 in networks where cuDNN or cuBLAS choose it; float32 in "
        "purification",
    }.get(
        jax.default_backend(),
        f"in networks the default of {jax.default_backend()}; float32 in purification",
    )


def _xla_flags() -> dict[str, str]:
    """XLA_FLAGS of the environment without what launch.sh sets; {} where none is."""
    words = os.environ.get("XLA_FLAGS", "").split()
    words = [_shortened(word) for word in words if word not in LAUNCH_XLA_FLAGS]
    return {"xla_flags": " ".join(words)} if words else {}


def _shortened(word: str) -> str:
    name, equals, value = word.partition("=")
    if equals and os.path.isabs(value):
        return f"{name}={pathlib.Path(value).name}"
    return pathlib.Path(word).name if os.path.isabs(word) else word


def _processor() -> str:
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The checkout's commit, with a plus sign where files differ from it."""
    try:
        name = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+" if changed else "")


def _git(*words: str) -> str:
    """What git prints of the checkout that this file is in."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent), *words]
    done = subprocess.run(git, capture_output=True, text=True, check=True)
    return done.stdout.strip()
