"""The classifiers: ResNet-18 for 32 x 32 images, and a small ResNet for CPUs.

Either also with blocks that denoise its features (`train.denoising`).

Flax NNX modules inside, pure functions at the edge:

    model = models.create("small", num_classes=10, seed=0)
    graphdef, variables = models.split(model)
    logits = models.logits_function(graphdef, variables)(images)

Images are float32 NHWC in [0, 1]; the normalisation is part of the model, so that an
attack's epsilon is in pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from train import convolution
from train.denoising import DenoisingBlock

# One constant for every data set and channel. A data set's own mean and standard
# deviation are within a few hundredths of it, and BatchNorm removes the rest.
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25

# Stages of basic blocks: (width, blocks); the stride is 2 from the second stage on.
STAGES = {
    "small": ((16, 1), (32, 1), (64, 1)),
    "resnet18": ((64, 2), (128, 2), (256, 2), (512, 2)),
}
NAMES = (*STAGES, *(f"{name}_denoise" for name in STAGES))


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

    The shortcut is a 1 x 1 convolution where the width or the size changes, else the
    identity.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.convolution1 = _convolution(inputs, outputs, 3, stride, rngs)
        self.norm1 = _norm(outputs, rngs)
        self.convolution2 = _convolution(outputs, outputs, 3, 1, rngs)
        self.norm2 = _norm(outputs, rngs)
        self.projects = stride != 1 or inputs != outputs
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
        rngs: the stream the initial weights are drawn from.
    """

    def __init__(
        self,
        stages: Sequence[tuple[int, int]],
        num_classes: int,
        *,
        channels: int = 3,
        denoising: str | None = None,
        rngs: nnx.Rngs,
    ):
        width = stages[0][0]
        self.stem = _convolution(channels, width, 3, 1, rngs)
        self.stem_norm = _norm(width, rngs)
        blocks = []
        for stage, (outputs, count) in enumerate(stages):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(BasicBlock(width, outputs, stride, rngs=rngs))
                width = outputs
            if denoising:
                blocks.append(DenoisingBlock(width, denoising, rngs=rngs))
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def features(
        self, images: Float[Array, "n h w c"], train: bool = False
    ) -> Float[Array, "n width"]:
        """Returns what the last layer sees; with `train`, updates the statistics."""
        x = self.stem((images - PIXEL_MEAN) / PIXEL_STD)
        x = jax.nn.relu(self.stem_norm(x, use_running_average=not train))
        for block in self.blocks:
            x = block(x, train)
        return x.mean(axis=(1, 2))

    def __call__(
        self, images: Float[Array, "n h w c"], train: bool = False
    ) -> Float[Array, "n classes"]:
        """Returns logits; with `train`, updates the batch statistics in place."""
        return self.head(self.features(images, train))


def create(name: str, num_classes: int, seed: int, *, channels: int = 3) -> ResNet:
    """Returns the model `name`, one of `NAMES`, with weights drawn from `seed`.

    Raises:
        ValueError: for an unknown name, or fewer than one class or channel.
    """
    graphdef, _ = nnx.split(outline(name, num_classes, channels=channels))

    def draw() -> nnx.State:
        return nnx.state(_build(name, num_classes, channels, nnx.Rngs(seed)))

    # Drawn once, and few: compiling that well would take many times as long as it.
    quickly = {"xla_backend_optimization_level": 0}
    return nnx.merge(graphdef, jax.jit(draw, compiler_options=quickly)())


def outline(name: str, num_classes: int, *, channels: int = 3) -> ResNet:
    """Returns the model of `create` with shapes and dtypes in place of the weights.

    Raises:
        ValueError: as `create` does.
    """
    if name not in NAMES:
        raise ValueError(f"model {name!r} is unknown; choose from {', '.join(NAMES)}")
    if num_classes < 1 or channels < 1:
        raise ValueError(
            f"num_classes and channels must be positive, got {num_classes}, {channels}"
        )
    return nnx.eval_shape(lambda: _build(name, num_classes, channels, nnx.Rngs(0)))


def _build(name: str, num_classes: int, channels: int, rngs: nnx.Rngs) -> ResNet:
    stages, _, denoises = name.partition("_")
    return ResNet(
        STAGES[stages],
        num_classes,
        channels=channels,
        denoising="dot_product" if denoises else None,
        rngs=rngs,
    )


def prepare_training(model: nnx.Module, compute_dtype: DTypeLike) -> None:
    """Sets how a model computes in training, in place; its parameters stay as they are.

    Convolutions and what is between them are in `compute_dtype`; batch statistics and
    logits in float32 all the same. On a CPU the convolutions are those of
    `train.convolution`.
    """
    set_compute_dtype(model, compute_dtype)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Conv) and jax.default_backend() == "cpu":
            module.conv_general_dilated = convolution.convolve


def set_compute_dtype(model: nnx.Module, compute_dtype: DTypeLike) -> None:
    """Sets the dtype of a model's convolutions and what is between them, in place."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Conv | nnx.BatchNorm):
            module.dtype = jnp.dtype(compute_dtype)


def split(model: nnx.Module) -> tuple[nnx.GraphDef, nnx.State]:
    """Returns the structure of a model and its parameters and batch statistics."""
    return nnx.split(model)


def _eval_features(
    graphdef: nnx.GraphDef, variables: Any, images: Float[Array, "n h w c"]
) -> Float[Array, "n width"]:
    return nnx.merge(graphdef, variables).features(images, train=False)


def _eval_logits(
    graphdef: nnx.GraphDef, variables: Any, images: Float[Array, "n h w c"]
) -> Float[Array, "n classes"]:
    return nnx.merge(graphdef, variables)(images, train=False)


def logits_function(
    graphdef: nnx.GraphDef, variables: Any
) -> Callable[[Float[Array, "n h w c"]], Float[Array, "n classes"]]:
    """Returns images -> logits in evaluation mode (running batch statistics).

    Images are float32 NHWC in [0, 1]. The result is a `jax.tree_util.Partial`: called
    inside a jitted function it is a constant, passed to one as an argument its weights
    are arguments too, so that two models of one structure share a compilation.
    """
    return jax.tree_util.Partial(_eval_logits, graphdef, variables)


def features_function(
    graphdef: nnx.GraphDef, variables: Any
) -> Callable[[Float[Array, "n h w c"]], Float[Array, "n width"]]:
    """Returns images -> features before the last layer, else as `logits_function`."""
    return jax.tree_util.Partial(_eval_features, graphdef, variables)
