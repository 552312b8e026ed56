"""Agreement of the fast solver with the exact one, on real images.

    ./launch.sh bench agreement --dataset=cifar10 --data_dir=DIR --checkpoint=DIR

Purifies test images, clean and attacked, with both solvers and the same masks, for
several ranks and keep probabilities. Compares the pixels, and as paired differences the
PSNR against the clean image and, given a network, its accuracy. Writes the section
"agreement" of out/speed.json.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags
from scipy import stats

from attacks import pgd
from benchmarks import _speed
from splic_jax import SPLICConfig, purify
from train import flags as shared_flags
from train.evaluation.statistics import mean_interval
from train.networks import flags as network_flags
from train.present.terminal import print_rows
from train.records.storing import require_replaceable
from train.utils import errors, quality
from train.utils.devices import spread
from train.utils.progress import Progress

FLAGS = flags.FLAGS
BATCH = 100
CASES = (
    ("attacked", {}),
    ("clean", {}),
    ("clean", {"channels": "separate", "mask": "shared"}),
    ("clean", {"channels": "separate", "mask": "shared", "tv_weight": 0.02}),
    *(("clean", {"rank": rank}) for rank in (4, 16)),
    *(("clean", {"keep_probability": keep}) for keep in (0.3, 0.4, 0.6, 0.7, 0.8)),
)
# "The same": at most this mean difference, and this share of the pixels within NEAR.
MEAN, NEAR, SHARE = 1e-3, 0.02, 0.999


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    flags.DEFINE_integer("num_images", 1000, "test images", lower_bound=2)
    network_flags.define_network_flags()  # the network to attack, if there is one
    flags.adopt_module_key_flags(network_flags)
    flags.DEFINE_integer(
        "seed", 0, "of masks and attack", lower_bound=0, upper_bound=2**31 - 1
    )
    flags.DEFINE_string("out", "out/speed.json", "JSON file for the results")


def main(argv: Sequence[str]) -> None:
    del argv
    require_replaceable(pathlib.Path(FLAGS.out), "agreement")
    dataset = shared_flags.dataset_from_flags("test")
    clean = dataset.images[: FLAGS.num_images].astype(np.float32) / 255
    labels = dataset.labels[: FLAGS.num_images]
    key = jax.random.key(FLAGS.seed)
    inputs, network = {"clean": clean}, None
    if any(FLAGS[name].present for name in network_flags.NAMES):
        classifier = network_flags.network_for(dataset)
        network = jax.jit(classifier.logits)
        inputs["attacked"] = attack(network, clean, labels, key)

    progress, rows = Progress(), []
    cases = [case for case in CASES if case[0] in inputs]
    with progress.stage("cases", len(cases) * len(clean)) as advance:
        for name, changes in cases:
            purified = {"fast": [], "exact": []}
            for start in range(0, len(clean), BATCH):
                piece = inputs[name][start : start + BATCH]
                for solver, done in purified.items():
                    config = SPLICConfig(solver=solver, **changes)
                    done.append(
                        np.asarray(
                            purify(
                                piece, key, config, first_index=start, devices=spread()
                            )
                        )
                    )
                advance(len(piece))
            both = {solver: np.concatenate(done) for solver, done in purified.items()}
            row = compare(**both, clean=clean, labels=labels, network=network)
            rows.append({"images": name, "settings": changes, **row})

    show(rows)
    record = {
        "dataset": dataset.record("test", len(clean)),
        "seed": FLAGS.seed,
        "defaults": dataclasses.asdict(SPLICConfig()),
        "bar": {"mean_difference": MEAN, "near": NEAR, "share_near": SHARE},
        "rows": rows,
    }
    _speed.update(pathlib.Path(FLAGS.out), "agreement", record)


def attack(network, images, labels, key) -> np.ndarray:
    """Images attacked by PGD on the network alone, with the defaults of `attacks`."""
    run = jax.jit(lambda x, y, k: pgd(lambda z, _: network(z), x, y, k).images)
    return np.concatenate(
        [
            run(
                images[i : i + BATCH], labels[i : i + BATCH], jax.random.fold_in(key, i)
            )
            for i in range(0, len(images), BATCH)
        ]
    )


def compare(fast, exact, clean, labels, network):
    """Differences between two sets of purified images ``[n, h, w, c]``."""
    difference = np.abs(fast - exact)
    psnr_fast, psnr_exact = (np.asarray(quality.psnr(clean, x)) for x in (fast, exact))
    row = {
        "mean_difference": float(difference.mean()),
        "share_near": float((difference <= NEAR).mean()),
        "largest_difference": float(difference.max()),
        "psnr_exact_db": mean_interval(psnr_exact),
        "psnr_fast_minus_exact_db": mean_interval(psnr_fast - psnr_exact),
        "same": bool(
            difference.mean() <= MEAN and (difference <= NEAR).mean() >= SHARE
        ),
    }
    if network is not None:
        right = {
            name: _predictions(network, x) == labels
            for name, x in (("fast", fast), ("exact", exact))
        }
        gained = int((right["fast"] & ~right["exact"]).sum())
        lost = int((right["exact"] & ~right["fast"]).sum())
        test = stats.binomtest(gained, gained + lost) if gained + lost else None
        row["accuracy_fast"] = float(right["fast"].mean())
        row["accuracy_exact"] = float(right["exact"].mean())
        row["right_only_fast"], row["right_only_exact"] = gained, lost
        row["accuracy_p"] = float(test.pvalue) if test else 1.0  # McNemar, exact
    return row


def _predictions(network, images: np.ndarray) -> np.ndarray:
    starts = range(0, len(images), BATCH)
    logits = [np.asarray(network(images[i : i + BATCH])) for i in starts]
    return np.concatenate(logits).argmax(axis=-1)


def show(rows) -> None:
    """Prints the rows as a table."""
    cells = []
    for row in rows:
        changes = [f"{name}={value}" for name, value in row["settings"].items()]
        accuracy = ["", ""]
        if "accuracy_p" in row:
            accuracy[0] = f"{row['accuracy_fast']:.1%} / {row['accuracy_exact']:.1%}"
            accuracy[1] = f"{row['accuracy_p']:.2g}"
        cells.append(
            (
                " ".join([row["images"], *changes]),
                f"{row['mean_difference']:.1e}",
                f"{row['share_near']:.3%}",
                f"{row['largest_difference']:.2g}",
                f"{row['psnr_fast_minus_exact_db']['mean']:+.3f}",
                *accuracy,
                "yes" if row["same"] else "no",
            )
        )
    numbers = ("mean", "near", "largest", "dB", "accuracy", "p", "same")
    print_rows("", ("images",), numbers, cells)


if __name__ == "__main__":
    define_flags()
    errors.run(main)
