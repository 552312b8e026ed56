"""The CIFAR ResNets of He et al. 2016, from weights that PyTorch has trained.

    logits = cifar_resnet.load("resnet56_cifar10.npz")(images)

Images are float32 NHWC in [0, 1]; the normalisation is part of the network. The layout
is that of github.com/akamaster/pytorch_resnet_cifar10: option A shortcuts, and
BatchNorm with the statistics of training.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
WIDTHS = (16, 32, 64)
_EPSILON = 1e-5
_COUNTER = "num_batches_tracked"  # of BatchNorm; of no use outside of training

_Layer = Mapping[str, Any]


def load(path: str | os.PathLike[str]) -> jax.tree_util.Partial:
    """Returns the network of an ``.npz`` with PyTorch's names, as images -> logits.

    The result is a `jax.tree_util.Partial`, as that of `train.models.logits_function`.
    Convolutions are in the backend's default precision (on a GPU that may be TF32).

    Raises:
        ValueError: for names that are missing or unknown, or arrays of a wrong shape.
    """
    with np.load(path, allow_pickle=False) as archive:
        return from_arrays({name: archive[name] for name in archive.files})


def from_arrays(arrays: Mapping[str, np.ndarray]) -> jax.tree_util.Partial:
    """Returns the network of these arrays, as `load` does.

    Raises:
        ValueError: as `load` does.
    """
    arrays = {k: v for k, v in arrays.items() if not k.endswith(f".{_COUNTER}")}
    blocks = 0
    while f"layer1.{blocks}.conv1.weight" in arrays:
        blocks += 1
    classes = len(arrays.get("linear.bias", np.zeros(10)))
    expected = dict(_shapes(max(1, blocks), classes))
    for problem, names in (
        ("lack", expected.keys() - arrays.keys()),
        ("have unknown", arrays.keys() - expected.keys()),
    ):
        if names:
            some = ", ".join(sorted(names)[:3])
            raise ValueError(f"the weights {problem} {some} ({len(names)} in all)")
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, not {shape}")
    return jax.tree_util.Partial(_logits, _parameters(arrays, blocks))


def _shapes(blocks: int, classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    def normed(convolution: str, norm: str, inputs: int, outputs: int):
        yield f"{convolution}.weight", (outputs, inputs, 3, 3)
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{norm}.{part}", (outputs,)

    inputs = WIDTHS[0]
    yield from normed("conv1", "bn1", 3, inputs)
    for stage, width in enumerate(WIDTHS, 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            yield from normed(f"{name}.conv1", f"{name}.bn1", inputs, width)
            yield from normed(f"{name}.conv2", f"{name}.bn2", width, width)
            inputs = width
    yield "linear.weight", (classes, inputs)
    yield "linear.bias", (classes,)


def _parameters(arrays: Mapping[str, np.ndarray], blocks: int) -> dict[str, Any]:
    def array(name: str) -> Array:
        return jnp.asarray(arrays[name], jnp.float32)

    def normed(convolution: str, norm: str) -> _Layer:
        # BatchNorm in evaluation is a factor and a summand for each channel.
        variance = array(f"{norm}.running_var") + _EPSILON
        scale = array(f"{norm}.weight") / jnp.sqrt(variance)
        shift = array(f"{norm}.bias") - array(f"{norm}.running_mean") * scale
        kernel = array(f"{convolution}.weight").transpose(2, 3, 1, 0)  # to HWIO
        return {"kernel": kernel, "scale": scale, "shift": shift}

    def block(name: str) -> list[_Layer]:
        return [normed(f"{name}.conv{i}", f"{name}.bn{i}") for i in (1, 2)]

    return {
        "stem": normed("conv1", "bn1"),
        "stages": [
            [block(f"layer{stage}.{number}") for number in range(blocks)]
            for stage in range(1, len(WIDTHS) + 1)
        ],
        "kernel": array("linear.weight").T,
        "bias": array("linear.bias"),
    }


def _logits(
    parameters: Mapping[str, Any], images: Float[Array, "n h w 3"]
) -> Float[Array, "n classes"]:
    x = (images - jnp.array(PIXEL_MEAN)) / jnp.array(PIXEL_STD)
    x = jax.nn.relu(_normed(x, parameters["stem"], 1))
    for stage, blocks in enumerate(parameters["stages"]):
        for number, (first, second) in enumerate(blocks):
            stride = 2 if stage and not number else 1
            y = jax.nn.relu(_normed(x, first, stride))
            x = jax.nn.relu(_shortcut(x, stride) + _normed(y, second, 1))
    return x.mean(axis=(1, 2)) @ parameters["kernel"] + parameters["bias"]


def _normed(x: Array, layer: _Layer, stride: int) -> Array:
    # PyTorch pads both sides by 1; "SAME" would pad a stride of 2 on one side only.
    y = jax.lax.conv_general_dilated(
        x,
        layer["kernel"],
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y * layer["scale"] + layer["shift"]


def _shortcut(x: Array, stride: int) -> Array:
    """Option A: every second pixel, and zeros for half of the channels."""
    if stride == 1:
        return x
    added = x.shape[-1] // 2
    return jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (added, added)))
