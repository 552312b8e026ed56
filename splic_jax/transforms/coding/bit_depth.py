"""Bit-depth reduction (feature squeezing)."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from splic_jax.fields import config, require_integer, require_number
from splic_jax.transforms.base import per_image


@config
class BitDepthConfig:
    """Settings of `reduce_bit_depth`.

    Attributes:
        bits: b, of each channel afterwards; 3 as in Guo et al.; from 1 to 16.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    bits: int = 3

    def __post_init__(self) -> None:
        require_integer(self, "bits")
        require_number(self, "bits", "[1, 16]")


def reduce_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: BitDepthConfig
) -> Float[Array, "h w c"]:
    r"""Rounds each value to b bits.

    .. math:: \mathrm{round}(x (2^b - 1)) / (2^b - 1)

    Not random. Its derivative is zero almost everywhere: attack it by BPDA.

    References:
        Xu, Evans and Qi 2018, "Feature squeezing"; Guo et al. 2018, "Countering
        adversarial images using input transformations", section 3.
    """
    del key
    levels: int = 2**config.bits - 1
    return jnp.round(image * levels) / levels


reduce_bit_depth = per_image(reduce_one)
