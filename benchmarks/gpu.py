"""All measurements that need a GPU, the most important first, in the time available.

    ./launch.sh bench gpu --data=DIR --budget_s=600
    ./launch.sh bench gpu --data=DIR --budget_s=200 --items=A,B,C
    ./launch.sh bench gpu --rehearse
    ./launch.sh bench gpu --compile_for=h100 --items=library

Each item writes a JSON file of its results in --out when done, most of them after each
row. Items that do not fit into the budget are skipped and named; an item that fails is
reported, and the others continue. Networks are kept in --state for later items and
calls. `DIR` holds ``cifar10_jpeg.npz`` (JPEG files of the training and test images),
``cifar10_lossless_test.npz`` and ``resnet56_cifar10.npz``.

--rehearse runs every item at toy size, on synthetic images, on any device. --compile
only compiles the programs of the items, for the device in use. Otherwise threads
compile the programs of an item before it is timed, and meanwhile those of later ones.

--compile_for=h100 compiles them for an H100, which need not be present, and describes
in a section of gpu_compile.json what would run; nothing is timed. The programs of some
items need the data. The item "library", which is only compiled, does not.
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
from absl import flags

from benchmarks._gpu import networks, offline
from benchmarks._gpu.context import FILES, Context, Program
from train.records import provenance
from train.utils import errors
from train.utils.errors import UserError

FLAGS = flags.FLAGS


class Item(NamedTuple):
    """A part of the benchmark.

    Attributes:
        title: in words.
        seconds: expected duration; skipped with less than half of it left.
        module: of `benchmarks._gpu`.
        run: name of its function ``context -> record`` there; None for an item that is
            only compiled.
        programs: name of its function ``context -> programs`` there; None if it
            has none.
        record: name of its file.
        alone: whether all programs must be compiled before it is timed.
        data: whether it reads the data.
    """

    title: str
    seconds: float
    module: str
    run: str | None
    programs: str | None
    record: str
    alone: bool = False
    data: bool = True


ITEMS: Mapping[str, Item] = {
    "A": Item("packages and devices", 15, "check", "run", None, "check", True, False),
    "D": Item(
        "ResNet-18", 60, "training", "run_vanilla", "programs_vanilla", "vanilla"
    ),
    "E": Item(
        "ResNet-18, SPLIC", 80, "training", "run_splic", "programs_splic", "splic"
    ),
    "B": Item("completion", 60, "completion", "run", "programs", "completion", True),
    "C": Item(
        "attacks", 50, "attack_speed", "run", "programs", "attack_speed", True, False
    ),
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
    "library": Item(
        "what users compile", 0, "library", None, "programs", "library", data=False
    ),
}


def define_flags() -> None:
    """Defines the flags of this binary."""
    flags.DEFINE_list(
        "items", None, f"of {', '.join(ITEMS)}, in this order; default all"
    )
    flags.DEFINE_float(
        "budget_s", 540, "seconds in all, except in a rehearsal", lower_bound=1
    )
    flags.DEFINE_string("data", "data/gpu", "folder of the data")
    flags.DEFINE_string("out", "out/gpu", "folder for the results")
    flags.DEFINE_string("state", "out/gpu_state", "folder for networks and programs")
    flags.DEFINE_bool("rehearse", False, "run everything at toy size")
    flags.DEFINE_bool("compile", False, "only compile the programs, and time that")
    flags.DEFINE_enum(
        "compile_for", None, offline.TARGETS, "only compile, for a device not present"
    )
    flags.DEFINE_string("label", "now", "section that --compile_for writes")
    flags.DEFINE_bool("export", False, "write networks to --out, in bfloat16")
    flags.DEFINE_integer("compilers", 24, "threads that compile", lower_bound=1)


def main(argv: Sequence[str]) -> int:
    del argv
    began = time.monotonic()
    only_compile = FLAGS.compile or FLAGS.compile_for is not None
    names = FLAGS.items
    if names is None:
        names = [name for name in ITEMS if only_compile or ITEMS[name].run]
    for name in names:
        if name not in ITEMS:
            raise UserError(f"no item {name!r}; choose from {', '.join(ITEMS)}")
    context = Context(
        data=pathlib.Path(FLAGS.data),
        out=pathlib.Path(FLAGS.out),
        state=pathlib.Path(FLAGS.state),
        toy=FLAGS.rehearse,
        # A rehearsal runs everything, however long it takes.
        deadline=began + (3600 if FLAGS.rehearse else FLAGS.budget_s),
    )
    # Otherwise the line of the caller is part of a program's cache key.
    jax.config.update("jax_include_full_tracebacks_in_locations", False)
    if FLAGS.compile_for is not None:
        offline.require_plugin()
        if not offline.is_prepared():
            return offline.run_prepared("benchmarks.gpu", sys.argv[1:])
        return compile_for(context, names, FLAGS.compile_for, FLAGS.label)
    if not context.toy:
        _check_device()
        if not only_compile:
            _check_data(context, names)
    try:
        for folder in (context.out, context.state):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {error.filename}: {error.strerror}") from error
    # A later call of a program that a thread has compiled is read from here.
    jax.config.update("jax_compilation_cache_dir", str(context.state / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    failed = run_items(context, names, FLAGS.compilers, only_compile=only_compile)
    context.line(f"all in {time.monotonic() - began:.0f} s")
    if failed:
        context.line(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _check_device() -> None:
    if jax.default_backend() != "gpu":
        raise UserError(
            "JAX sees no GPU; --rehearse runs all at toy size on any device, and "
            f"--compile_for={offline.TARGETS[0]} compiles for a GPU not present"
        )


def _check_data(context: Context, names: Sequence[str]) -> None:
    missing = [name for name in FILES if not (context.data / name).is_file()]
    if missing and any(ITEMS[name].data for name in names):
        without = [n for n, item in ITEMS.items() if item.run and not item.data]
        raise UserError(
            f"{context.data} lacks {', '.join(missing)}; name their folder with --data,"
            f" or choose --items={','.join(without)} or --rehearse"
        )


def compile_for(context: Context, names: Sequence[str], target: str, label: str) -> int:
    """Compiles the items' programs for a device not present; returns the exit code."""
    # Before JAX is told of another device.
    facts = {"provenance": provenance.provenance(), "target": target}
    facts["xla_flags"] = " ".join(offline.XLA_FLAGS)
    path = context.out / "gpu_compile.json"
    records: list[dict[str, Any]] = []
    done: set[Any] = set()
    with offline.target(target) as sharding:
        for name in names:
            try:
                programs = programs_of(context, name)
            except Exception as error:
                words = f"{type(error).__name__}: {error}"[:300]
                records.append({"item": name, "program": "all", "failed": words})
                context.line(f"{name}: {words}")
                programs = []
            for program in programs:
                if program.key in done:
                    continue
                done.add(program.key)
                records.append(offline.compiled(name, program, sharding))
                words = records[-1].get("failed") or f"{records[-1]['compile_s']} s"
                context.line(f"{name} {program.name}: {words}")
            offline.write_section(path, label, facts, records)
    offline.show(f"Compiled for {target}", records)
    return 1 if any("failed" in record for record in records) else 0


def run_items(
    context: Context, names: Sequence[str], compilers: int, *, only_compile: bool
) -> Sequence[str]:
    """Runs the items; returns the names of those that failed."""
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
            # Compiling runs programs on the device too, which would disturb timing.
            waited = names if ITEMS[name].alone else [name]
            for other in waited:
                compiling.wait_for(other)
            entry["waited_for_compilers_s"] = round(time.monotonic() - began, 1)
            if only_compile:
                continue
            if ITEMS[name].run is None:
                entry["skipped"] = "it is only compiled, by --compile or --compile_for"
            elif context.left() < ITEMS[name].seconds / 2 and not context.toy:
                entry["skipped"] = f"{context.left():.0f} s were left"
            if "skipped" in entry:
                context.line(f"{name} skipped: {entry['skipped']}")
            elif not _run(context, name, entry):
                failed.append(name)
            context.save("log", {"items": log, "programs": compiling.done})
        context.save("log", {"items": log, "programs": compiling.done})
    return failed


class Compilers:
    """Threads that compile programs into the cache, each once.

    The first programs of the families are compiled one at a time: choosing the
    algorithms of convolutions runs them, on the only device.
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
        """Starts compiling the programs of an item, except those submitted before."""
        futures = self._items.setdefault(item, [])
        for program in programs:
            if program.key not in self._programs:
                self._programs[program.key] = self._submitted(item, program)
            futures.append(self._programs[program.key])

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
        except Exception as error:  # the item will fail by itself
            entry["failed"] = f"{type(error).__name__}: {error}"[:1000]
            self._context.line(f"{item} {program.name}: {entry['failed']}")
        entry["seconds"] = round(time.monotonic() - began, 1)
        self.done.append(entry)


def _run(context: Context, name: str, entry: dict[str, Any]) -> bool:
    item = ITEMS[name]
    context.line(f"{name} {item.title}: begins, {context.left():.0f} s are left")
    began = time.monotonic()
    try:
        assert item.run is not None
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
    errors.run(main)
