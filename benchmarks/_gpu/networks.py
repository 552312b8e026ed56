"""Trained networks as files: kept for later items, and exported at half the size."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import nnx

from benchmarks._gpu.context import Context
from train import models
from train.models.arrays import from_arrays, to_arrays
from train.utils import files

CLASSES = 10
# Images in a step and in each evaluation of a network: the same convolutions, so that
# their algorithms are chosen once.
BATCH = 512
FAMILY = "resnet18, bfloat16"
COMPUTE_DTYPE = "bfloat16"
_LARGEST_FILE = 12 * 2**20
_MODEL = "model"
_BF16 = "*_bf16_*.npz"


@functools.cache
def outline(model: str, training: bool = False) -> tuple[nnx.GraphDef, nnx.State]:
    """The structure of a model that computes in bfloat16, and the shapes of its arrays.

    One object for all networks of a kind, so that they share what is compiled. On a CPU
    evaluation is in float32: jax 0.11.2 compiles it in bfloat16 to a program whose
    logits are NaN, while each layer by itself is right.

    Args:
        model: of `train.models.NAMES`.
        training: with the convolutions that training uses, where these are others.
    """
    network = models.outline(model, CLASSES)
    if training:
        models.prepare_training(network, COMPUTE_DTYPE)
    elif jax.default_backend() != "cpu":
        models.set_compute_dtype(network, COMPUTE_DTYPE)
    return models.split(network)


def logits(graphdef: nnx.GraphDef, variables: Any) -> Callable[[jax.Array], jax.Array]:
    """Images, float32 NHWC in [0, 1], to logits, computed in bfloat16 as in training.

    A `jax.tree_util.Partial`, so that a function that takes it has its weights as
    arguments.
    """
    return models.logits_function(graphdef, variables)


def path_of(context: Context, name: str) -> pathlib.Path:
    """Where a network is kept between items."""
    return context.state / f"{name}.npz"


def model_of(context: Context) -> str:
    """The model that the items train, one of `train.models.NAMES`."""
    return context.size("resnet18", "small")


def save(context: Context, name: str, variables: Any) -> None:
    """Keeps a network for later items, in float32."""
    arrays = _float32(variables)
    model = model_of(context)
    with files.written_whole(path_of(context, name)) as path, open(path, "wb") as file:
        np.savez(file, **{_MODEL: np.array(model)}, **arrays)


def exists(context: Context, name: str) -> bool:
    """Whether an item saved such a network on this machine."""
    return path_of(context, name).is_file()


def load(context: Context, name: str) -> tuple[nnx.GraphDef, nnx.State]:
    """The structure, for evaluation, and the variables of a saved network."""
    with np.load(path_of(context, name)) as archive:
        arrays = dict(archive)
    return _restored(arrays)


def export_bf16(context: Context, name: str) -> list[pathlib.Path]:
    """Writes the weights to ``out``, in files ``{name}_bf16_{number}.npz``.

    Matrices and kernels are bfloat16, viewed as uint16; vectors, that is biases and the
    parameters and statistics of BatchNorm, stay float32.
    """
    with np.load(path_of(context, name)) as archive:
        arrays = dict(archive)
    parts: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for key, array in arrays.items():
        if array.ndim > 1:
            array = array.astype(ml_dtypes.bfloat16).view(np.uint16)
        if parts[-1] and size + array.nbytes > _LARGEST_FILE:
            parts.append({})
            size = 0
        parts[-1][key] = array
        size += array.nbytes
    paths = []
    for number, part in enumerate(parts, 1):
        paths.append(context.out / f"{name}_bf16_{number}.npz")
        with files.written_whole(paths[-1]) as path, open(path, "wb") as file:
            np.savez(file, **part)
    return paths


def import_bf16(context: Context) -> list[str]:
    """Saves the networks that `export_bf16` wrote, if they are in the data folder."""
    names = sorted({p.name.rpartition("_bf16_")[0] for p in context.data.glob(_BF16)})
    for name in names:
        graphdef, variables = read_bf16(context.data, name)
        del graphdef
        save(context, name, variables)
        record = (context.data / f"{name}.json").read_bytes()
        files.write_whole(context.state / f"{name}.json", record)
    return names


def read_bf16(folder: pathlib.Path, name: str) -> tuple[nnx.GraphDef, nnx.State]:
    """A network that `export_bf16` wrote, as `load` returns it."""
    arrays: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob(f"{name}_bf16_*.npz")):
        with np.load(path) as archive:
            arrays |= dict(archive)
    for key, array in arrays.items():
        if array.dtype == np.uint16:
            arrays[key] = array.view(ml_dtypes.bfloat16).astype(np.float32)
    return _restored(arrays)


def _restored(arrays: Mapping[str, np.ndarray]) -> tuple[nnx.GraphDef, nnx.State]:
    graphdef, shapes = outline(str(arrays[_MODEL]))
    arrays = {name: array for name, array in arrays.items() if name != _MODEL}
    return graphdef, from_arrays(shapes, arrays)


def _float32(variables: Any) -> dict[str, np.ndarray]:
    named = to_arrays(variables)
    return {name: np.asarray(array, np.float32) for name, array in named.items()}
