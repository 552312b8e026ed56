"""Randomised diversification: images scrambled by a secret in the cosine domain."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.fft import dctn, idctn
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from splic_jax.fields import config, require_choice, require_integer
from splic_jax.keys import GENERATOR
from splic_jax.transforms.base import per_image

SUBBANDS = ("horizontal", "vertical", "diagonal", "all")


@config
class DiversificationConfig:
    """Settings of `diversify`: one channel of the paper's classifier.

    Attributes:
        secret: the seed that signs or places are drawn from, known to the defender
            alone; the same for all images, in training and afterwards; >= 0.
        subband: where. Of the coefficients' four quarters, "horizontal" is high in the
            vertical frequency, "vertical" in the horizontal one, "diagonal" in both,
            and "all" are the three together; the low quarter is never changed.
        operation: "sign" flips the sign of about half of the coefficients; "permute"
            permutes them.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    secret: int = 0
    subband: Literal["horizontal", "vertical", "diagonal", "all"] = "diagonal"
    operation: Literal["sign", "permute"] = "sign"

    def __post_init__(self) -> None:
        require_integer(self, "secret", least=0)
        require_choice(self, "subband", SUBBANDS)
        require_choice(self, "operation", ("sign", "permute"))


def in_subband(shape: tuple[int, ...], subband: str) -> Bool[Array, "h w"]:
    """Which cosine coefficients of an image are in a sub-band."""
    # The middle of an odd side is low, so that the mean is kept whatever the size.
    high_row = (jnp.arange(shape[0]) >= (shape[0] + 1) // 2)[:, None]
    high_column = (jnp.arange(shape[1]) >= (shape[1] + 1) // 2)[None, :]
    return {
        "horizontal": high_row & ~high_column,
        "vertical": ~high_row & high_column,
        "diagonal": high_row & high_column,
        "all": high_row | high_column,
    }[subband]


def diversify_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: DiversificationConfig
) -> Float[Array, "h w c"]:
    r"""Scrambles a sub-band of the orthonormal cosine transform of each channel.

    .. math:: x \to W^{-1} P_s W x, \qquad W \text{ the 2-D DCT-II}

    :math:`P_s` flips signs or permutes coefficients by the secret s, and is the same
    for every channel. Values that leave [0, 1] are clipped; the paper scales each image
    to norm 1 instead, which a network on images in [0, 1] could not take.

    A keyed transform, not a random one: the key of the image is not used. A network
    must be trained on images under the same secret. The paper trains one for each of
    several secrets and sub-bands and adds up their outputs, and its claim is against
    attackers who do not hold the secrets. Differentiable, so one who does needs nothing
    more than the gradient.

    References:
        Taran, Rezaeifar, Holotyak and Voloshynovskiy 2019, "Defending against
        adversarial attacks by randomized diversification", section 3.
    """
    del key
    shape = image.shape[:2]
    chosen = in_subband(shape, config.subband)
    coefficients = dctn(image, axes=(0, 1), norm="ortho")
    secret = jax.random.key(config.secret, impl=GENERATOR)
    if config.operation == "sign":
        signs = jax.random.bernoulli(secret, jnp.float32(0.5), (chosen.size,)).reshape(
            shape
        )
        turned = chosen & signs
        scrambled = jnp.where(turned[..., None], -coefficients, coefficients)
    else:
        # Sorted by a random number within the sub-band, which goes first in both.
        number = jax.random.permutation(secret, chosen.size)
        outside = ~chosen.reshape(-1)
        places = jnp.arange(chosen.size)
        there = jnp.lexsort((places, outside))
        here = jnp.lexsort((jnp.where(outside, places, number), outside))
        flat = coefficients.reshape(chosen.size, -1)
        scrambled = flat.at[there].set(flat[here]).reshape(image.shape)
    return jnp.clip(idctn(scrambled, axes=(0, 1), norm="ortho"), 0, 1)


diversify = per_image(diversify_one)
