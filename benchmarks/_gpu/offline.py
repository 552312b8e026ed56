"""Compiles programs for a GPU that is not present, to see what would run on it.

JAX's CUDA plugin contains the compiler; `h100.txtpb` describes the target. Nothing
runs, so there is no autotuning: the places of library calls in the program are known,
but not the algorithms they would use. A library call on many matrices may process them
one after another, which is not visible here.
"""

import contextlib
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata, util
from typing import Any, NamedTuple
from unittest import mock

import jax
import rich.markup
from jax.experimental import topologies

from benchmarks._gpu.context import Program
from train.present.terminal import print_rows
from train.records.storing import write_record
from train.utils.errors import UserError

TARGETS = ("h100",)
UNKNOWN = "data dependent"
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
XLA_FLAGS = ("--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false")

_FOLDER = pathlib.Path(__file__).parent
_PACKAGES = ("jax-cuda13-plugin", "jax-cuda13-pjrt")
_MODULES = ("jax_cuda13_plugin", "jax_plugins.xla_cuda13")
_KINDS = {"h100": "NVIDIA H100 80GB HBM3"}


def require_plugin() -> None:
    """Raises a `UserError` if JAX has no compiler for CUDA."""
    version = jax.__version__
    wanted = " ".join(f"{name}=={version}" for name in _PACKAGES)
    try:
        found = all(metadata.version(name) == version for name in _PACKAGES)
        found = found and all(util.find_spec(name) for name in _MODULES)
    except ImportError:  # a package or its parent is missing
        found = False
    if not found:
        raise UserError(
            f"JAX's CUDA compiler is needed: pip install --no-deps --target DIR "
            f"{wanted}, then the same command with PYTHONPATH=DIR"
        )


def is_prepared() -> bool:
    """Whether this process was started with the settings that this module needs."""
    given = os.environ.get("XLA_FLAGS", "").split()
    return set(XLA_FLAGS) <= set(given) and ENVIRONMENT.items() <= os.environ.items()


def run_prepared(module: str, arguments: Sequence[str]) -> int:
    """Runs a module of this checkout in a process with those settings."""
    # Not resolved, as parts of the checkout may be links into another one.
    paths = [str(_FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")]
    xla_flags = [os.environ.get("XLA_FLAGS", ""), *XLA_FLAGS]
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "XLA_FLAGS": " ".join(filter(None, xla_flags)),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    command = [sys.executable, "-P", "-m", module, *arguments]
    return subprocess.run(command, env=environment).returncode


@contextlib.contextmanager
def target(name: str) -> Iterator[jax.sharding.Sharding]:
    """A sharding on a target device; in the context JAX seems to run on a GPU."""
    description = topologies.get_topology_desc(
        platform="cuda",
        topology_name=name,
        topology="1x1x1",
        target_config=(_FOLDER / f"{name}.txtpb").read_text(),
    )
    with contextlib.ExitStack() as stack:
        # Without the cache, as compilation is timed.
        caching = jax.config.jax_enable_compilation_cache
        stack.callback(jax.config.update, "jax_enable_compilation_cache", caching)
        jax.config.update("jax_enable_compilation_cache", False)
        stack.enter_context(mock.patch.object(jax, "default_backend", lambda: "gpu"))
        # Newer versions of Pallas ask for the device.
        with contextlib.suppress(ImportError):
            info = importlib.import_module("jax._src.pallas.triton.gpu_info")
            for asked, answer in (
                ("get_device_kind", _KINDS[name]),
                ("get_device_platform", "gpu"),
            ):
                if hasattr(info, asked):
                    patch = mock.patch.object(info, asked, lambda answer=answer: answer)
                    stack.enter_context(patch)
        yield jax.sharding.SingleDeviceSharding(description.devices[0])


def compiled(
    item: str, program: Program, sharding: jax.sharding.Sharding
) -> dict[str, Any]:
    """A record of a program: the cost of compiling it, and what would run.

    Args:
        item: of the program.
        program: to compile.
        sharding: of `target`.
    """

    def there(x: Any) -> Any:
        if not hasattr(x, "dtype"):
            return x  # a static argument
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    record: dict[str, Any] = {"item": item, "program": program.name}
    try:
        began = time.perf_counter()
        arguments = jax.tree.map(there, program.arguments)
        options = jax.tree.map(there, dict(program.options))
        traced = program.function.trace(*arguments, **options)
        lowered = traced.lower(lowering_platforms=("cuda",))
        middle = time.perf_counter()
        done = lowered.compile()
        end = time.perf_counter()
        record["trace_s"] = round(middle - began, 1)
        record["compile_s"] = round(end - middle, 1)
        memory = done.memory_analysis()
        record["temporaries_mib"] = round(memory.temp_size_in_bytes / 2**20, 1)
        record |= described(done.as_text())
    except Exception as error:  # whatever a compiler raises; the others go on
        record["failed"] = f"{type(error).__name__}: {error}"[:300]
    return record


class _Within(NamedTuple):
    """The loops around an operation: their depth, and how often it runs if known."""

    depth: int
    times: int | None

    def loop(self, turns: int | None) -> "_Within":
        known = self.times is not None and turns is not None
        return _Within(self.depth + 1, self.times * turns if known else None)


class _Counts(NamedTuple):
    fusions: list[str]
    library_calls: Counter[str]
    serial: dict[str, dict[str, Any]]
    loops: list[dict[str, Any]]


# They launch nothing.
_SILENT = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
_SILENT |= {"after-all", "partition-id", "replica-id"}


def described(text: str) -> dict[str, Any]:
    """What runs in a program, from its optimized HLO.

    Returns:
        operations: launched outside loops; of a conditional, those of its longest
            branch.
        fusions: their number.
        library_calls: their number by name.
        loops: in program order, each with its number of iterations, the operations in
            one iteration without those of inner loops, and its depth, 1 for an
            outermost loop.
        serial_library_calls: those in loops, by name: their number, and how often they
            run in all.
    """
    computations, entry = _computations(text)
    counts = _Counts([], Counter(), {}, [])
    operations = _walk(computations, entry, _Within(0, 1), counts)
    return {
        "operations": operations,
        "fusions": len(counts.fusions),
        "library_calls": dict(counts.library_calls),
        "loops": counts.loops,
        "serial_library_calls": counts.serial,
    }


def _computations(text: str) -> tuple[Mapping[str, Sequence[str]], str]:
    """The lines of each computation, and the name of the entry computation."""
    found: dict[str, list[str]] = {}
    current, entry = None, ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head:
            current = head.group(2)
            found[current] = []
            entry = current if head.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None:
            found[current].append(line)
    return found, entry


def _walk(
    computations: Mapping[str, Sequence[str]],
    name: str,
    within: _Within,
    counts: _Counts,
) -> int:
    """Counts a computation's contents; returns its operations outside loops."""
    operations = 0
    for line in computations[name]:
        body = re.match(r"\s*(?:ROOT )?%?[\w.\-]+ = (.*)", line)
        found = body and re.search(r"[)\]}\d] ([a-z][\w\-]*)\(", body.group(1))
        if not body or not found:
            continue
        rest, operation = body.group(1), found.group(1)
        if operation in _SILENT or operation.endswith("-done"):
            continue
        if operation == "while":
            _loop(computations, rest, within, counts)
        elif operation == "conditional":
            branches = _called(rest, "branch_computations", "true_computation")
            branches += _called(rest, "false_computation")
            operations += max(_walk(computations, b, within, counts) for b in branches)
        elif operation == "call" or (
            operation == "async-start" and _called(rest, "calls")
        ):
            for called in _called(rest, "to_apply", "calls"):
                operations += _walk(computations, called, within, counts)
        else:
            operations += 1
            if operation == "fusion":
                counts.fusions.append(name)
            elif operation == "custom-call":
                _library_call(rest, within, counts)
    return operations


def _loop(
    computations: Mapping[str, Sequence[str]],
    rest: str,
    within: _Within,
    counts: _Counts,
) -> None:
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
    turns = int(known.group(1)) if known else None
    entry: dict[str, Any] = {"times": UNKNOWN if turns is None else turns}
    counts.loops.append(entry)
    inside = within.loop(turns)
    parts = _called(rest, "body")
    if turns is None:  # otherwise the condition is not evaluated
        parts += _called(rest, "condition")
    entry["operations"] = sum(_walk(computations, p, inside, counts) for p in parts)
    entry["depth"] = inside.depth


def _library_call(rest: str, within: _Within, counts: _Counts) -> None:
    found = re.search(r'custom_call_target="([^"]+)"', rest)
    name = found.group(1) if found else "unknown"
    counts.library_calls[name] += 1
    if within.depth:
        entry = counts.serial.setdefault(name, {"calls": 0, "runs": 0})
        entry["calls"] += 1
        if within.times is None or entry["runs"] == UNKNOWN:
            entry["runs"] = UNKNOWN
        else:
            entry["runs"] += within.times


def _called(rest: str, *attributes: str) -> list[str]:
    """The computations named in these attributes of an operation."""
    found = re.search(rf"\b(?:{'|'.join(attributes)})=(\{{[^}}]*\}}|%?[\w.\-]+)", rest)
    return re.findall(r"[\w.\-]+", found.group(1)) if found else []


def show(title: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Prints the records as a table."""
    rows: list[tuple[str, ...]] = []
    for record in records:
        if "failed" in record:
            words = rich.markup.escape(record["failed"])
            rows.append((record["item"], f"{record['program']}: {words}"))
            continue
        serial = record["serial_library_calls"].values()
        rows.append(
            (
                record["item"],
                record["program"],
                str(record["operations"]),
                str(len(record["loops"])),
                str(sum(loop["operations"] for loop in record["loops"])),
                str(sum(entry["calls"] for entry in serial)),
                f"{record['temporaries_mib']:.0f}",
                f"{record['trace_s'] + record['compile_s']:.1f}",
            )
        )
    print_rows(
        f"{title} (operations launched: outside loops, and in one iteration of each "
        "loop, summed; library calls in loops)",
        ("item", "program"),
        ("once", "loops", "in them", "calls", "MiB", "s"),
        rows,
    )


def write_section(
    path: pathlib.Path,
    label: str,
    facts: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
) -> None:
    """Replaces one section of a JSON file, with one line per record.

    Args:
        path: the file; created if missing.
        label: of the section.
        facts: about all records.
        records: of `compiled`.

    Raises:
        UserError: if the file is not such a file, or cannot be written.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not all("programs" in section for section in found.values()):
            raise ValueError
    except FileNotFoundError:
        found = {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} is not a JSON file of programs; move it away"
        ) from error
    write_record(path, {**found, label: {**facts, "programs": records}})
