"""Time of a completion by its parts on one core, and the cost of stopping earlier.

    ./launch.sh bench profile --dataset=cifar10 --data_dir=DIR

Three tables. Step: the time of a step of the fast solver and of its parts, each alone
in a compiled loop, and the time that its multiply-adds would take at the speed of a
large matrix product. Rounds: PSNR and time if every completion stops earlier. Stopping:
the steps that each matrix needs against those that its group of `GROUP` takes, an upper
bound on the gain from removing converged ones. Always on the CPU. Writes the section
"profile" of out/speed.json.
"""

import dataclasses
import functools
import pathlib
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import _speed
from benchmarks.purify import mosaics
from splic_jax import SPLICConfig, complete, completion, purify, sample_mask
from splic_jax.layout import small
from splic_jax.layout.groups import GROUP
from splic_jax.purification import COMPILER_OPTIONS
from splic_jax.solvers import algorithm1, arrays
from splic_jax.solvers import tracked as fast
from train import flags as shared_flags
from train.evaluation.statistics import mean_interval
from train.present.terminal import print_rows
from train.records.storing import require_replaceable
from train.utils import errors, quality
from train.utils.progress import Progress

FLAGS = flags.FLAGS
# Of matrices that are one channel each.
CONFIG = SPLICConfig(channels="separate", mask="shared")
ROUNDS = (4, 6, 8, 10, 12, 14, 16)
OPTIONS = {**COMPILER_OPTIONS, "xla_cpu_multi_thread_eigen": False}  # one core
SECONDS = 0.03  # of one timed loop, roughly
# Full corrections in a step -> delta / sigma_r at which it takes them.
DELTAS = {0: 0.4, 1: 2.0, 2: 12.0}
CHAIN = 32  # smallest operations in sequence
LARGE = 512  # side of the product that shows the core's speed
# Not counted as operations of a compiled program.
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")


class Part(NamedTuple):
    """A part to be timed alone.

    Attributes:
        kind: "step", "part" (of a step), "product" or "decomposition".
        multiply_adds: in its matrix products, for one matrix.
        once: how often a step does it, apart from full corrections.
        each: how often a full correction does it.
    """

    kind: str
    name: str
    multiply_adds: int
    function: Callable[..., Any]
    arguments: tuple
    once: int = 0
    each: int = 0


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    flags.DEFINE_list("sides", ["32", "224"], "sides of the matrices to profile")
    flags.DEFINE_list("rounds", list(map(str, ROUNDS)), "rounds to stop after")
    flags.DEFINE_integer("num_images", 256, "images purified", lower_bound=2)
    flags.DEFINE_integer("image_side", 32, "their side", lower_bound=1)
    flags.DEFINE_integer("warm_rounds", 6, "rounds before a step is profiled")
    flags.DEFINE_integer("repeats", 15, "timed loops; the median counts", lower_bound=1)
    flags.DEFINE_integer(
        "repeats_purify", 3, "timed purifications; the median counts", lower_bound=1
    )
    flags.DEFINE_string("out", "out/speed.json", "JSON file; other sections stay")


def compile_loop(function: Callable, arguments: tuple) -> Any:
    """A compiled program that runs `function` as often as its first argument says.

    An entry of the first array depends on all results of the previous run, so that the
    compiler can neither remove a run nor move it out of the loop.
    """

    @small.kernel
    def apart(*arguments):
        return function(*arguments)

    def loop(times, arguments):
        def body(_, leaves):
            results = jax.tree.leaves(apart(*structure.unflatten(leaves)))
            nothing = 0 * sum(result.ravel()[0] for result in results)
            first = leaves[0].at[(0,) * leaves[0].ndim].add(nothing)
            return [first, *leaves[1:]]

        leaves, structure = jax.tree.flatten(arguments)
        return jax.lax.fori_loop(0, times, body, leaves)[0]

    return jax.jit(loop, compiler_options=OPTIONS).lower(1, arguments).compile()


def microseconds(loops: Sequence[tuple[Any, tuple]]) -> list[float]:
    """Median time of one run in each loop; the loops are repeated in turn."""

    def seconds(program, times, arguments):
        start = time.perf_counter()
        jax.block_until_ready(program(times, arguments))
        return time.perf_counter() - start

    def times_of(program, arguments):
        seconds(program, 2, arguments)
        return int(np.clip(2 * SECONDS / seconds(program, 2, arguments), 2, 100_000))

    times = [times_of(*loop) for loop in loops]
    taken = [
        [
            seconds(program, n, arguments) / n * 1e6
            for (program, arguments), n in zip(loops, times, strict=True)
        ]
        for _ in range(FLAGS.repeats)
    ]
    return np.median(taken, axis=0).tolist()


def count_operations(program: str) -> int:
    """Operations of `apart` in a program's text, counting the body of a loop once."""
    computations, lines = {}, []
    for line in program.splitlines():
        if head := re.match(r"(?:ENTRY )?%([\w.\-]+) \(", line):
            computations[head[1]] = lines = []
        elif found := re.match(r"  (?:ROOT )?%\S+ = (?:\(.*?\)|\S+) ([\w\-]+)\(", line):
            lines.append((found[1], line))

    def count(name: str) -> int:
        total = 0
        for operation, line in computations[name]:
            if operation in ("call", "while", "conditional"):
                attributes = line.partition("metadata=")[0].partition("), ")[2]
                total += sum(map(count, re.findall(r"%([\w.\-]+)", attributes)))
            else:
                total += operation not in FREE
        return total

    return sum(count(name) for name in computations if name.startswith("apart"))


@functools.partial(
    jax.jit, static_argnames=("config", "rounds"), compiler_options=OPTIONS
)
def state_after(matrix, mask, config: SPLICConfig, rounds: int):
    """The problem, the iterate after some rounds, and its leading singular vectors."""
    solver = fast.Tracked(config)
    problem, state = algorithm1.start(solver, (matrix, mask))
    state, _ = jax.lax.scan(
        lambda state, _: (algorithm1.one_round(solver, state, problem), None),
        state,
        length=rounds,
    )
    rank = config.rank_of(matrix.shape[:2])
    leading = fast.track(state.x, state.basis, state.progress.delta, rank)
    return problem, state.x, leading


def multiply_adds(m: int, n: int, p: int) -> dict[str, int]:
    """Multiply-adds in each part of a step on an m x n matrix with p vectors."""
    rotate, gram, outside = (n + m) * p * p, m * p * p, 2 * m * n * p + 2 * n * p * p
    return {
        "product, Gram matrix": m * n * p + gram,
        "turn in the span": 9 * p**3 + rotate,
        "step out of it": outside + 2 * p**3 + rotate + gram,
        "both at once": outside + n * p * p + 5 * p**3 + 2 * rotate + gram,
        "weights": 0,
        "cut, descent": 2 * m * n * p,
        "TV, anchors, change": 0,
    }


def parts_of(problem, x, leading, config: SPLICConfig) -> list[Part]:
    """The parts to time of a step on one matrix."""
    (m, n), p = x.shape, leading.vectors.shape[1]
    rank = config.rank_of((m, n))
    squares = jnp.sort(small.total(leading.xv**2))[::-1]
    last = jnp.sqrt(squares[rank - 1])
    gram = small.product_tn(leading.xv, leading.xv)
    cut, kept = small.product_nt(leading.xv, leading.vectors), jnp.ones_like(squares)
    work, solver = multiply_adds(m, n, p), fast.Tracked(config)

    def start(x, vectors, delta):
        xv = small.product(x, vectors)
        gram = small.product_tn(xv, xv)
        angles = fast.angles_of(gram, rank)
        wanted = fast.corrections(angles.last, angles.turn, delta)
        return xv, gram, angles.t, wanted

    def leave_span(x, leading, gram):
        leading = fast._leave_span(x, leading, gram)
        return leading, small.product_tn(leading.xv, leading.xv)

    def cut_and_descend(leading, kept, weights):
        cut, descended = fast.times(leading.xv, kept, weights)
        back = small.transpose(leading.vectors)
        return small.product(cut, back), small.product(descended, back)

    def weights(leading, delta):
        return fast._weights(leading, delta, None, rank, config.step_size)

    def restore(cut, descended, x, problem):
        smoothed = arrays.smooth(cut, descended, config, 1)
        new = algorithm1.project(smoothed, problem)
        return new, algorithm1.relative_change(solver, x, new)

    def step(x, vectors, delta, problem):
        new, vectors = algorithm1.step(solver, x, vectors, delta, problem)
        return new, vectors, algorithm1.relative_change(solver, x, new)

    functions = {  # with their arguments, times in a step and in a correction
        "product, Gram matrix": (start, (x, leading.vectors, last), 1, 0),
        "turn in the span": (
            lambda leading, gram: fast._turn_fully(
                leading, gram, fast.angles_of(gram, rank).t
            ),
            (leading, gram),
            0,
            1,
        ),
        "step out of it": (leave_span, (x, leading, gram), 0, 1),
        "both at once": (
            lambda x, leading, gram, t: fast._settle(x, leading, gram, t, rank),
            (x, leading, gram, fast.angles_of(gram, rank).t),
            1,
            0,
        ),
        "weights": (weights, (leading, last), 1, 0),
        "cut, descent": (cut_and_descend, (leading, kept, kept / 2), 1, 0),
        "TV, anchors, change": (restore, (cut, cut, x, problem), 1, 0),
    }
    parts = [
        Part("part", name, work[name], function, arguments, once, each)
        for name, (function, arguments, once, each) in functions.items()
    ]
    steps = [
        Part(
            "step",
            f"step, {count} correction{'s' * (count != 1)}",
            sum((part.once + count * part.each) * part.multiply_adds for part in parts),
            step,
            (x, leading.vectors, ratio * last, problem),
            1,
            count,
        )
        for count, ratio in DELTAS.items()
    ]
    products = [
        Part(
            "product",
            f"product {a.shape[0]} x {a.shape[1]} by {b.shape[0]} x {b.shape[1]}",
            a.shape[0] * a.shape[1] * b.shape[1],
            lambda a, b: small.product(a, b),
            (a, b),
        )
        for a, b in (
            (x, leading.vectors),
            (leading.xv, leading.vectors.T),
            (leading.xv.T, leading.xv),
            (leading.vectors, gram),
            (gram, gram),
        )
    ]
    decompositions = [
        Part("decomposition", "`jnp.linalg.svd`", 0, jnp.linalg.svd, (x,)),
        Part("decomposition", "`jnp.linalg.eigh`", 0, jnp.linalg.eigh, (x.T @ x,)),
    ]
    return [*parts, *steps, *products, *decompositions]


def together(parts_of_each: list[list[Part]]) -> list[Part]:
    """The parts of several matrices as those of a group; of one matrix, unchanged."""
    if len(parts_of_each) == 1:
        return parts_of_each[0]
    mapped = functools.cache(jax.vmap)  # the three steps keep sharing theirs
    return [
        part
        if part.kind == "decomposition"
        else part._replace(
            function=mapped(part.function),
            arguments=jax.tree.map(
                lambda *arrays: jnp.stack(arrays), *(one.arguments for one in same)
            ),
        )
        for part, *same in (
            (parts[0], *parts) for parts in zip(*parts_of_each, strict=True)
        )
    ]


def profile_step(images: np.ndarray, side: int, progress: Progress) -> dict[str, Any]:
    """Times a step on matrices ``[side, side]`` of the images, and its parts."""
    matrices = GROUP if completion.in_groups(CONFIG, (side, side)) else 1
    chosen = mosaics(images, matrices, side).astype(np.float32) / 255
    keys = jax.random.split(jax.random.key(0), matrices)
    mask = jax.vmap(lambda key: sample_mask(key, (side, side, 1))[..., 0])(keys)
    states = [
        state_after(jnp.asarray(a), b, CONFIG, FLAGS.warm_rounds)
        for a, b in zip(chosen[..., 0], mask, strict=True)
    ]
    parts = together([parts_of(*state, CONFIG) for state in states])
    vectors = states[0][2].vectors.shape[1]

    @small.kernel
    def add_one(a):
        return a + 1

    def chain(a):
        return functools.reduce(lambda a, _: add_one(a), range(CHAIN), a)

    large = (jnp.ones((LARGE, LARGE)),) * 2
    smallest = (jnp.zeros(16),)
    functions = [
        (lambda a: a, smallest),
        (chain, smallest),
        (lambda a, b: a @ b, large),
        *((part.function, part.arguments) for part in parts),
    ]
    loops, programs = [], {}
    with progress.stage(f"parts of a step, {side} x {side}", len(functions)) as advance:
        for function, arguments in functions:
            if function not in programs:  # the three steps share theirs
                programs[function] = compile_loop(function, arguments)
            loops.append((programs[function], arguments))
            advance()
    nothing, chained, product, *taken = microseconds(loops)
    _, links, _, *counts = (count_operations(loop.as_text()) for loop, _ in loops)
    operation = (chained - nothing) / links
    peak = LARGE**3 / product  # multiply-adds a microsecond
    rows = []
    for part, total, operations in zip(parts, taken, counts, strict=True):
        at_once = 1 if part.kind == "decomposition" else matrices
        each = (total - nothing) / at_once
        if part.kind == "step":  # its loop over the corrections was counted once
            operations += (part.each - 1) * sum(
                row["each"] * row["operations"] for row in rows if row["kind"] == "part"
            )
        rows.append(
            {
                "kind": part.kind,
                "name": part.name,
                "once": part.once,
                "each": part.each,
                "microseconds": each,
                "multiply_adds": part.multiply_adds,
                "gflops": 2e-3 * part.multiply_adds / each,
                "share_of_floor": part.multiply_adds / peak / each,
                "operations": operations,
                "share_of_fixed_cost": operations * operation / at_once / each,
            }
        )
    return {
        "side": side,
        "matrices": matrices,
        "rank": CONFIG.rank_of((side, side)),
        "vectors": vectors,
        "peak_gflops": 2e-3 * peak,
        "operation_microseconds": operation,
        "rows": rows,
    }


def noisy_and_clean(clean: np.ndarray) -> dict[str, np.ndarray]:
    """The images, without and with +-8/255 noise on every value."""
    noise = np.random.default_rng(0).choice([-1, 1], clean.shape) * 8 / 255
    return {"clean": clean, "noisy": np.clip(clean + noise, 0, 1).astype(np.float32)}


def profile_rounds(clean: np.ndarray, progress: Progress) -> list[dict[str, Any]]:
    """PSNR and time when completions stop after fewer rounds than by default."""
    key, rows = jax.random.key(0), []
    rounds = sorted(map(int, FLAGS.rounds))
    with progress.stage("rounds", 2 * len(rounds) + 2) as advance:
        for name, images in noisy_and_clean(clean).items():

            def measure(config, images=images):
                purified = np.asarray(purify(images, key, config))
                taken = []
                for _ in range(FLAGS.repeats_purify):
                    start = time.perf_counter()
                    purify(images, key, config).block_until_ready()
                    taken.append(time.perf_counter() - start)
                psnr = np.asarray(quality.psnr(clean, purified))
                return purified, psnr, statistics.median(taken)

            full, full_psnr, full_seconds = measure(CONFIG)
            advance()
            for count in rounds:
                config = dataclasses.replace(
                    CONFIG, max_steps=count * CONFIG.inner_steps
                )
                purified, psnr, seconds = measure(config)
                rows.append(
                    {
                        "images": name,
                        "rounds": count,
                        "psnr_db": mean_interval(psnr),
                        "psnr_above_full_db": mean_interval(psnr - full_psnr),
                        "mean_difference": float(np.abs(purified - full).mean()),
                        "seconds": seconds,
                        "time_ratio": seconds / full_seconds,
                    }
                )
                advance()
    return rows


@functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
def steps_of_passes(images, key):
    """Steps of each pass for each matrix, ``[2, n * c]``, in the order of `purify`."""
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(
        jnp.arange(len(images))
    )
    masks = jax.vmap(lambda key: sample_mask(key, images.shape[1:]))(keys)

    def to_matrices(a):
        return jnp.moveaxis(a, -1, 1).reshape(-1, *a.shape[1:3])

    def one_pass(carry, _):
        matrices, masks = carry
        done = jax.vmap(lambda x, mask: complete(x, mask, CONFIG))(matrices, masks)
        return (done.matrix, ~masks), done.steps

    carry = to_matrices(images), to_matrices(masks)
    return jax.lax.scan(one_pass, carry, length=2)[1]


def profile_stopping(clean: np.ndarray, progress: Progress) -> list[dict[str, Any]]:
    """Steps that each matrix needs, and steps that its group of `GROUP` takes."""
    rows = []
    inputs = noisy_and_clean(clean)
    with progress.stage("stopping", len(inputs)) as advance:
        for name, images in inputs.items():
            passes = np.asarray(steps_of_passes(images, jax.random.key(0)))
            for number, steps in enumerate(passes, 1):
                starts = np.arange(0, len(steps), GROUP)
                sizes = np.diff([*starts, len(steps)])
                group = np.sum(sizes * np.maximum.reduceat(steps, starts)) / len(steps)
                rows.append(
                    {
                        "images": name,
                        "pass": number,
                        "matrices": len(steps),
                        "mean_steps": float(steps.mean()),
                        "mean_steps_of_group": float(group),
                        "ratio": float(group / steps.mean()),
                    }
                )
            advance()
    return rows


def main(argv: Sequence[str]) -> None:
    del argv
    require_replaceable(pathlib.Path(FLAGS.out), "profile")
    jax.config.update("jax_platforms", "cpu")  # before JAX is first used
    dataset = shared_flags.dataset_from_flags("test")
    count = min(FLAGS.num_images, len(dataset.images))
    clean = mosaics(dataset.images, count, FLAGS.image_side).astype(np.float32) / 255
    progress = Progress()
    record = {
        "dataset": dataset.record("test", count),
        "image_side": FLAGS.image_side,
        "step": [
            profile_step(dataset.images, int(side), progress) for side in FLAGS.sides
        ],
        "rounds": profile_rounds(clean, progress),
        "stopping": profile_stopping(clean, progress),
    }
    show(record)
    _speed.update(pathlib.Path(FLAGS.out), "profile", record)


def show(record: dict[str, Any]) -> None:
    """Prints the three tables."""
    for step in record["step"]:
        title = (
            f"{step['matrices']} of {step['side']} x {step['side']}, rank "
            f"{step['rank']}, {step['vectors']} vectors; a product of {LARGE} x {LARGE}"
            f": {step['peak_gflops']:.0f} GFLOP/s; the smallest operation: "
            f"{step['operation_microseconds']:.2f} us"
        )
        parts = [
            (
                row["name"],
                f"{row['microseconds']:.2f}",
                f"{row['gflops']:.1f}",
                f"{100 * row['share_of_floor']:.0f}",
                str(row["operations"]),
                f"{100 * row['share_of_fixed_cost']:.0f}",
            )
            for row in step["rows"]
        ]
        numbers = ("us a matrix", "GFLOP/s", "% floor", "operations", "% fixed")
        print_rows(title, ("part",), numbers, parts)
    rounds = [
        (
            row["images"],
            str(row["rounds"]),
            f"{row['psnr_db']['mean']:.2f}",
            "{mean:+.3f} +- {half_width:.3f}".format_map(row["psnr_above_full_db"]),
            f"{row['mean_difference']:.1e}",
            f"{row['time_ratio']:.2f}",
        )
        for row in record["rounds"]
    ]
    numbers = ("rounds", "PSNR dB", "above full", "difference", "time")
    print_rows("Rounds", ("images",), numbers, rounds)
    stopping = [
        (
            row["images"],
            str(row["pass"]),
            f"{row['mean_steps']:.1f}",
            f"{row['mean_steps_of_group']:.1f}",
            f"{row['ratio']:.2f}",
        )
        for row in record["stopping"]
    ]
    numbers = ("pass", "steps a matrix", "of its group", "ratio")
    print_rows("Stopping", ("images",), numbers, stopping)


if __name__ == "__main__":
    define_flags()
    errors.run(main)
