"""The stopping rule: what `tolerance` and `max_steps` cost and gain.

    ./launch.sh bench stopping --dataset=cifar10 --data_dir=DIR

Purifies test images, clean and with +-8/255 noise on every value, with several values
of the two, and compares with a much longer run. Writes out/stopping.json. The defaults
of `SPLICConfig` follow from results/stopping.json: docs/formulas.md.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from splic_jax import SPLICConfig, complete, purify, sample_mask
from train import flags as shared_flags
from train.evaluation.statistics import mean_interval
from train.present.terminal import print_rows
from train.records import provenance
from train.records.storing import require_replaceable, write_record
from train.utils import errors, quality
from train.utils.progress import Progress

FLAGS = flags.FLAGS
SETTINGS = [(t, s) for t in (1e-3, 5e-4, 2e-4, 1e-4) for s in (84, 112, 280)]
FAR = (0.0, 420)


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    flags.DEFINE_integer("num_images", 48, "test images", lower_bound=2)
    flags.DEFINE_integer(
        "seed", 0, "of the masks and the noise", lower_bound=0, upper_bound=2**31 - 1
    )
    flags.DEFINE_string("out", "out/stopping.json", "JSON file for the results")


@functools.partial(jax.jit, static_argnames="config")
def steps_taken(images, key, config):
    """Mean number of steps of pass 1 over the channels of all images."""

    def one(pair):
        image, index = pair
        mask = sample_mask(jax.random.fold_in(key, index), image.shape)
        run = jax.vmap(lambda x, m: complete(x, m, config).steps, in_axes=-1)
        return run(image, mask).mean()

    return jax.lax.map(one, (images, jnp.arange(len(images)))).mean()


def main(argv: Sequence[str]) -> None:
    del argv
    require_replaceable(pathlib.Path(FLAGS.out))
    dataset = shared_flags.dataset_from_flags("test")
    clean = dataset.images[: FLAGS.num_images].astype(np.float32) / 255
    noise = np.random.default_rng(FLAGS.seed).choice([-1, 1], clean.shape) * 8 / 255
    inputs = {"clean": clean, "noisy": np.clip(clean + noise, 0, 1).astype(np.float32)}
    flat = np.full_like(clean[:4], 0.9)
    key, progress = jax.random.key(FLAGS.seed), Progress()
    rows, far = [], {}
    with progress.stage("settings", len(SETTINGS) + 1) as advance:
        for tolerance, max_steps in (FAR, *SETTINGS):
            # The algorithm itself, without the error of the fast solver.
            config = SPLICConfig(
                tolerance=tolerance, max_steps=max_steps, solver="exact"
            )
            row = {"tolerance": tolerance, "max_steps": max_steps}
            for name, images in inputs.items():
                purified = np.asarray(purify(images, key, config))
                psnr = np.asarray(quality.psnr(clean, purified))
                far.setdefault(name, (purified, psnr))
                row[name] = {
                    "psnr_db": mean_interval(psnr),
                    "psnr_below_far_db": mean_interval(far[name][1] - psnr),
                    "mean_difference": float(np.abs(purified - far[name][0]).mean()),
                    "mean_steps": float(steps_taken(images, key, config)),
                }
            row["flat_error"] = float(np.abs(purify(flat, key, config) - flat).max())
            rows.append(row)
            advance()

    cells = [
        (
            f"{row['tolerance']:g}",
            str(row["max_steps"]),
            f"{row['noisy']['mean_steps']:.0f}",
            f"{row['clean']['psnr_db']['mean']:.2f}",
            f"{row['noisy']['psnr_db']['mean']:.2f}",
            f"{row['flat_error']:.4f}",
        )
        for row in rows
    ]
    numbers = ("tolerance", "max_steps", "steps", "dB clean", "noisy", "flat")
    print_rows("", (), numbers, cells)
    record = {
        "provenance": provenance.provenance(),
        "dataset": dataset.record("test", len(clean)),
        "seed": FLAGS.seed,
        "defaults": dataclasses.asdict(SPLICConfig()),
        "rows": rows,
    }
    write_record(pathlib.Path(FLAGS.out), record)


if __name__ == "__main__":
    define_flags()
    errors.run(main)
