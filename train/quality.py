"""How near images are to others: PSNR and SSIM."""

from typing import NamedTuple

import dm_pix
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SSIM_WINDOW = 11


class Quality(NamedTuple):
    """How near images are to others.

    Attributes:
        psnr: of each image, in dB; infinite where the two are equal.
        ssim: of each image; NaN for images smaller than its window of 11 x 11 pixels.
    """

    psnr: Float[Array, " n"]
    ssim: Float[Array, " n"]


@jax.jit
def quality(
    images: Float[Array, "n h w c"], reference: Float[Array, "n h w c"]
) -> Quality:
    """PSNR and SSIM (Wang et al. 2004, as PIX computes them) of each image."""
    psnr = dm_pix.psnr(reference, images)
    if min(images.shape[1:3]) < SSIM_WINDOW:
        return Quality(psnr, jnp.full_like(psnr, jnp.nan))
    return Quality(psnr, dm_pix.ssim(reference, images, filter_size=SSIM_WINDOW))
