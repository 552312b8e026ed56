"""Ways to compute the gradient of the smoothed rank: accuracy, speed, and NaNs.

    ./launch.sh bench gradients

Routes:

    closed form        eq. (9), from an SVD: `splic_jax.smoothed_rank_gradient`
    stable             `jax.grad` of `splic_jax.smoothed_rank`: matrix products alone
    singular values    `jax.grad` of eq. (3) written with `jnp.linalg.svd`, values only
    singular vectors   `jax.grad` of eq. (3) as l - trace(V diag(exp(..)) V^T), which
                       differentiates the vectors, as a step of Algorithm 1 does
    forward            `jax.jacfwd` of the stable form: one pass for each entry of X
    directional        `jax.jvp` of the stable form: one pass for one direction, so one
                       number

Errors are against NumPy's SVD in float64, as a share of exp(-1/2) / delta, the maximum
of a gradient. Times are medians of repeats in turn, after warm-up, as ratios to the
closed form in the same run. Writes results/gradients.json and results/gradients.png.
"""

import collections
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from benchmarks import _reference
from splic_jax import smoothed_rank, smoothed_rank_gradient
from train.present.terminal import print_rows
from train.records import provenance
from train.records.storing import require_replaceable, write_record
from train.utils import errors
from train.utils.files import written_whole
from train.utils.progress import Progress

FLAGS = flags.FLAGS
RATIOS = tuple(10.0**e for e in np.arange(-3, 3.5, 0.5))  # delta / sigma_1
BATCHES = (1, 16, 128)
MAX_VALUES = 128 * 64 * 64  # most entries in a batch
MAX_FORWARD = 16  # largest side for "forward"


def define_flags() -> None:
    """Defines the flags of this binary."""
    flags.DEFINE_integer("max_size", 256, "largest side", lower_bound=8)
    flags.DEFINE_integer("repeats", 15, "timed calls of each", lower_bound=1)
    flags.DEFINE_integer(
        "seed", 0, "of the matrices", lower_bound=0, upper_bound=2**31 - 1
    )
    flags.DEFINE_string("out", "results/gradients.json", "JSON file; a plot beside it")


def from_values(x, delta):
    """Eq. (3) from the singular values."""
    s = jnp.linalg.svd(x, compute_uv=False)
    return jnp.sum(1 - jnp.exp(-((s / delta) ** 2) / 2))


def from_vectors(x, delta):
    """Eq. (3) from singular values and right singular vectors."""
    _, s, vt = jnp.linalg.svd(x, full_matrices=False)
    weight = jnp.exp(-((s / delta) ** 2) / 2)
    return len(s) - jnp.trace((vt.T * weight) @ vt)


def directional(x, delta):
    """The derivative of the stable form along the matrix of ones."""
    return jax.jvp(lambda x: smoothed_rank(x, delta), (x,), (jnp.ones_like(x),))[1]


ROUTES: dict[str, Callable] = {
    "closed form": smoothed_rank_gradient,
    "stable": jax.grad(smoothed_rank),
    "singular values": jax.grad(from_values),
    "singular vectors": jax.grad(from_vectors),
    "forward": jax.jacfwd(smoothed_rank),
    "directional": directional,
}
FUNCTIONS = {
    "stable": smoothed_rank,
    "singular values": from_values,
    "singular vectors": from_vectors,
}


def error(got: np.ndarray, x: np.ndarray, delta: float) -> float | None:
    """Spectral norm of the error over the largest possible gradient; None if NaN."""
    if not np.isfinite(got).all():
        return None
    expected = _reference.smoothed_rank_gradient(x.astype(np.float64), delta)
    gap = np.linalg.norm(np.asarray(got, np.float64) - expected, 2)
    return float(gap * delta / np.exp(-0.5))


def accuracy(rng: np.random.Generator, size: int) -> list[dict[str, Any]]:
    """Error of each route against delta, in both precisions, at one size."""
    rows = []
    x64 = rng.uniform(size=(size, size))
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            x = x64.astype(dtype)
            sigma = np.linalg.norm(x.astype(np.float64), 2)
            for name in ("closed form", *FUNCTIONS):
                run = jax.jit(ROUTES[name])
                for ratio in RATIOS:
                    delta = np.asarray(sigma * ratio, dtype)
                    rows.append(
                        {
                            "route": name,
                            "dtype": dtype,
                            "size": size,
                            "delta_over_sigma": ratio,
                            "error": error(run(x, delta), x, float(delta)),
                        }
                    )
    return rows


def special_matrices(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """Matrices with repeated or zero singular values, and one without either."""
    q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    low = rng.uniform(size=(size, 2)) @ rng.uniform(size=(2, size))
    return {
        "random": rng.uniform(size=(size, size)),
        "rank 2": low,
        "flat": np.full((size, size), 0.5),
        "black": np.zeros((size, size)),
        "orthogonal": q,
    }


def failures(rng: np.random.Generator, size: int) -> list[dict[str, Any]]:
    """Error of the gradient, and whether the second derivative is finite."""
    rows = []
    for kind, x in special_matrices(rng, size).items():
        x = x.astype(np.float32)
        delta = float(np.float32(max(np.linalg.norm(x, 2), 1) / 2))
        direction = rng.normal(size=x.shape).astype(np.float32)
        for name, function in FUNCTIONS.items():
            gradient = jax.grad(function)
            second = jax.jvp(lambda x: gradient(x, delta), (x,), (direction,))[1]  # noqa: B023
            rows.append(
                {
                    "matrix": kind,
                    "route": name,
                    "gradient_error": error(gradient(x, delta), x, delta),
                    "second_derivative_finite": bool(jnp.isfinite(second).all()),
                }
            )
    return rows


def timings(
    rng: np.random.Generator, sizes: Sequence[int], repeats: int, advance: Callable
) -> list[dict[str, Any]]:
    """Time of each route, and of compiling it, for each size and batch."""
    rows = []
    for size in sizes:
        for batch in BATCHES:
            if batch > 1 and batch * size**2 > MAX_VALUES:
                continue
            x = jnp.asarray(rng.uniform(size=(batch, size, size)), jnp.float32)
            delta = jnp.full(batch, size / 4, jnp.float32)
            names = [n for n in ROUTES if n != "forward" or size <= MAX_FORWARD]
            runs, compiled, seconds = {}, {}, {name: [] for name in names}
            for name in names:
                start = time.perf_counter()
                runs[name] = jax.jit(jax.vmap(ROUTES[name])).lower(x, delta).compile()
                compiled[name] = time.perf_counter() - start
                jax.block_until_ready(runs[name](x, delta))
            for _ in range(repeats):
                for name, run in runs.items():
                    start = time.perf_counter()
                    jax.block_until_ready(run(x, delta))
                    seconds[name].append(time.perf_counter() - start)
            base = statistics.median(seconds["closed form"])
            for name in names:
                rows.append(
                    {
                        "route": name,
                        "size": size,
                        "batch": batch,
                        "ratio_to_closed_form": statistics.median(seconds[name]) / base,
                        "compile_seconds": compiled[name],
                    }
                )
            advance()
    return rows


COLORS = {
    "closed form": "#000000",
    "stable": "#0072b2",
    "singular values": "#e69f00",
    "singular vectors": "#d55e00",
    "directional": "#56b4e9",
    "forward": "#009e73",
}
MARKERS = dict(zip(COLORS, "osv^dx", strict=True))


def draw(record: dict[str, Any], path: pathlib.Path) -> None:
    """Error against delta, and time against size."""
    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(7.2, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        side = min(32, max(row["size"] for row in record["accuracy"]))
        for name in ("closed form", *FUNCTIONS):
            for dtype, line in (("float32", "-"), ("float64", ":")):
                rows = [
                    row
                    for row in record["accuracy"]
                    if (row["route"], row["dtype"], row["size"]) == (name, dtype, side)
                    and row["error"]
                ]
                left.loglog(
                    [row["delta_over_sigma"] for row in rows],
                    [row["error"] for row in rows],
                    line,
                    color=COLORS[name],
                    marker=MARKERS[name],
                    markersize=3,
                    label=name if dtype == "float32" else None,
                )
        left.set_xlabel("delta / largest singular value")
        left.set_ylabel("error / largest gradient")
        left.set_title(f"{side} x {side}; solid float32, dotted float64", fontsize=8)
        left.set_ylim(bottom=1e-23)
        left.legend(fontsize=7, loc="lower left", ncols=2)
        batch = min(16, max(row["batch"] for row in record["timings"]))
        for name in ROUTES:
            rows = [
                row
                for row in record["timings"]
                if row["route"] == name and row["batch"] == batch
            ]
            right.loglog(
                [row["size"] for row in rows],
                [row["ratio_to_closed_form"] for row in rows],
                color=COLORS[name],
                marker=MARKERS[name],
                markersize=3,
                label=name,
            )
        sizes = sorted(
            {row["size"] for row in record["timings"] if row["batch"] == batch}
        )
        right.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        right.minorticks_off()
        right.set_xlabel("side of the matrix, pixels")
        right.set_ylabel("time / closed form")
        right.set_title(f"batch of {batch}, float32", fontsize=8)
        right.legend(fontsize=7)
        for axis in (left, right):
            axis.grid(alpha=0.3)
        with written_whole(path) as temporary:
            figure.savefig(temporary, format="png", dpi=130)


def describe(row: dict[str, Any]) -> str:
    """Error of a gradient, with the second derivative in brackets: finite or NaN."""
    found = row["gradient_error"]
    second = "finite" if row["second_derivative_finite"] else "NaN"
    return f"{'NaN' if found is None else f'{found:.1e}'} ({second})"


def main(argv: Sequence[str]) -> None:
    del argv
    require_replaceable(pathlib.Path(FLAGS.out))
    rng = np.random.default_rng(FLAGS.seed)
    sizes = [size for size in (8, 16, 32, 64, 128, 256) if size <= FLAGS.max_size]
    path = pathlib.Path(FLAGS.out)
    progress = Progress()
    record = {
        "provenance": provenance.provenance(),
        "seed": FLAGS.seed,
        "repeats": FLAGS.repeats,
        "accuracy": [row for size in sizes for row in accuracy(rng, size)],
        "failures": failures(rng, min(32, FLAGS.max_size)),
    }
    cells = sum(b == 1 or b * s**2 <= MAX_VALUES for s in sizes for b in BATCHES)
    with progress.stage("timing", cells) as advance:
        record["timings"] = timings(rng, sizes, FLAGS.repeats, advance)
    write_record(path, record)
    draw(record, path.with_suffix(".png"))

    rows = []
    for size, batch in dict.fromkeys(
        (row["size"], row["batch"]) for row in record["timings"]
    ):
        found = {
            row["route"]: f"{row['ratio_to_closed_form']:.2f}"
            for row in record["timings"]
            if (row["size"], row["batch"]) == (size, batch)
        }
        rows.append((str(size), str(batch), *(found.get(n, "-") for n in ROUTES)))
    heads = ("size", "batch", *ROUTES)
    print_rows("Time as a ratio to the closed form", (), heads, rows)
    failed = collections.defaultdict(list)
    for row in record["failures"]:
        failed[row["matrix"]].append(describe(row))
    print_rows(
        "Error of the gradient (second derivative)",
        ("matrix",),
        tuple(FUNCTIONS),
        [(kind, *cells) for kind, cells in failed.items()],
    )


if __name__ == "__main__":
    define_flags()
    errors.run(main)
