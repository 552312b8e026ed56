"""The CIFAR ResNets of He et al. 2016 by the names that PyTorch's weights have.

    logits = models.logits_function(*cifar_resnet.load("resnet56_cifar10.npz"))(images)

The layout is that of github.com/akamaster/pytorch_resnet_cifar10, that is
`layer2.0.conv1.weight` and the like, convolutions OIHW. The network is a `ResNet` with
padded shortcuts.
"""

import os
from collections.abc import Iterator, Mapping

import numpy as np
from flax import nnx

from train.models.arrays import from_arrays as variables_from_arrays
from train.models.arrays import require_shapes, to_arrays
from train.models.resnet import NORMALIZATION, ResNet

WIDTHS = (16, 32, 64)
# What the published networks have been trained with: ImageNet's.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
_COUNTER = "num_batches_tracked"  # of BatchNorm; of no use outside of training
_NORM = {
    "weight": "scale",
    "bias": "bias",
    "running_mean": "mean",
    "running_var": "var",
}


def build(
    blocks: int, num_classes: int, *, channels: int = 3, rngs: nnx.Rngs
) -> ResNet:
    """Returns the network of ``6 * blocks + 2`` layers: three stages of `blocks`.

    Pixels are normalised as ImageNet's, where images have three channels.
    """
    return ResNet(
        [(width, blocks) for width in WIDTHS],
        num_classes,
        channels=channels,
        shortcut="padding",
        normalization=(PIXEL_MEAN, PIXEL_STD) if channels == 3 else NORMALIZATION,
        rngs=rngs,
    )


def load(path: str | os.PathLike[str]) -> tuple[nnx.GraphDef, nnx.State]:
    """Returns the network of an ``.npz`` with PyTorch's names, as `models.split` does.

    Raises:
        ValueError: for names that are missing or unknown, or arrays of a wrong shape.
    """
    with np.load(path, allow_pickle=False) as archive:
        return from_arrays({name: archive[name] for name in archive.files})


def from_arrays(
    arrays: Mapping[str, np.ndarray],
) -> tuple[nnx.GraphDef, nnx.State]:
    """Returns the network of these arrays, as `load` does.

    Raises:
        ValueError: as `load` does.
    """
    arrays = {k: v for k, v in arrays.items() if not k.endswith(f".{_COUNTER}")}
    blocks = max(1, blocks_of(arrays))
    classes = len(arrays.get("linear.bias", np.zeros(10)))
    require_shapes(shapes(blocks, classes), arrays)
    graphdef, like = _outline(blocks, classes)
    ours = {ours: _turned(arrays[theirs]) for theirs, ours in _names(blocks)}
    return graphdef, variables_from_arrays(like, ours)


def blocks_of(arrays: Mapping[str, np.ndarray]) -> int:
    """How many blocks a stage has; 0 where the arrays have other names than these."""
    blocks = 0
    while f"layer1.{blocks}.conv1.weight" in arrays:
        blocks += 1
    return blocks


def shapes(blocks: int, num_classes: int) -> dict[str, tuple[int, ...]]:
    """The shape of each array of a network by PyTorch's names."""
    arrays = to_arrays(_outline(blocks, num_classes)[1])
    found = {}
    for theirs, ours in _names(blocks):
        shape = arrays[ours].shape
        found[theirs] = shape[::-1]
        if len(shape) == 4:
            found[theirs] = (shape[3], shape[2], *shape[:2])
    return found


def _outline(blocks: int, num_classes: int) -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(
        nnx.eval_shape(lambda: build(blocks, num_classes, rngs=nnx.Rngs(0)))
    )


def _turned(array: np.ndarray) -> np.ndarray:
    """Converts a layer's axes from PyTorch's order, outputs first, to Flax's."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _names(blocks: int) -> Iterator[tuple[str, str]]:
    """Each array's name in PyTorch, and here."""

    def normed(theirs: str, ours: str, number: str) -> Iterator[tuple[str, str]]:
        yield f"{theirs}conv{number or 1}.weight", f"{ours}/kernel"
        norm = ours.replace("convolution", "norm") if number else f"{ours}_norm"
        for name, mine in _NORM.items():
            yield f"{theirs}bn{number or 1}.{name}", f"{norm}/{mine}"

    yield from normed("", "stem", "")
    for stage in range(len(WIDTHS)):
        for block in range(blocks):
            theirs = f"layer{stage + 1}.{block}."
            ours = f"blocks/{stage * blocks + block}/convolution"
            for number in "12":
                yield from normed(theirs, f"{ours}{number}", number)
    yield "linear.weight", "head/kernel"
    yield "linear.bias", "head/bias"
