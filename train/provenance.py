"""Where a result comes from: command, versions, hardware, date."""

import datetime
import os
import pathlib
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy")


def provenance() -> dict[str, Any]:
    """Returns plain values for JSON; folders of this machine are left out of them."""
    return {
        "command": command(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "hardware": hardware(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
    }


def command() -> str:
    """The command line, absolute paths shortened to their last part."""
    main = sys.modules["__main__"]
    module = main.__spec__.name if getattr(main, "__spec__", None) else None
    program = f"python -m {module}" if module else pathlib.Path(sys.argv[0]).name
    return " ".join([program, *(_shortened(word) for word in sys.argv[1:])])


def hardware() -> str:
    """The devices that JAX sees, and the processor with its number of usable cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    processor = f"{_processor()}, {cores or os.cpu_count()} cores"
    kinds = sorted({device.device_kind for device in jax.devices()})
    if jax.default_backend() == "cpu":
        return f"CPU ({processor})"
    return f"{len(jax.devices())} x {', '.join(kinds)} ({processor})"


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
