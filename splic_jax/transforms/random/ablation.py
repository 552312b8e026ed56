"""Random ablation: a few pixels are kept, the others are missing."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from splic_jax.fields import config, require_choice, require_number
from splic_jax.masks.sampling import sample_mask
from splic_jax.transforms.base import per_image


@config
class AblationConfig:
    """Settings of `ablate`.

    Attributes:
        keep_probability: p, share of the pixels that are kept; in (0, 1]. 45 to 75 of
            an image of 32 x 32, as in the paper, are 0.044 to 0.073.
        mask_design: "exact" keeps round(p h w) of them, as the paper does; "iid" draws
            each by itself.
        encoding: "two_channels" appends 1 - x to each kept value x and makes the others
            0 in both, so that missing is not a colour; "grey" makes the others 0.5.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    keep_probability: float = 0.05
    mask_design: Literal["exact", "iid"] = "exact"
    encoding: Literal["two_channels", "grey"] = "two_channels"

    def __post_init__(self) -> None:
        require_number(self, "keep_probability", "(0, 1]")
        require_choice(self, "mask_design", ("exact", "iid"))
        require_choice(self, "encoding", ("two_channels", "grey"))


def channels(config: AblationConfig, channels: int) -> int:
    """Channels of ablated images."""
    alpha = channels in (2, 4)
    doubled = config.encoding == "two_channels"
    return (channels - alpha) * (2 if doubled else 1) + alpha


def encode(
    images: Float[Array, "*n h w c"], config: AblationConfig
) -> Float[Array, "*n h w c2"]:
    """The encoding without the ablation: what stands in for its derivative (BPDA)."""
    if config.encoding == "grey":
        return images
    count = images.shape[-1]
    colours, alpha = jnp.split(images, [count - (count in (2, 4))], axis=-1)
    return jnp.concatenate([colours, 1 - colours, alpha], axis=-1)


def ablate_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: AblationConfig
) -> Float[Array, "h w c2"]:
    """Keeps some pixels at random and drops the others.

    Random. A network must be trained on this encoding. Differentiable, so attacked by
    its own gradient, averaged over keys. A vote over keys has a certificate: see
    `splic_jax.certificate`.

    References:
        Levine and Feizi 2020, "Robustness certificates for sparse adversarial attacks
        by randomized ablation", section 4.
    """
    p, design = config.keep_probability, config.mask_design
    mask = sample_mask(key, image.shape, p, "shared", design)
    missing = 0.5 if config.encoding == "grey" else 0
    return jnp.where(mask[..., :1], encode(image, config), missing)


ablate = per_image(ablate_one)
