"""Time and peak memory of purification against images, side and devices.

    ./launch.sh bench growth

Devices are virtual on a CPU: more than its cores bring nothing. Each point runs in its
own process, to measure peak memory, from which images and result are subtracted: what
remains is Python, JAX, the compiled programs, and what `purify` needs. Writes the
section "growth" of out/speed.json and a plot beside it.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks import _speed
from benchmarks.purify import mosaics
from splic_jax import purify
from train.data import loading
from train.records.storing import require_replaceable
from train.utils import errors
from train.utils.errors import UserError
from train.utils.files import written_whole
from train.utils.progress import Progress

FLAGS = flags.FLAGS
SIDES = (16, 32, 64, 128, 256, 512)
DEVICES = (1, 2, 4, 8)


def define_flags() -> None:
    """Defines the flags of this binary."""
    flags.DEFINE_integer("max_images", 100_000, "the most images", lower_bound=1)
    flags.DEFINE_integer("max_side", 512, "the largest side", lower_bound=16)
    flags.DEFINE_integer("max_devices", 8, "the most devices", lower_bound=1)
    flags.DEFINE_string("out", "out/speed.json", "JSON file for the results")
    flags.DEFINE_list("point", None, "images,side,devices: measure this and print it")


def main(argv: Sequence[str]) -> None:
    del argv
    if FLAGS.point:
        print(json.dumps(measure(*map(int, FLAGS.point))))
        return
    require_replaceable(pathlib.Path(FLAGS.out), "growth")
    counts = [n for n in 10 ** np.arange(6) if n <= FLAGS.max_images]
    sides = [side for side in SIDES if side <= FLAGS.max_side]
    devices = [d for d in DEVICES if d <= FLAGS.max_devices]
    points = {
        "images": [(int(n), 32, 1) for n in counts],
        "side": [(2, side, 1) for side in sides],
        "devices": [(min(512, FLAGS.max_images), 32, d) for d in devices],
    }
    record, progress = {}, Progress()
    total = sum(len(group) for group in points.values())
    with (
        tempfile.TemporaryDirectory() as cache,
        progress.stage("points", total) as advance,
    ):
        for column, (name, group) in enumerate(points.items()):
            rows = []
            for point in group:
                rows.append(run_apart(point, cache))
                advance()
            record[name] = {
                "points": rows,
                "exponent": {
                    of: exponent([point[column] for point in group], rows, of)
                    for of in ("seconds", "megabytes_beyond")
                },
            }
    path = pathlib.Path(FLAGS.out)
    _speed.update(path, "growth", record)
    plot(record, path.with_name("growth.png"))
    for name, curve in record.items():
        progress.line(f"{name}: {law(name, curve)}")


def measure(count: int, side: int, devices: int) -> dict[str, float]:
    """Seconds of `purify`, without compilation, and the process's peak memory.

    With (`megabytes`) and without (`megabytes_beyond`) images and result.
    """
    jax.config.update("jax_num_cpu_devices", devices)  # before JAX is first used
    small = loading.load("shapes", "test", num_examples=64).images
    some = mosaics(small, min(count, 64), side)
    images = np.zeros((count, side, side, 3), some.dtype)
    key, chosen = jax.random.key(0), jax.local_devices()[:devices]
    spread = chosen if devices > 1 else None

    def run():
        return purify(images, key, devices=spread).block_until_ready()

    # Compiles on black images, which converge in one round. In the array that is
    # measured, as a second one would add to the peak.
    run()
    for first in range(0, count, len(some)):
        images[first : first + len(some)] = some[: count - first]
    start = time.perf_counter()
    purified = run()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 2**10
    return {
        "images": count,
        "side": side,
        "devices": devices,
        "seconds": seconds,
        "megabytes": peak / 2**20,
        "megabytes_beyond": (peak - images.nbytes - purified.nbytes) / 2**20,
    }


def run_apart(point: tuple[int, int, int], cache: str) -> dict[str, float]:
    """`measure` in its own process."""
    command = [sys.executable, "-P", "-m", "benchmarks.growth"]
    done = subprocess.run(
        [*command, f"--point={','.join(map(str, point))}"],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"the process for images, side, devices {point} failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def exponent(sizes: Sequence[int], rows: Sequence[dict[str, float]], of: str):
    """The log-log slope over the upper half of the points."""
    values = [row[of] for row in rows]
    upper = slice(len(sizes) // 2 if len(sizes) > 3 else 0, None)
    if len(sizes[upper]) < 2:
        return None
    slope, _ = np.polyfit(np.log(sizes[upper]), np.log(values[upper]), 1)
    return float(slope)


def law(name: str, curve: dict) -> str:
    """The fitted power law of the time, in words."""
    slope = curve["exponent"]["seconds"]
    return "one point" if slope is None else f"time ~ {name}^{slope:.2f}"


def plot(record: dict, path: pathlib.Path) -> None:
    """One panel per curve: time on the left axis, memory on the right one."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, len(record))
    # One scale for all panels, from a bare process to twice the largest.
    points = [row for curve in record.values() for row in curve["points"]]
    most = 2 * max(1000, *(row["megabytes_beyond"] for row in points))
    for axes, (name, curve) in zip(panels, record.items(), strict=True):
        sizes = [row[name] for row in curve["points"]]
        axes.loglog(sizes, [row["seconds"] for row in curve["points"]], "o-")
        axes.set_xlabel(name)
        axes.set_ylabel("seconds", color="C0")
        axes.set_title(law(name, curve))
        right = axes.twinx()
        right.loglog(
            sizes, [row["megabytes_beyond"] for row in curve["points"]], "s--C1"
        )
        right.set_ylabel("peak memory beyond images and result, MB", color="C1")
        right.set_ylim(100, most)
        for shared in (axes, right):
            names = [f"{size:,}".replace(",000", "k") for size in sizes]
            shared.set_xticks(sizes, names)
            shared.xaxis.set_minor_locator(NullLocator())
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


if __name__ == "__main__":
    define_flags()
    errors.run(main)
