"""What stands below a quoted table: what was measured, on what, and where it is."""

import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

from train.present.results import Results

_NOTES = pathlib.Path(__file__).parent / "quotes" / "notes.toml"
NOTES = tomllib.loads(_NOTES.read_text())
# Images by the checksum that records have of them, for those that do not say it.
_IMAGES = {
    "9e9779c195eaddc45bca10b383af91b289d6124f6a53b03c698114928feaed37": (
        "600 original test images"
    )
}


def provenance_line(record: Mapping[str, Any]) -> str:
    """Where a result comes from, in one line."""
    facts = record["provenance"]
    return f"{facts['hardware']}, jax {facts['versions']['jax']}, {facts['date']}"


def dataset_name(record: Mapping[str, Any]) -> str:
    """What the images of a result are called in a text."""
    dataset = record["dataset"]
    name, note = dataset["name"], dataset.get("images")
    title = {"cifar10": "CIFAR-10"}.get(name, f"`{name}`")
    if note is None:
        note = _IMAGES.get(dataset.get("sha256"))
    if note is None and name == "cifar10" and "images" not in dataset:
        note = "JPEG export"  # as it was before records said it themselves
    return title if note is None else f"{title}, {note}"


def network_of(record: Mapping[str, Any]) -> str:
    """The network that a record is about, in words; "" where there is none."""
    network = record.get("network")
    if isinstance(network, str):
        return network
    if network and "settings" not in network:
        return next(
            network[key] for key in ("model", "function", "file") if key in network
        )
    if network:
        training = network["training_set"]
        return f"{_trained(network['settings'])}, {training['num_train']:,} images"
    if "recipe" in record:
        return f"{record['recipe']['model']}, {record['epochs']} epochs"
    for names in (record.get("training"), record.get("networks")):
        if isinstance(names, Mapping):
            return ", ".join(_named(*item) for item in names.items())
    sets = record.get("sets", {}).values()
    return "; ".join(dict.fromkeys(found["network"] for found in sets))


def _named(name: str, network: Any) -> str:
    """A network of a reproduction: its name, and the model where it was given."""
    if isinstance(network, Mapping) and "weights_sha256" in network:
        return f"{name} ({network_of({'network': network})})"
    return name


def _trained(settings: Mapping[str, Any]) -> str:
    defense = settings["defense"]
    how = f"behind {defense.get('method', 'splic')}" if defense else "bare"
    return f"{settings['model']} trained {how}, {settings['epochs']} epochs"


def link(file: str, up: str = "../") -> str:
    """A link to a result file, from docs/ or with ``up=""`` from the README."""
    return f"[results/{file}]({up}results/{file})"


def made_by(record: Mapping[str, Any], file: str, up: str = "../") -> str:
    """Where a result comes from, and its file."""
    return f"{provenance_line(record)}. {link(file, up)}"


def note(results: Results, name: str) -> str:
    """A note of `quotes/notes.toml`, with what the results say."""
    about = NOTES[name]
    file, record = about["of"].partition("#")[0], results.value(about["of"])
    return about["text"].format(
        r=record,
        dataset=dataset_name(record) if "dataset" in record else "",
        network=network_of(record),
        radius=f"{255 * record.get('epsilon', 0):g}/255",
        provenance=provenance_line(record),
        link=link(file, about["up"]),
        made_by=made_by(record, file, about["up"]),
    )


def given_network(record: Mapping[str, Any]) -> str:
    """The network that a reproduction was given as Vanilla, and its clean accuracy.

    Of one that the reproduction trained itself there is nothing to say.
    """
    if "given" not in record:
        return "the network Vanilla"
    words = network_of({"network": record["given"]})
    if "settings" not in record["given"]:
        words = f"the published {words}"
    clean = record.get("clean_accuracy")
    if not clean:
        return words
    return f"{words} ({100 * clean['accuracy']:.1f} % of {clean['count']} clean images)"
