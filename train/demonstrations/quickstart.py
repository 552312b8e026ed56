"""The whole story: train, attack, purify, measure, and show it."""

import dataclasses
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np
import psutil

from splic_jax import SPLICConfig
from train import models
from train.data import loading
from train.evaluation.cells import attack_batch, batch_size, classify_batch, evaluate
from train.evaluation.plan import by_name
from train.evaluation.run import show_cells
from train.present.figure import Row, picture_grid
from train.records import provenance, storing
from train.threats.attackers import AttackSettings
from train.training.checkpoints import LoadedModel, dataset_checksum
from train.training.loop import train
from train.training.settings import TrainSettings
from train.utils.progress import Progress

FORMAT = 2
SHOWN = 10  # pictures in the figure


def run(
    folder: pathlib.Path, *, num_train: int, num_test: int, epochs: int, seed: int
) -> None:
    """Trains, attacks, purifies, measures and draws; skips what is done already.

    Args:
        folder: for everything it writes.
        num_train, num_test: pictures to train on, and to attack.
        epochs: passes over the training pictures.
        seed: of the weights, the attacks and the masks.

    Raises:
        UserError: if the folder holds something else, or cannot be written.
    """
    started = psutil.Process().create_time()
    start, first_work = time.monotonic(), time.time() - started
    from_nothing = not folder.exists()
    progress = Progress()

    def say(stage: int, text: str) -> None:
        minutes = (time.monotonic() - start) / 60
        progress.line(f"[{stage}/5, {minutes:.1f} min] {text}")

    splic, attack = SPLICConfig(), AttackSettings()
    say(1, f"drawing {num_train} + {num_test} pictures of 10 shapes")
    training = loading.load("shapes", "train", num_examples=num_train)
    test = loading.load("shapes", "test", num_examples=num_test)

    networks = {}
    for stage, (name, defense, text) in enumerate(
        (
            ("bare", None, "training a small network on the pictures as they are"),
            (
                "splic",
                splic,
                "purifying the pictures and training a second one on them",
            ),
        ),
        start=2,
    ):
        say(stage, text)
        settings = TrainSettings(
            epochs=epochs, batch_size=64, defense=defense, seed=seed
        )
        networks[name] = train(
            settings,
            training,
            test,
            folder / name,
            cache_dir=folder / "purified",
            progress=progress,
        )

    say(
        4,
        f"attacking both, {attack.words()}, and purifying: "
        f"{len(test.images)} test pictures",
    )
    path = folder / "quickstart.json"
    inputs = {
        "format": FORMAT,
        "dataset": {"name": "shapes", "split": "test", "count": len(test.images)},
        "training": {
            name: dataclasses.asdict(loaded.settings) | {"num_train": num_train}
            for name, loaded in networks.items()
        },
        "dataset_sha256": dataset_checksum(test),
        "defense": dataclasses.asdict(splic),
        "attack": dataclasses.asdict(attack),
        "seed": seed,
    }
    inputs = json.loads(json.dumps(inputs))
    results = _evaluate(networks, test, splic, attack, path, inputs, progress)

    say(5, f"drawing {folder / 'quickstart.png'}")
    _draw(
        networks["bare"],
        test,
        splic,
        attack,
        results["bare"],
        folder / "quickstart.png",
        seed,
    )

    for name, cells in results.items():
        title = {
            "bare": "Network trained on the pictures as they are",
            "splic": "Network trained on purified pictures",
        }[name]
        show_cells(title, cells)
    minutes, cpu = (time.time() - started) / 60, time.process_time() / 60
    if from_nothing:
        record = storing.read_record(path)
        record["cost"] = {
            "minutes": minutes,
            "cpu_minutes": cpu,
            "seconds_to_first_work": first_work,
        }
        storing.write_record(path, record)
    progress.line(
        f"done in {minutes:.1f} minutes ({cpu:.1f} CPU-minutes): "
        f"{path} and {folder / 'quickstart.png'}"
    )


def _evaluate(
    networks: dict[str, LoadedModel],
    test: loading.Dataset,
    splic: SPLICConfig,
    attack: AttackSettings,
    path: pathlib.Path,
    inputs: dict[str, Any],
    progress: Progress,
) -> dict[str, list[dict[str, Any]]]:
    """Measures both networks, except for the cells that `path` holds already."""
    record = {"provenance": provenance.provenance(), **inputs}
    functions = {
        name: models.logits_function(loaded.graphdef, loaded.variables)
        for name, loaded in networks.items()
    }
    results: dict[str, list[dict[str, Any]]] = {}
    done = storing.record_of(path, inputs).get("networks", {})
    for name, logits_fn in functions.items():
        progress.line(f"network '{name}'")

        def store(cells: list[dict[str, Any]], name: str = name) -> None:
            storing.write_record(
                path, {**record, "networks": {**done, **results, name: cells}}
            )

        results[name] = evaluate(
            logits_fn,
            test,
            {"none": None, "splic": splic},
            attacks={"pgd": attack},
            seed=inputs["seed"],
            surrogate=functions["bare"] if name == "splic" else None,
            progress=progress,
            done=by_name(done.get(name, [])),
            store=store,
        )
    return results


def _draw(
    network: LoadedModel,
    test: loading.Dataset,
    splic: SPLICConfig,
    attack: AttackSettings,
    cells: list[dict[str, Any]],
    path: pathlib.Path,
    seed: int,
) -> None:
    """The first test pictures, and what the network says of them."""
    attack_key, mask_key = jax.random.split(jax.random.key(seed))
    # The evaluation's batch size, for which everything is compiled.
    batch = batch_size(len(test.images))
    clean = jax.device_put(test.images[:batch], jax.devices()[0]).astype(np.float32)
    clean, labels = clean / 255, jax.numpy.asarray(test.labels[:batch])
    bare = models.logits_function(network.graphdef, network.variables)
    attacked = attack_batch(bare, clean, labels, attack_key, 0, None, attack).images
    rows = []
    for title, images, config, threat in (
        ("clean", clean, None, "clean"),
        ("attacked", attacked, None, "white-box"),
        ("attacked,\nthen purified", attacked, splic, "gray-box"),
    ):
        predicted, seen = classify_batch(bare, images, mask_key, 0, config)
        wanted = ("splic" if config else "none", threat)
        cell = next(c for c in cells if (c["defense"], c["threat"]) == wanted)
        title += f"\n\n{cell['accuracy']:.0%} right"
        rows.append(Row(title, *(np.asarray(x)[:SHOWN] for x in (seen, predicted))))
    picture_grid(
        rows,
        test.labels[:SHOWN],
        test.class_names,
        path,
        caption=(
            f"The first {min(SHOWN, len(test.labels))} of {len(test.images)} test "
            "pictures, and what the network trained on pictures as they are says of "
            f"them\n(green: right, red: wrong); shares are of all {len(test.images)}. "
            f"The attack: {attack.words()}, by someone\n"
            "who knows the network and not the defence (gray-box). No network was "
            "trained for the last row."
        ),
    )
