"""The similarity of images: PSNR and SSIM."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from train.utils.optional import require

SSIM_WINDOW = 11


class Quality(NamedTuple):
    """The similarity of images to others.

    Attributes:
        psnr: of each image, in dB; infinite where the two are equal.
        ssim: of each image; NaN for images smaller than its window of 11 x 11 pixels.
    """

    psnr: Float[Array, " n"]
    ssim: Float[Array, " n"]


def psnr(
    reference: Float[Array | np.ndarray, "*n h w c"],
    images: Float[Array | np.ndarray, "*n h w c"],
) -> Float[Array, "*n"]:
    """PSNR of each image in dB, values in [0, 1]; infinite where the two are equal."""
    error = jnp.mean(jnp.square(reference - images), axis=(-3, -2, -1))
    return -10.0 * jnp.log(error) / jnp.log(10.0)


@jax.jit
def quality(
    images: Float[Array, "n h w c"], reference: Float[Array, "n h w c"]
) -> Quality:
    """PSNR and SSIM (Wang et al. 2004, as PIX computes them) of each image."""
    in_decibels = psnr(reference, images)
    if min(images.shape[1:3]) < SSIM_WINDOW:
        return Quality(in_decibels, jnp.full_like(in_decibels, jnp.nan))
    ssim = require("dm_pix").ssim(reference, images, filter_size=SSIM_WINDOW)
    return Quality(in_decibels, ssim)
