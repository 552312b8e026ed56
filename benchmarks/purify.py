"""How fast purification is, against the exact solver and against NumPy.

    ./launch.sh bench purify --dataset=cifar10 --data_dir=DIR

Times the fast solver on all images and the slower ways on fewer of them, each after a
first run that compiles, and compares the time of an image. The images are spread over
the devices, on a CPU one for each core. Writes the section "purify" of out/speed.json.
"""

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table
from absl import flags

from benchmarks import _speed
from splic_jax import SPLICConfig, purify, sample_mask
from splic_jax.purification import COMPILER_OPTIONS
from splic_jax.total_variation import total_variation_gradient
from train import errors
from train import flags as shared_flags
from train.progress import Progress

FLAGS = flags.FLAGS
FAST, EXACT = SPLICConfig(), SPLICConfig(solver="exact")
SIDE = 224


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    flags.DEFINE_integer("num_images", 4096, "images of 32 x 32", lower_bound=1)
    flags.DEFINE_integer("num_large", 64, "images of 224 x 224", lower_bound=0)
    flags.DEFINE_integer("num_gradients", 256, "images to differentiate", lower_bound=1)
    flags.DEFINE_integer(
        "num_exact", 128, "images of 32 x 32 for the slower ways", lower_bound=1
    )
    flags.DEFINE_integer("num_exact_large", 2, "of 224 x 224", lower_bound=1)
    flags.DEFINE_integer("rounds", 16, "rounds of the differentiated completion")
    flags.DEFINE_integer("repeats", 3, "timed runs; the median counts", lower_bound=1)
    flags.DEFINE_string("out", "out/speed.json", "JSON file for the results")


def purify_numpy(images: np.ndarray, masks: np.ndarray, config: SPLICConfig):
    """Algorithm 1, alternated, with batched `np.linalg.svd` in float32.

    Images ``[n, h, w, c]``; the completions of a batch stop when all have converged.
    """
    x = np.moveaxis(images, -1, 1).reshape(-1, *images.shape[1:3]).astype(np.float32)
    mask = np.moveaxis(masks, -1, 1).reshape(x.shape)
    for anchors_at in (mask, ~mask):
        x = _complete_numpy(x * anchors_at, anchors_at, config)
    x = x.reshape(len(images), -1, *images.shape[1:3])
    return np.clip(np.moveaxis(x, 1, -1), 0, 1)


def _complete_numpy(anchors, mask, config):
    rank = config.rank_of(anchors.shape[1:])
    x, delta = anchors, np.linalg.svd(anchors, compute_uv=False)[:, :1]
    for _ in range(config.max_rounds):
        for _ in range(config.inner_steps):
            u, s, vt = np.linalg.svd(x, full_matrices=False)
            u, s, vt = u[..., :rank], s[:, :rank], vt[:, :rank]
            cut = (u * s[:, None]) @ vt
            shrunk = s * (1 - config.step_size * np.exp(-((s / delta) ** 2) / 2))
            down, right = np.diff(cut, axis=1), np.diff(cut, axis=2)
            tv = np.zeros_like(cut)
            tv[:, :-1] -= down
            tv[:, 1:] += down
            tv[..., :-1] -= right
            tv[..., 1:] += right
            new = (u * shrunk[:, None]) @ vt - config.step_size * config.tv_weight * tv
            new = np.where(mask, anchors, new)
            change = np.linalg.norm(new - x, axis=(1, 2)) / np.linalg.norm(
                x, axis=(1, 2)
            )
            x = new
        delta = delta * config.delta_decay
        if (change <= config.tolerance).all():
            break
    return x


def purify_by_svd(images, masks, config: SPLICConfig, rounds: int):
    """The exact completion with `jnp.linalg.svd`, differentiated through it by JAX."""
    rank = config.rank_of(images.shape[1:3])

    def one_pass(matrix, mask):
        anchors = jnp.where(mask, matrix, 0)
        first = jnp.linalg.svd(anchors, compute_uv=False)[0]

        @jax.checkpoint
        def step(x, delta):
            u, s, vt = jnp.linalg.svd(x, full_matrices=False)
            u, s, vt = u[:, :rank], s[:rank], vt[:rank]
            cut = (u * s) @ vt
            shrunk = s * (1 - config.step_size * jnp.exp(-((s / delta) ** 2) / 2))
            tv = total_variation_gradient(cut)
            new = (u * shrunk) @ vt - config.step_size * config.tv_weight * tv
            return jnp.where(mask, anchors, new), None

        powers = jnp.repeat(
            config.delta_decay ** jnp.arange(rounds), config.inner_steps
        )
        x, _ = jax.lax.scan(step, anchors, first * powers)
        return jnp.where(mask, matrix, x)

    def alternated(matrix, mask):
        return one_pass(one_pass(matrix, mask), ~mask)

    over_channels = jax.vmap(alternated, in_axes=-1, out_axes=-1)
    return jax.vmap(over_channels)(images, masks)


def seconds(run: Callable[[], Any]) -> list[float]:
    """Seconds of each timed run, after one that compiles."""
    jax.block_until_ready(run())
    taken = []
    for _ in range(FLAGS.repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - start)
    return taken


def mosaics(images: np.ndarray, count: int, side: int = SIDE) -> np.ndarray:
    """Pictures of `side` x `side` put together from small ones."""
    across = -(-side // images.shape[1])
    chosen = np.resize(images, (count, across, across, *images.shape[1:]))
    large = chosen.transpose(0, 1, 3, 2, 4, 5)
    large = large.reshape(
        count, *[across * s for s in images.shape[1:3]], images.shape[-1]
    )
    return large[:, :side, :side]


def main(argv: Sequence[str]) -> None:
    del argv
    dataset = shared_flags.dataset_from_flags("test")
    images = np.resize(dataset.images, (FLAGS.num_images, *dataset.images.shape[1:]))
    images = images.astype(np.float32) / 255
    key, devices = jax.random.key(0), jax.local_devices()
    large = mosaics(images, FLAGS.num_large)
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

    def masks_of(batch):
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(np.arange(len(batch)))
        return jax.vmap(lambda k: sample_mask(k, batch.shape[1:]))(keys)

    few = images[: FLAGS.num_exact]
    small = "purify 32 x 32"
    measure(
        small, "fast", len(images), lambda: purify(images, key, FAST, devices=devices)
    )
    measure(small, "exact", len(few), lambda: purify(few, key, EXACT, devices=devices))
    numpy_masks = np.asarray(masks_of(few))
    measure(small, "numpy", len(few), lambda: purify_numpy(few, numpy_masks, FAST))
    if len(large):
        work, some = f"purify {SIDE} x {SIDE}", large[: FLAGS.num_exact_large]
        measure(
            work, "fast", len(large), lambda: purify(large, key, FAST, devices=devices)
        )
        measure(
            work, "exact", len(some), lambda: purify(some, key, EXACT, devices=devices)
        )

    def gradient_of(function):
        gradient = jax.grad(lambda x: jnp.sum(function(x) ** 2))
        return jax.jit(gradient, compiler_options=COMPILER_OPTIONS)

    work, many = f"gradient, {FLAGS.rounds} rounds", images[: FLAGS.num_gradients]
    few, few_masks = few[: len(many)], masks_of(few[: len(many)])
    ours = gradient_of(lambda x: purify(x, key, FAST, rounds=FLAGS.rounds))
    measure(work, "fast", len(many), lambda: ours(many))
    exact = gradient_of(lambda x: purify(x, key, EXACT, rounds=FLAGS.rounds))
    measure(work, "exact", len(few), lambda: exact(few))
    by_svd = gradient_of(lambda x: purify_by_svd(x, few_masks, FAST, FLAGS.rounds))
    measure(work, "through SVD", len(few), lambda: by_svd(few))

    fastest = {row["work"]: row["ms_per_image"] for row in rows if row["way"] == "fast"}
    for row in rows:
        row["ratio"] = row["ms_per_image"] / fastest[row["work"]]
    show(rows)
    record = {
        "dataset": {"name": dataset.name, "split": "test"},
        "settings": dataclasses.asdict(FAST),
        "devices": len(devices),
        "rows": rows,
    }
    _speed.update(pathlib.Path(FLAGS.out), "purify", record)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rows as a table."""
    table = rich.table.Table()
    for heading in ("work", "way", "images", "ms an image", "images/s", "ratio"):
        table.add_column(heading, justify="left" if heading in "work way" else "right")
    for row in rows:
        table.add_row(
            row["work"],
            row["way"],
            str(row["images"]),
            f"{row['ms_per_image']:.3g}",
            f"{1e3 / row['ms_per_image']:.3g}",
            f"{row['ratio']:.1f}",
        )
    rich.console.Console().print(table)


if __name__ == "__main__":
    define_flags()
    errors.run(main)
