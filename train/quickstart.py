"""The whole story in minutes: train, attack, purify, measure, and show it.

    ./launch.sh

Makes the `shapes` pictures, trains a small network on them as they are and one on
purified ones, attacks both, and writes `out/quickstart/`: `quickstart.json` with every
number and `quickstart.png`, the first test pictures clean, attacked and purified. What
an interrupted run finished is not done again.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import psutil
import rich.console
from absl import flags

from splic_jax import SPLICConfig
from train import (
    compilation,
    data,
    errors,
    evaluate,
    evaluation,
    models,
    provenance,
    records,
)
from train.attackers import AttackSettings
from train.checkpoints import LoadedModel, dataset_checksum
from train.figure import Row, picture_grid
from train.progress import Progress
from train.settings import TrainSettings
from train.train import train

FLAGS = flags.FLAGS
FORMAT = 2
SHOWN = 10  # pictures in the figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    flags.DEFINE_string("out", "out/quickstart", "folder for everything it writes")
    flags.DEFINE_integer("num_train", 2000, "training pictures", lower_bound=1)
    flags.DEFINE_integer("num_test", 128, "pictures to attack", lower_bound=1)
    flags.DEFINE_integer("epochs", 15, "passes over the training set", lower_bound=1)
    flags.DEFINE_integer(
        "seed",
        0,
        "of the weights, the attacks and the masks",
        lower_bound=0,
        upper_bound=2**31 - 1,
    )
    compilation.define_flag("`compiled` in --out")
    flags.adopt_module_key_flags(compilation)  # list it under --help too


def main(argv: Sequence[str]) -> None:
    del argv
    started = psutil.Process().create_time()
    start, first_work = time.monotonic(), time.time() - started
    folder = pathlib.Path(FLAGS.out)
    from_nothing = not folder.exists()
    compilation.keep(folder / "compiled")
    progress = Progress()

    def say(stage: int, text: str) -> None:
        minutes = (time.monotonic() - start) / 60
        progress.line(f"[{stage}/5, {minutes:.1f} min] {text}")

    splic, attack = SPLICConfig(), AttackSettings()
    say(1, f"drawing {FLAGS.num_train} + {FLAGS.num_test} pictures of 10 shapes")
    training = data.load("shapes", "train", num_examples=FLAGS.num_train)
    test = data.load("shapes", "test", num_examples=FLAGS.num_test)

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
            epochs=FLAGS.epochs, batch_size=64, defense=defense, seed=FLAGS.seed
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
            name: dataclasses.asdict(loaded.settings) | {"num_train": FLAGS.num_train}
            for name, loaded in networks.items()
        },
        "dataset_sha256": dataset_checksum(test),
        "defense": dataclasses.asdict(splic),
        "attack": dataclasses.asdict(attack),
        "seed": FLAGS.seed,
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
    )

    console = rich.console.Console()
    for name, cells in results.items():
        title = {
            "bare": "Network trained on the pictures as they are",
            "splic": "Network trained on purified pictures",
        }[name]
        console.print(evaluate.table(title, cells))
    minutes, cpu = (time.time() - started) / 60, time.process_time() / 60
    if from_nothing:
        record = json.loads(path.read_text())
        record["cost"] = {
            "minutes": minutes,
            "cpu_minutes": cpu,
            "seconds_to_first_work": first_work,
        }
        evaluate.write_json(path, record)
    progress.line(
        f"done in {minutes:.1f} minutes ({cpu:.1f} CPU-minutes): "
        f"{path} and {folder / 'quickstart.png'}"
    )


def _evaluate(
    networks: dict[str, LoadedModel],
    test: data.Dataset,
    splic: SPLICConfig,
    attack: AttackSettings,
    path: pathlib.Path,
    inputs: dict[str, Any],
    progress: Progress,
) -> dict[str, list[dict[str, Any]]]:
    """Measures both networks; cells that `path` holds already are taken from there."""
    record = {"provenance": provenance.provenance(), **inputs}
    functions = {
        name: models.logits_function(loaded.graphdef, loaded.variables)
        for name, loaded in networks.items()
    }
    results: dict[str, list[dict[str, Any]]] = {}
    done = records.record_of(path, inputs).get("networks", {})
    for name, logits_fn in functions.items():
        progress.line(f"network '{name}'")

        def store(cells: list[dict[str, Any]], name: str = name) -> None:
            evaluate.write_json(
                path, {**record, "networks": {**done, **results, name: cells}}
            )

        results[name] = evaluation.evaluate(
            logits_fn,
            test,
            {"none": None, "splic": splic},
            attacks={"pgd": attack},
            seed=FLAGS.seed,
            surrogate=functions["bare"] if name == "splic" else None,
            progress=progress,
            done={evaluation.cell_name(cell): cell for cell in done.get(name, [])},
            store=store,
        )
    return results


def _draw(
    network: LoadedModel,
    test: data.Dataset,
    splic: SPLICConfig,
    attack: AttackSettings,
    cells: list[dict[str, Any]],
    path: pathlib.Path,
) -> None:
    """The first test pictures, and what the network says of them."""
    attack_key, mask_key = jax.random.split(jax.random.key(FLAGS.seed))
    # A batch as the evaluation has it, for which all is compiled.
    batch = evaluation.batch_size(len(test.images))
    clean = jax.device_put(test.images[:batch], jax.devices()[0]).astype(np.float32)
    clean, labels = clean / 255, jax.numpy.asarray(test.labels[:batch])
    bare = models.logits_function(network.graphdef, network.variables)
    attacked = evaluation.attack_batch(
        bare, clean, labels, attack_key, 0, None, attack
    ).images
    rows = []
    for title, images, config, threat in (
        ("clean", clean, None, "clean"),
        ("attacked", attacked, None, "white-box"),
        ("attacked,\nthen purified", attacked, splic, "gray-box"),
    ):
        predicted, seen = evaluation.classify_batch(bare, images, mask_key, 0, config)
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


if __name__ == "__main__":
    define_flags()
    errors.run(main)
