"""Speed of purification, against the exact solver and NumPy.

    ./launch.sh bench purify --dataset=cifar10 --data_dir=DIR

Compares the time per image of the fast solver on all images and of the slower ways on
fewer images, each after a run that compiles. The images are spread over the devices, on
a CPU one per core. On a GPU it also times the tracked ("fast"), exact and fused solver
in a `jax.jit` on one device that holds the images, and reports their difference from
the exact results, and the fused one's time relative to its lower bound. Writes the
section "purify" of out/speed.json, or "purify_gpu".

    ./launch.sh bench purify --interpret --num_images=4 --num_exact=2 --image_side=16 \
      --max_steps=14

runs that part alone, on any device, with the kernel interpreted.
"""

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import _floor, _reference, _speed
from splic_jax import SPLICConfig, purification, purify, sample_mask
from splic_jax.purification import COMPILER_OPTIONS
from splic_jax.solvers import kernel
from train import flags as shared_flags
from train.present.terminal import print_rows
from train.records.storing import require_replaceable
from train.utils import errors
from train.utils.errors import UserError
from train.utils.progress import Progress

FLAGS = flags.FLAGS
SIDE = 224
NEAR = 0.02


_CONCATENATED = {"channels": "concatenated", "mask": "independent"}


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    flags.DEFINE_integer("num_images", 4096, "small images", lower_bound=1)
    flags.DEFINE_integer("image_side", 32, "their side", lower_bound=1)
    flags.DEFINE_integer("num_large", 64, "images of 224 x 224", lower_bound=0)
    flags.DEFINE_integer("num_gradients", 256, "images to differentiate", lower_bound=1)
    flags.DEFINE_integer(
        "num_exact", 128, "small images for the slower ways", lower_bound=1
    )
    flags.DEFINE_integer("num_exact_large", 2, "of 224 x 224", lower_bound=1)
    flags.DEFINE_integer("rounds", 16, "rounds of the differentiated completion")
    flags.DEFINE_integer(
        "max_steps", SPLICConfig().max_steps, "maximum steps of the others"
    )
    flags.DEFINE_bool("interpret", False, "only try the fused kernel, on any device")
    flags.DEFINE_float(
        "peak_tflops",
        None,
        "of the device, in float32 without tensor cores; for the share of the floor",
        lower_bound=0,
    )
    flags.DEFINE_float(
        "peak_gbytes", None, "its memory's, in GB/s; likewise", lower_bound=0
    )
    flags.DEFINE_integer("repeats", 3, "timed runs; the median counts", lower_bound=1)
    flags.DEFINE_string("out", "out/speed.json", "JSON file for the results")


def seconds(run: Callable[[], Any]) -> list[float]:
    """Seconds of each timed run, after a run that compiles."""
    jax.block_until_ready(run())
    taken = []
    for _ in range(FLAGS.repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - start)
    return taken


def mosaics(images: np.ndarray, count: int, side: int = SIDE) -> np.ndarray:
    """Images of `side` x `side`, tiled from small ones."""
    across = -(-side // images.shape[1])
    chosen = np.resize(images, (count, across, across, *images.shape[1:]))
    large = chosen.transpose(0, 1, 3, 2, 4, 5)
    large = large.reshape(
        count, *[across * s for s in images.shape[1:3]], images.shape[-1]
    )
    return large[:, :side, :side]


def masks_of(images: np.ndarray, key: jax.Array) -> jax.Array:
    """The masks that `purify` draws, one for all channels of an image."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(np.arange(len(images)))
    return jax.vmap(lambda key: sample_mask(key, images.shape[1:]))(keys)


def main(argv: Sequence[str]) -> None:
    del argv
    dataset = shared_flags.dataset_from_flags("test")
    images = mosaics(dataset.images, FLAGS.num_images, FLAGS.image_side)
    images = images.astype(np.float32) / 255
    # Channel by channel, as the others complete them; `_CONCATENATED` has its own rows.
    config = SPLICConfig(max_steps=FLAGS.max_steps, channels="separate", mask="shared")
    platform = jax.default_backend()
    section = "purify" if platform == "cpu" else f"purify_{platform}"
    section += "_interpreted" * FLAGS.interpret
    require_replaceable(pathlib.Path(FLAGS.out), section)
    if FLAGS.interpret and not kernel.supports(config, images.shape[1:3]):
        raise UserError("the kernel takes an --image_side of 16 to 32")
    progress, rows = Progress(), []

    def measure(work: str, way: str, count: int, run: Callable[[], Any]) -> None:
        progress.line(f"{work}: {way}, {count} images")
        taken = seconds(run)
        rows.append(
            {
                "work": work,
                "way": way,
                "images": count,
                "seconds": taken,
                "ms_per_image": statistics.median(taken) / count * 1e3,
            }
        )

    record = {
        "dataset": dataset.record("test"),
        "settings": dataclasses.asdict(config),
        "devices": len(jax.local_devices()),
        "rows": rows,
    }
    if not FLAGS.interpret:
        measure_all(measure, images, dataset.images, config)
    if FLAGS.interpret or platform == "gpu":
        record["fused"] = measure_fused(measure, rows, images, config)
    fastest = {row["work"]: row["ms_per_image"] for row in rows if row["way"] == "fast"}
    for row in rows:
        row["ratio"] = row["ms_per_image"] / fastest[row["work"]]
    show(rows)
    for name, value in record.get("fused", {}).items():
        if value is not None:
            progress.line(f"fused, {name.replace('_', ' ')}: {value:,.4g}")
    _speed.update(pathlib.Path(FLAGS.out), section, record)


def measure_all(
    measure: Callable[..., None],
    images: np.ndarray,
    originals: np.ndarray,
    config: SPLICConfig,
) -> None:
    """The measurements that run on any device."""
    key, devices = jax.random.key(0), jax.local_devices()
    large, few = mosaics(originals, FLAGS.num_large), images[: FLAGS.num_exact]
    large = large.astype(np.float32) / 255
    solvers = {"fast": config, "exact": dataclasses.replace(config, solver="exact")}
    for side, batches in (
        (FLAGS.image_side, {"fast": images, "exact": few}),
        (SIDE, {"fast": large, "exact": large[: FLAGS.num_exact_large]}),
    ):
        for way, batch in batches.items():
            run = partial(purify, batch, key, solvers[way], devices=devices)
            if len(batch):
                measure(f"purify {side} x {side}", way, len(batch), run)
        for way, batch in batches.items():
            chosen = dataclasses.replace(solvers[way], **_CONCATENATED)
            run = partial(purify, batch, key, chosen, devices=devices)
            if len(batch):
                work = f"purify {side} x {side}, channels concatenated"
                measure(work, way, len(batch), run)
        if batches["exact"] is few:
            masks = np.asarray(masks_of(few, key))
            run = partial(_reference.purify, few, masks, config)
            measure(f"purify {side} x {side}", "numpy", len(few), run)

    def gradient_of(function):
        gradient = jax.grad(lambda x: jnp.sum(function(x) ** 2))
        return jax.jit(gradient, compiler_options=COMPILER_OPTIONS)

    work, many = f"gradient, {FLAGS.rounds} rounds", images[: FLAGS.num_gradients]
    few = few[: len(many)]
    masks = masks_of(few, key)
    steps = {"max_steps": FLAGS.rounds * config.inner_steps, "tolerance": 0.0}
    for way, batch in (("fast", many), ("exact", few)):
        every_step = dataclasses.replace(solvers[way], **steps)
        ours = gradient_of(partial(purify, key=key, config=every_step))
        measure(work, way, len(batch), partial(ours, batch))
    every_step = dataclasses.replace(config, **steps)
    by_svd = gradient_of(lambda x: _reference.purify_by_svd(x, masks, every_step))
    measure(work, "through SVD", len(few), lambda: by_svd(few))


def measure_fused(
    measure: Callable[..., None],
    rows: list[dict[str, Any]],
    images: np.ndarray,
    config: SPLICConfig,
) -> dict[str, Any]:
    """Times exact, fast and fused on one device; returns counts and the lower bound."""
    key, few = jax.random.key(0), images[: FLAGS.num_exact]
    counts = _floor.of_an_image(few, masks_of(few, key), config)
    few, images, key = jax.device_put((few, images, key))
    results = {}
    for way, batch in (("exact", few), ("fast", images), ("fused", images)):
        solver = {"fast": "tracked", "fused": "fast"}.get(way, way)
        chosen = dataclasses.replace(config, solver=solver)
        purified = _interpreted if way == "fused" and FLAGS.interpret else purify
        run = jax.jit(partial(purified, config=chosen))
        side = FLAGS.image_side
        measure(f"in a jit, {side} x {side}", way, len(batch), partial(run, batch, key))
        results[way] = run(few, key)
        difference = np.abs(results[way] - results["exact"])
        rows[-1]["mean_difference"] = float(difference.mean())
        rows[-1]["share_near"] = float((difference <= NEAR).mean())
    peaks = {"tflops": FLAGS.peak_tflops, "gbytes": FLAGS.peak_gbytes}
    floor = _floor.milliseconds(counts, **peaks)
    share = floor and floor / rows[-1]["ms_per_image"]
    return {
        **counts,
        **{f"peak_{name}": value for name, value in peaks.items()},
        "floor_ms_per_image": floor,
        "share_of_floor": share,
    }


def _interpreted(images: jax.Array, key: jax.Array, config: SPLICConfig) -> jax.Array:
    """`purify` by the kernel, interpreted."""
    count = len(images)
    run = partial(purification._compiled, interpret=True)
    return run(images, jnp.arange(count), key, config, count)[0]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rows as a table."""
    numbers = ["images", "ms an image", "images/s", "ratio", "from exact"]
    numbers.append(f"within {NEAR:g}, %")
    cells = []
    for row in rows:
        compared = "mean_difference" in row
        cells.append(
            (
                row["work"],
                row["way"],
                str(row["images"]),
                f"{row['ms_per_image']:.3g}",
                f"{1e3 / row['ms_per_image']:.3g}",
                f"{row['ratio']:.1f}",
                f"{row['mean_difference']:.1e}" if compared else "",
                f"{100 * row['share_near']:.3f}" if compared else "",
            )
        )
    print_rows("", ("work", "way"), numbers, cells)


if __name__ == "__main__":
    define_flags()
    errors.run(main)
