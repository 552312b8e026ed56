"""Every input transform in front of one network: accuracy, PSNR and cost.

    ./launch.sh bench defenses --checkpoint=out/train --dataset=cifar10 --data_dir=DIR

The network was trained on unmodified images. Evaluates every transform of the registry
with default settings on clean images and gray-box attacks (FGSM and PGD on the bare
network), then sweeps of SPLIC's settings, and the time per image. Writes
out/defenses.json, cell by cell; the same command resumes it.
"""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from splic_jax import METHODS, SPLICConfig, transform
from splic_jax.transforms import fitted
from train import flags as shared_flags
from train.data import loading
from train.evaluation.cells import evaluate
from train.evaluation.plan import by_name
from train.evaluation.run import show_cells
from train.networks import flags as network_flags
from train.records import provenance
from train.records.storing import record_of, write_record
from train.threats.attackers import PRESETS
from train.threats.defended import settings_of
from train.training import checkpoints
from train.utils import errors
from train.utils.progress import Progress

FLAGS = flags.FLAGS
ATTACKS = {name: PRESETS[name] for name in ("fgsm", "pgd")}
# Field of SPLICConfig -> values beside the default.
SWEEPS: Mapping[str, Sequence[Any]] = {
    "tv_weight": (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5),
    "rank": (2, 4, 6, 12, 16),
    "rank_cut": (False,),
    "keep_probability": (0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9),
    "alternate": (False,),
    "max_steps": (14, 28, 56, 420),
    "channels": ("separate",),
    "mask": ("shared",),
    "mask_design": ("exact", "checkerboard", "blue_noise", "blocks"),
}
TIMED_IMAGES = 64
SLOW = ("srf_reference",)  # takes ten times as long as SPLIC, so it has no vote
_CELLS = ("bare", "methods", "sweeps", "voted")


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    network_flags.define_network_flags("out/quickstart/bare")
    flags.adopt_module_key_flags(network_flags)
    flags.DEFINE_integer("votes", 10, "draws in the vote of random transforms")
    flags.DEFINE_integer("seed", 0, "of attacks and masks", lower_bound=0)
    flags.DEFINE_string("out", "out/defenses.json", "JSON file for the results")


def methods_for(dataset: loading.Dataset, training: loading.Dataset, seed: int) -> dict:
    """Settings of every method that keeps the number of channels, fitted."""
    channels = dataset.images.shape[-1]
    return {
        name: fitted(method.config, training.images, jax.random.key(seed))
        for name, method in METHODS.items()
        if method.channels(method.config, channels) == channels
    }


def variants() -> Iterator[tuple[str, Any, SPLICConfig]]:
    """SPLIC with one field changed: its name and value, and all the settings."""
    for field, values in SWEEPS.items():
        for value in values:
            yield field, value, dataclasses.replace(SPLICConfig(), **{field: value})
    yield "formulas", "as printed", SPLICConfig.printed()


def seconds_an_image(run: Callable[[], Any], images: int) -> float:
    """The shortest of three runs, per image, after one that compiles."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return min(times[1:]) / images


def costs(configs: Mapping[str, Any], images: np.ndarray) -> list[dict[str, Any]]:
    """Time per image of each method, and its ratio to SPLIC's."""
    key, seconds = jax.random.key(0), {}
    for name, config in configs.items():
        run = functools.partial(transform, images, key, config)
        seconds[name] = seconds_an_image(run, len(images))
    return [
        {"defense": name, "seconds": value, "ratio_to_splic": value / seconds["splic"]}
        for name, value in seconds.items()
    ]


def main(argv: Sequence[str]) -> None:
    del argv
    path, progress = pathlib.Path(FLAGS.out), Progress()
    dataset = shared_flags.dataset_from_flags("test")
    network = network_flags.network_for(dataset)
    logits_fn = network.logits
    training = shared_flags.dataset_from_flags("train")
    configs = methods_for(dataset, training, FLAGS.seed)
    swept = {f"{field}={value}": config for field, value, config in variants()}
    inputs = {
        "format": 1,
        "dataset": {
            **dataset.record("test"),
            "sha256": checkpoints.dataset_checksum(dataset),
        },
        "network": network.record,
        "attacks": {n: dataclasses.asdict(attack) for n, attack in ATTACKS.items()},
        "votes": FLAGS.votes,
        "seed": FLAGS.seed,
    }
    inputs = json.loads(json.dumps(inputs))
    described = {n: settings_of(config) for n, config in {**configs, **swept}.items()}
    # Read once: what is stored below has the current settings.
    before = record_of(path, inputs)
    earlier = before.get("settings", {})
    record = {
        "provenance": provenance.provenance(),
        **inputs,
        "settings": described,
        **{name: before.get(name, []) for name in (*_CELLS, "costs")},
    }

    def measure(
        part: str,
        defenses: Mapping[str, Any],
        threats: Sequence[str] = ("clean", "gray-box"),
        votes: int = 1,
    ) -> None:
        # Cells measured with other settings under the same name are measured again.
        done = by_name(
            cell
            for cell in record[part]
            if earlier.get(cell["defense"]) == described.get(cell["defense"])
        )

        def store(cells: list[dict[str, Any]]) -> None:
            write_record(path, {**record, part: cells})

        record[part] = evaluate(
            logits_fn,
            dataset,
            defenses,
            threats=tuple(threats),
            attacks=ATTACKS,
            seed=FLAGS.seed,
            votes=votes,
            progress=progress,
            done=done,
            store=store,
        )

    measure("bare", {"none": None}, ("clean", "white-box"))
    measure("methods", configs)
    measure("sweeps", swept)
    random = {
        name: config
        for name, config in configs.items()
        if METHODS[name].random and name not in SLOW
    }
    measure("voted", random, votes=FLAGS.votes)
    if not record["costs"] or earlier != described:
        record["costs"] = costs(configs, dataset.images[:TIMED_IMAGES])
    write_record(path, record)
    for part in _CELLS:
        show_cells(part, record[part])
    for row in record["costs"]:
        progress.line(
            f"{row['defense']}: {1000 * row['seconds']:.2f} ms per image, "
            f"{row['ratio_to_splic']:.2f} times SPLIC's"
        )


if __name__ == "__main__":
    define_flags()
    errors.run(main)
