"""A trained network in one `.safetensors` file: its arrays, and what describes it.

The arrays have the names of `train.models.arrays`. The metadata's `network` is JSON:
the `settings` of the training, the `dataset` it was on, and its `class_names`.
"""

import json
import os
import pathlib

import numpy as np

from train import models
from train.models.arrays import from_arrays, to_arrays
from train.networks.weights import Weights
from train.training.checkpoints import LoadedModel
from train.training.settings import TrainSettings
from train.utils.errors import UserError
from train.utils.files import write_whole
from train.utils.optional import require

_ENTRY = "network"  # one, because the format keeps no order of several


def check_path(path: str | os.PathLike[str]) -> None:
    """Raises a `UserError` if no network can be exported to this file."""
    if pathlib.Path(path).suffix.lower() != ".safetensors":
        raise UserError(f"--export={path} must end in .safetensors")


def export(loaded: LoadedModel, path: str | os.PathLike[str]) -> None:
    """Writes a trained network; the same one again is the same file.

    Raises:
        UserError: if another file is in the way, or it cannot be written.
    """
    check_path(path)
    path = pathlib.Path(path)
    described = {
        "settings": loaded.settings.as_dict(),
        "dataset": dict(loaded.dataset),
        "class_names": loaded.class_names,
    }
    arrays = {k: np.asarray(x) for k, x in to_arrays(loaded.variables).items()}
    data = require("safetensors.numpy").save(arrays, {_ENTRY: json.dumps(described)})
    try:
        if path.exists() and path.read_bytes() != data:
            raise UserError(f"--export={path} exists, and is another file; delete it")
        write_whole(path, data)
    except OSError as error:
        raise UserError(f"cannot write --export={path}: {error.strerror}") from error


def is_exported(weights: Weights) -> bool:
    """Whether `export` wrote a file of weights."""
    return _ENTRY in weights.metadata


def loaded_from(weights: Weights, said: str) -> LoadedModel:
    """The network that `export` wrote to a file, which the flag `said` names.

    Raises:
        UserError: if the file is damaged, or of another version of the program.
    """
    try:
        values = json.loads(weights.metadata[_ENTRY])
        settings = TrainSettings.from_dict(values["settings"])
        channels = settings.input_channels(values["dataset"]["image_shape"][-1])
        names = tuple(values["class_names"])
        graphdef, like = models.split(
            models.outline(settings.model, len(names), channels=channels)
        )
        variables = from_arrays(like, weights.arrays)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{said} does not fit its settings: {error}") from error
    return LoadedModel(graphdef, variables, settings, names, values["dataset"])
