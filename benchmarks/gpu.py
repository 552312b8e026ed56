"""Everything that wants a GPU, in order of value, in the time there is.

    ./launch.sh bench gpu --data=DIR --budget_s=600
    ./launch.sh bench gpu --data=DIR --budget_s=200 --items=A,B,C
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

from benchmarks._gpu import networks
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
    "D": Item(
        "ResNet-18", 60, "training", "run_vanilla", "programs_vanilla", "vanilla"
    ),
    "E": Item(
        "ResNet-18, SPLIC", 80, "training", "run_splic", "programs_splic", "splic"
    ),
    "B": Item("completion", 60, "completion", "run", "programs", "completion", True),
    "C": Item("attacks", 50, "attack_speed", "run", "programs", "attack_speed", True),
    "G": Item("BPDA", 45, "tables", "run_bpda", "programs_bpda", "bpda"),
    "F": Item("Table 3", 55, "tables", "run_gray_box", "programs_gray_box", "gray_box"),
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
    "V": Item(
        "other spellings of the kernel",
        60,
        "completion",
        "run_variants",
        "programs_variants",
        "kernel",
        True,
    ),
    "W": Item(
        "work of the kernel, counted", 40, "completion", "run_work", None, "work"
    ),
    "N": Item(
        "Table 3, its slow rows",
        60,
        "tables",
        "run_gray_box_slow",
        "programs_gray_box_slow",
        "gray_box_slow",
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
    flags.DEFINE_bool("export", False, "write networks to --out, in bfloat16")
    flags.DEFINE_integer("compilers", 24, "threads that compile", lower_bound=1)


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
    for folder in (context.out, context.state):
        folder.mkdir(parents=True, exist_ok=True)
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
    for name in networks.import_bf16(context):
        context.line(f"network {name}: found with the data")
    with Compilers(context, compilers) as compiling:
        for name in names:
            try:
                compiling.submit(name, programs_of(context, name))
            except Exception:
                context.line(f"{name}: its programs: {traceback.format_exc()}")
        for name in names:
            entry = log.setdefault(name, {})
            began = time.monotonic()
            # Nothing is timed while others compile, which runs programs too.
            waited = names if ITEMS[name].alone else [name]
            for other in waited:
                compiling.wait_for(other)
            entry["waited_for_compilers_s"] = round(time.monotonic() - began, 1)
            if only_compile:
                continue
            if context.left() < ITEMS[name].seconds / 2 and not context.toy:
                entry["skipped"] = f"{context.left():.0f} s were left"
                context.line(f"{name} skipped: {entry['skipped']}")
            elif not _run(context, name, entry):
                failed.append(name)
            context.save("log", {"items": log, "programs": compiling.done})
        context.save("log", {"items": log, "programs": compiling.done})
    return failed


class Compilers:
    """Threads that compile programs into the cache, each once.

    The first program of a family is compiled while no other first one is: choosing the
    algorithms of convolutions runs them, on the one device there is.
    """

    def __init__(self, context: Context, threads: int):
        self.done: list[dict[str, Any]] = []
        self._context = context
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._first = concurrent.futures.ThreadPoolExecutor(1)
        self._families: dict[str, concurrent.futures.Future] = {}
        self._programs: dict[Any, concurrent.futures.Future] = {}
        self._items: dict[str, list[concurrent.futures.Future]] = {}

    def __enter__(self) -> "Compilers":
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._pool, self._first):
            pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, item: str, programs: Sequence[Program]) -> None:
        """Has the programs of an item compiled, but those that are already."""
        futures = self._items.setdefault(item, [])
        for program in programs:
            key = program.function, program.name
            if key not in self._programs:
                self._programs[key] = self._submitted(item, program)
            futures.append(self._programs[key])

    def _submitted(self, item: str, program: Program) -> concurrent.futures.Future:
        family, first = program.family, None
        if family is not None:
            first = self._families.get(family)
            if first is None:
                future = self._first.submit(self._compile, item, program, None)
                self._families[family] = future
                return future
        return self._pool.submit(self._compile, item, program, first)

    def wait_for(self, item: str) -> None:
        """Waits for the programs of an item."""
        concurrent.futures.wait(self._items.get(item, []))

    def _compile(
        self,
        item: str,
        program: Program,
        first: concurrent.futures.Future | None,
    ) -> None:
        if first is not None:
            concurrent.futures.wait([first])
        began = time.monotonic()
        entry: dict[str, Any] = {"item": item, "name": program.name}
        try:
            program.function.lower(*program.arguments, **program.options).compile()
        except Exception as error:  # for the item to fail by itself
            entry["failed"] = f"{type(error).__name__}: {error}"[:1000]
            self._context.line(f"{item} {program.name}: {entry['failed']}")
        entry["seconds"] = round(time.monotonic() - began, 1)
        self.done.append(entry)


def _run(context: Context, name: str, entry: dict[str, Any]) -> bool:
    item = ITEMS[name]
    context.line(f"{name} {item.title}: begins, {context.left():.0f} s are left")
    began = time.monotonic()
    try:
        record = getattr(_module(item), item.run)(context)
        context.save(item.record, record)
        if FLAGS.export and networks.exists(context, item.record):
            networks.export_bf16(context, item.record)
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


if __name__ == "__main__":
    define_flags()
    app.run(main)
