"""A network to be judged, in the same form wherever it comes from."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from splic_jax import method_of
from splic_jax.transforms import TransformConfig
from train import models
from train.data.loading import Dataset
from train.models import cifar_resnet
from train.networks.checking import check
from train.networks.exported import is_exported, loaded_from
from train.networks.imported import import_function
from train.networks.weights import Weights, read_weights
from train.training.checkpoints import (
    LoadedModel,
    load_checkpoint,
    network_record,
    require_classes,
)
from train.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network to be judged.

    Attributes:
        name: what messages call it.
        logits: images float32 NHWC in [0, 1] -> logits, a `jax.tree_util.Partial`.
        record: what results say of it, with checksums of all it is made of.
        title: what tables call it, as "network trained with SPLIC".
        fit: checks it on the data set it is to be judged on. Raises a `UserError` if it
            is not for these images; returns the accuracy if it was measured, else None.
        defense: settings of the transform of its training images, or None.
        seed: of its training.
        source: the file of its code, for messages; "" where it was trained here.
        class_names: one for each logit, or None where nobody names them.
        split: a `ResNet` of `train.models`, as `models.split` returns it; None for
            another network.
    """

    name: str
    logits: Callable[[jax.Array], jax.Array]
    record: Mapping[str, Any]
    title: str
    fit: Callable[[Dataset], dict[str, Any] | None]
    defense: TransformConfig | None = None
    seed: int = 0
    source: str = ""
    class_names: tuple[str, ...] | None = None
    split: tuple[nnx.GraphDef, nnx.State] | None = None

    def class_name(self, label: int) -> str:
        """What a class is called: its number where it has no name."""
        return self.class_names[label] if self.class_names else str(label)

    def named(self, class_names: tuple[str, ...]) -> "Classifier":
        """The network with names for its classes.

        Raises:
            UserError: if it has names of its own.
        """
        if self.class_names:
            raise UserError(f"{self.name} names its classes itself")
        return dataclasses.replace(self, class_names=class_names)

    def input_channels(self, channels: int) -> int:
        """Returns the number of channels it takes, given that of the images."""
        if self.defense is None:
            return channels
        return method_of(self.defense).channels(self.defense, channels)


def from_checkpoint(path: str | os.PathLike[str]) -> Classifier:
    """The network of a training run.

    Raises:
        UserError: if the folder holds none.
    """
    return from_loaded(load_checkpoint(path), path)


def from_loaded(loaded: LoadedModel, path: str | os.PathLike[str]) -> Classifier:
    """A network trained here, as it was read from `path`."""
    trained = loaded.settings.defense
    trained_with = method_of(trained).title if trained else "no defence"
    return Classifier(
        str(path),
        models.logits_function(loaded.graphdef, loaded.variables),
        network_record(loaded),
        f"network trained with {trained_with}",
        lambda dataset: require_classes(path, loaded, dataset),
        trained,
        loaded.settings.seed,
        class_names=loaded.class_names,
        split=(loaded.graphdef, loaded.variables),
    )


def from_weights(
    path: str | os.PathLike[str], model: str | None, said: str | None = None
) -> Classifier:
    """The network of a file that describes its own architecture.

    That is one that `train --export` wrote, or a CIFAR ResNet of He et al. by PyTorch's
    names (`train.models.cifar_resnet`).

    Args:
        path: the file.
        model: the architecture it must have, of `train.models.NAMES`; None for any.
        said: the flag that names the file, for messages; by default --weights.

    Raises:
        UserError: if it has another architecture, or cannot be read.
    """
    said = said or f"--weights={path}"
    weights = read_weights(path, said)
    blocks = cifar_resnet.blocks_of(weights.arrays)
    if is_exported(weights):
        loaded = loaded_from(weights, said)
        found, classifier = loaded.settings.model, from_loaded(loaded, path)
    elif blocks:
        found = f"resnet{6 * blocks + 2}"
        classifier = _published(found, weights, said)
    else:
        raise UserError(
            f"{said} holds neither a network that `train --export` wrote nor "
            "a CIFAR ResNet by PyTorch's names; give --network, the function that they "
            "are for"
        )
    if model not in (None, found):
        raise UserError(f"{said} is of {found}, not of --model={model}")
    return classifier


def _published(model: str, weights: Weights, said: str) -> Classifier:
    try:
        split = cifar_resnet.from_arrays(weights.arrays)
    except ValueError as error:
        raise UserError(f"{said} is no CIFAR ResNet: {error}") from error
    logits = models.logits_function(*split)
    return Classifier(
        said,
        logits,
        {"model": model, "weights_sha256": weights.sha256},
        f"network {model}",
        lambda dataset: check(said, logits, cifar_resnet.__file__, dataset),
        split=split,
    )


def from_function(
    spec: str, weights: str | os.PathLike[str] | None, said: str | None = None
) -> Classifier:
    """The network of `FILE_OR_MODULE:NAME`, made with the weights in a file if given.

    Args:
        spec: its place and name.
        weights: the file, or None.
        said: the flag that names both, for messages; by default --network, --weights.

    Raises:
        UserError: if there is no such function, or the file cannot be read.
    """
    read = None if weights is None else read_weights(weights, said)
    found = import_function(spec, read and read.arrays, said)
    name = said or f"--network={spec}"
    record = {"function": found.name, "source_sha256": found.sha256}
    if read:
        record["weights_sha256"] = read.sha256
    function = found.function
    return Classifier(
        name,
        # By its identity, as what it holds may have no hash.
        jax.tree_util.Partial(lambda images: function(images)),
        record,
        f"network {found.name}",
        lambda dataset: check(name, function, found.source, dataset),
        source=found.source,
    )


def from_one(value: str, said: str) -> Classifier:
    """The network that one value names, whatever kind it is.

    Args:
        value: the folder of a training run, a file as `from_weights` takes it, or
            `FILE_OR_MODULE:NAME`, with a comma and the file of its weights after it
            where it is load(weights).
        said: the flag that has the value, for messages.

    Raises:
        UserError: if it is none of these, or cannot be loaded.
    """
    if os.path.isdir(value):
        return from_checkpoint(value)
    if os.path.isfile(value):
        return from_weights(value, None, said)
    function, _, weights = value.partition(",")
    if ":" in function:
        return from_function(function, weights or None, said)
    raise UserError(
        f"{said} is no folder or file that there is, and not FILE_OR_MODULE:NAME"
    )
