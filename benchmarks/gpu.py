"""Everything that wants a GPU, in order of value, in the time there is.

    ./launch.sh bench gpu --data=DIR --budget_s=180 --items=A,B,C
    ./launch.sh bench gpu --data=DIR --budget_s=540 --items=D,E,F,G,H,I,J,K,L
    ./launch.sh bench gpu --rehearse

Each item writes its results to a JSON file of its own in --out when it is done, and
most of them after each row. What does not fit into the budget is skipped and named; an
item that fails is reported, and the rest goes on. Networks stay in --state, where later
items and a second call find them. `DIR` holds ``cifar10_jpeg.npz`` (JPEG scans of the
training and test images), ``cifar10_lossless_test.npz`` and ``resnet56_cifar10.npz``.

--rehearse runs every item at toy size, on drawn images, on any device. --compile names
the programs of the items instead, compiled for the device that is there. An item's
programs are compiled in threads before it is timed; those of later ones meanwhile.
"""

import concurrent.futures
import importlib
import json
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import app, flags

from benchmarks._gpu.context import Context, Program

FLAGS = flags.FLAGS


class Item(NamedTuple):
    """A part of the benchmark.

    Attributes:
        title: in words.
        seconds: it is expected to take; it is not begun with less than half of it left.
        module: of `benchmarks._gpu`.
        run: the name of a function of the context there that returns a record.
        programs: of one that returns its programs; None for an item without.
        record: name of its file.
        alone: whether it must not be timed while others compile.
    """

    title: str
    seconds: float
    module: str
    run: str
    programs: str | None
    record: str
    alone: bool = False


ITEMS: Mapping[str, Item] = {
    "A": Item("packages and devices", 15, "check", "run", None, "check", True),
    "B": Item("completion", 80, "completion", "run", "programs", "completion", True),
    "C": Item("attacks", 50, "attack_speed", "run", "programs", "attack_speed", True),
    "D": Item(
        "ResNet-18", 60, "training", "run_vanilla", "programs_vanilla", "vanilla"
    ),
    "E": Item(
        "ResNet-18, SPLIC", 80, "training", "run_splic", "programs_splic", "splic"
    ),
    "F": Item("Table 3", 55, "tables", "run_gray_box", "programs_gray_box", "gray_box"),
    "G": Item("BPDA", 45, "tables", "run_bpda", "programs_bpda", "bpda"),
    "H": Item(
        "true gradient",
        70,
        "tables",
        "run_true_gradient",
        "programs_true_gradient",
        "true_gradient",
    ),
    "I": Item("ME-Net", 60, "training", "run_me_net", "programs_me_net", "me_net"),
    "J": Item("fast AT", 65, "training", "run_fast_at", "programs_fast_at", "fast_at"),
    "L": Item(
        "SPLIC and fast AT",
        90,
        "training",
        "run_splic_fast_at",
        "programs_splic_fast_at",
        "splic_fast_at",
    ),
    "M": Item(
        "adaptive attacks on SPLIC and fast AT",
        60,
        "tables",
        "run_adaptive_at",
        "programs_adaptive_at",
        "adaptive_at",
    ),
    "K": Item(
        "Table 1", 60, "tables", "run_black_box", "programs_black_box", "black_box"
    ),
}


def define_flags() -> None:
    """Defines the flags of this binary."""
    flags.DEFINE_list("items", list(ITEMS), f"of {', '.join(ITEMS)}, in this order")
    flags.DEFINE_float("budget_s", 540, "seconds for all", lower_bound=1)
    flags.DEFINE_string("data", "data/gpu", "folder of the data")
    flags.DEFINE_string("out", "out/gpu", "folder for the results")
    flags.DEFINE_string("state", "out/gpu_state", "folder for networks and programs")
    flags.DEFINE_bool("rehearse", False, "everything at toy size")
    flags.DEFINE_bool("compile", False, "only compile the programs, and say how long")
    flags.DEFINE_integer("compilers", 8, "threads that compile", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    del argv
    unknown = [name for name in FLAGS.items if name not in ITEMS]
    if unknown:
        raise app.UsageError(f"no item {unknown[0]}; choose from {', '.join(ITEMS)}")
    began = time.monotonic()
    context = Context(
        data=pathlib.Path(FLAGS.data),
        out=pathlib.Path(FLAGS.out),
        state=pathlib.Path(FLAGS.state),
        toy=FLAGS.rehearse,
        deadline=began + FLAGS.budget_s,
    )
    context.state.mkdir(parents=True, exist_ok=True)
    # Where a thread has compiled a program, a later call of it is read from here.
    jax.config.update("jax_compilation_cache_dir", str(context.state / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # Or else every kind of line of a caller makes a program of its own.
    jax.config.update("jax_include_full_tracebacks_in_locations", False)
    failed = run_items(
        context, FLAGS.items, FLAGS.compilers, only_compile=FLAGS.compile
    )
    context.line(f"all in {time.monotonic() - began:.0f} s")
    if failed:
        sys.exit(1)


def run_items(
    context: Context, names: Sequence[str], compilers: int, *, only_compile: bool
) -> Sequence[str]:
    """Runs the items; returns those that failed."""
    log: dict[str, Any] = {}
    failed = []
    with concurrent.futures.ThreadPoolExecutor(compilers) as pool:
        compiling = {}
        for name in names:
            try:
                compiling[name] = [
                    pool.submit(compile_program, context, name, program)
                    for program in programs_of(context, name)
                ]
            except Exception as error:
                context.line(f"{name}: its programs: {traceback.format_exc()}")
                log[name] = {"programs": f"{type(error).__name__}: {error}"}
        if any(ITEMS[name].alone for name in names):
            concurrent.futures.wait([f for fs in compiling.values() for f in fs])
            context.line(f"compiled; {context.left():.0f} s are left")
        for name in names:
            entry = log.setdefault(name, {})
            began = time.monotonic()
            entry["programs"] = [f.result() for f in compiling.get(name, [])]
            entry["waited_for_compilers_s"] = round(time.monotonic() - began, 1)
            if only_compile:
                continue
            if context.left() < ITEMS[name].seconds / 2 and not context.toy:
                entry["skipped"] = f"{context.left():.0f} s were left"
                context.line(f"{name} skipped: {entry['skipped']}")
            elif not _run(context, name, entry):
                failed.append(name)
            context.save("log", log)
        for futures in compiling.values():
            for future in futures:
                future.cancel()
    context.save("log", log)
    return failed


def _run(context: Context, name: str, entry: dict[str, Any]) -> bool:
    item = ITEMS[name]
    context.line(f"{name} {item.title}: begins, {context.left():.0f} s are left")
    began = time.monotonic()
    try:
        record = getattr(_module(item), item.run)(context)
        context.save(item.record, record)
        context.line(f"{name} {json.dumps(record)[:3000]}")
    except Exception as error:
        entry["failed"] = f"{type(error).__name__}: {error}"[:2000]
        context.line(f"{name} failed: {traceback.format_exc()[-3000:]}")
    entry["seconds"] = round(time.monotonic() - began, 1)
    context.line(f"{name}: {entry['seconds']} s")
    return "failed" not in entry


def _module(item: Item) -> Any:
    return importlib.import_module(f"benchmarks._gpu.{item.module}")


def programs_of(context: Context, name: str) -> Sequence[Program]:
    """The programs of an item."""
    item = ITEMS[name]
    if item.programs is None:
        return []
    of: Callable[[Context], Sequence[Program]] = getattr(_module(item), item.programs)
    return of(context)


def compile_program(context: Context, item: str, program: Program) -> dict[str, Any]:
    """Compiles one; what goes wrong is told, for its item to fail by itself."""
    began = time.monotonic()
    entry: dict[str, Any] = {"name": program.name}
    try:
        program.function.lower(*program.arguments, **program.options).compile()
    except Exception as error:
        entry["failed"] = f"{type(error).__name__}: {error}"[:1000]
        context.line(f"{item} {program.name}: {entry['failed']}")
    entry["seconds"] = round(time.monotonic() - began, 1)
    return entry


if __name__ == "__main__":
    define_flags()
    app.run(main)
