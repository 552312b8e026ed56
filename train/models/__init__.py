"""The classifiers: residual networks for images about 32 x 32.

ResNet-18 as the CIFAR-10 literature has it, and a small one for CPUs, either also with
blocks that denoise its features (`train.models.denoising`); and the thinner CIFAR
ResNets of He et al. 2016, 20 to 56 layers.

Flax NNX modules inside, pure functions at the edge:

    model = models.create("small", num_classes=10, seed=0)
    graphdef, variables = models.split(model)
    logits = models.logits_function(graphdef, variables)(images)

Images are float32 NHWC in [0, 1]; the normalisation is part of the model, so that an
attack's epsilon is in pixels.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from train.models import cifar_resnet, convolution
from train.models.resnet import ResNet

# Stages of basic blocks: (width, blocks); the stride is 2 from the second stage on.
STAGES = {
    "small": ((16, 1), (32, 1), (64, 1)),
    "resnet18": ((64, 2), (128, 2), (256, 2), (512, 2)),
}
# The CIFAR ResNets: blocks of each of the three stages.
CIFAR_BLOCKS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}
NAMES = (*STAGES, *(f"{name}_denoise" for name in STAGES), *CIFAR_BLOCKS)


def create(name: str, num_classes: int, seed: int, *, channels: int = 3) -> ResNet:
    """Returns the model `name`, one of `NAMES`, with weights drawn from `seed`.

    Raises:
        ValueError: for an unknown name, or fewer than one class or channel.
    """
    graphdef, _ = nnx.split(outline(name, num_classes, channels=channels))

    def draw() -> nnx.State:
        return nnx.state(_build(name, num_classes, channels, nnx.Rngs(seed)))

    # Runs once, on few numbers: optimising it takes far longer than running it.
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
    if name in CIFAR_BLOCKS:
        blocks = CIFAR_BLOCKS[name]
        return cifar_resnet.build(blocks, num_classes, channels=channels, rngs=rngs)
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
    `train.models.convolution`.
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
