"""Blocks that denoise the features inside a network (Xie et al. 2019)."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Features = Float[Array, "n h w c"]


def dot_product(x: Features) -> Features:
    r"""Non-local means weighted by dot products.

    .. math:: y_i = \frac{1}{N} \sum_j (x_i \cdot x_j) x_j

    The sum over the N places of :math:`x_j x_j^T` comes first, so that the cost is
    linear in N.
    """
    places = x.reshape(len(x), -1, x.shape[-1])
    gram = jnp.einsum("npc,npd->ncd", places, places) / places.shape[1]
    return jnp.einsum("npc,ncd->npd", places, gram).reshape(x.shape)


def gaussian(x: Features) -> Features:
    r"""Non-local means with softmax weights; memory grows with the places squared.

    .. math:: y_i = \sum_j \mathrm{softmax}_j(x_i \cdot x_j / \sqrt{d}) x_j

    d is the number of channels; without the learned embedding of :math:`x_i` and
    :math:`x_j` that Xie et al. put before the product here.
    """
    places = x.reshape(len(x), -1, x.shape[-1])
    scores = jnp.einsum("npc,nqc->npq", places, places) / x.shape[-1] ** 0.5
    weights = jax.nn.softmax(scores, axis=-1)
    return jnp.einsum("npq,nqc->npc", weights, places).reshape(x.shape)


def mean(x: Features) -> Features:
    """The mean of 3 x 3 places, with the border repeated."""
    return _neighbours(x).mean(axis=0)


def median(x: Features) -> Features:
    """The median of 3 x 3 places, with the border repeated."""
    return jnp.median(_neighbours(x), axis=0)


OPERATIONS: Mapping[str, Callable[[Features], Features]] = {
    "dot_product": dot_product,
    "gaussian": gaussian,
    "mean": mean,
    "median": median,
}


class DenoisingBlock(nnx.Module):
    """Denoising, a 1 x 1 convolution with BatchNorm, and the shortcut (figure 4).

    BatchNorm's scale starts at zero, so the block starts as the identity.

    Args:
        width: channels.
        operation: one of `OPERATIONS`.
        rngs: the stream the initial weights are drawn from.

    References:
        Xie et al. 2019, "Feature denoising for improving adversarial robustness",
        section 4. They put a block after each of the four stages of a ResNet.
    """

    def __init__(self, width: int, operation: str, *, rngs: nnx.Rngs):
        self.operation = operation
        self.convolution = nnx.Conv(
            width,
            width,
            kernel_size=(1, 1),
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(
            width,
            momentum=0.9,
            epsilon=1e-5,
            scale_init=nnx.initializers.zeros_init(),
            rngs=rngs,
        )

    def __call__(self, x: Features, train: bool = False) -> Features:
        y = self.convolution(OPERATIONS[self.operation](x))
        return x + self.norm(y, use_running_average=not train)


def _neighbours(x: Features) -> Float[Array, "9 n h w c"]:
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return jnp.stack(
        [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    )
