"""Residual networks for images about 32 x 32, as Flax NNX modules."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from train.models.denoising import DenoisingBlock

# One constant for every data set and channel. A data set's own mean and standard
# deviation are within a few hundredths of it, and BatchNorm removes the rest.
NORMALIZATION = (0.5, 0.25)
# How the input of a block is added where its output is wider or smaller: by a 1 x 1
# convolution, or as every second pixel with zeros for the channels that it lacks, half
# of them on each side (options B and A of He et al. 2016, section 3.3).
Shortcut = Literal["convolution", "padding"]
Pixel = float | tuple[float, ...]


def _convolution(
    inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs
) -> nnx.Conv:
    # Explicit padding, because "SAME" pads a strided convolution on one side only.
    return nnx.Conv(
        inputs,
        outputs,
        kernel_size=(size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=nnx.initializers.he_normal(),
        rngs=rngs,
    )


def _norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs)


class BasicBlock(nnx.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016, figure 2).

    The shortcut is `shortcut` where the width or the size changes, else the identity.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        *,
        shortcut: Shortcut = "convolution",
        rngs: nnx.Rngs,
    ):
        self.convolution1 = _convolution(inputs, outputs, 3, stride, rngs)
        self.norm1 = _norm(outputs, rngs)
        self.convolution2 = _convolution(outputs, outputs, 3, 1, rngs)
        self.norm2 = _norm(outputs, rngs)
        changes = stride != 1 or inputs != outputs
        self.projects = changes and shortcut == "convolution"
        self.stride, self.added = stride, (outputs - inputs) // 2
        if self.projects:
            self.shortcut = _convolution(inputs, outputs, 1, stride, rngs)
            self.shortcut_norm = _norm(outputs, rngs)

    def __call__(
        self, x: Float[Array, "n h w c"], train: bool = False
    ) -> Float[Array, "n h2 w2 c2"]:
        y = self.convolution1(x)
        y = jax.nn.relu(self.norm1(y, use_running_average=not train))
        y = self.norm2(self.convolution2(y), use_running_average=not train)
        if self.projects:
            x = self.shortcut_norm(self.shortcut(x), use_running_average=not train)
        elif self.stride != 1 or self.added:
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (self.added, self.added)))
        return jax.nn.relu(x + y)


class ResNet(nnx.Module):
    """A residual network with a 3 x 3 stem and no max-pool, for images about 32 x 32.

    With the stages of "resnet18" this is the ResNet-18 of the CIFAR-10 literature
    (11,173,962 parameters for 10 classes and 3 channels).

    Args:
        stages: (width, number of blocks) of each stage.
        num_classes: number of logits.
        channels: channels of the images.
        denoising: how features are denoised after each stage, as `DenoisingBlock` has
            it; None for not at all.
        shortcut: of the blocks that change the width or the size.
        normalization: what is subtracted from pixels in [0, 1], and what they are then
            divided by: numbers, or tuples of one for each channel.
        rngs: the stream the initial weights are drawn from.
    """

    def __init__(
        self,
        stages: Sequence[tuple[int, int]],
        num_classes: int,
        *,
        channels: int = 3,
        denoising: str | None = None,
        shortcut: Shortcut = "convolution",
        normalization: tuple[Pixel, Pixel] = NORMALIZATION,
        rngs: nnx.Rngs,
    ):
        self.normalization = normalization
        width = stages[0][0]
        self.stem = _convolution(channels, width, 3, 1, rngs)
        self.stem_norm = _norm(width, rngs)
        blocks = []
        for stage, (outputs, count) in enumerate(stages):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(
                    BasicBlock(width, outputs, stride, shortcut=shortcut, rngs=rngs)
                )
                width = outputs
            if denoising:
                blocks.append(DenoisingBlock(width, denoising, rngs=rngs))
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def features(
        self, images: Float[Array, "n h w c"], train: bool = False
    ) -> Float[Array, "n width"]:
        """Returns what the last layer sees; with `train`, updates the statistics."""
        mean, std = (np.asarray(x, images.dtype) for x in self.normalization)
        x = self.stem((images - mean) / std)
        x = jax.nn.relu(self.stem_norm(x, use_running_average=not train))
        for block in self.blocks:
            x = block(x, train)
        return x.mean(axis=(1, 2))

    def __call__(
        self, images: Float[Array, "n h w c"], train: bool = False
    ) -> Float[Array, "n classes"]:
        """Returns logits; with `train`, updates the batch statistics in place."""
        return self.head(self.features(images, train))
