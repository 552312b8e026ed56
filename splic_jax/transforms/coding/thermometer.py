"""Thermometer encoding, and the differentiable stand-in that breaks it."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from splic_jax.fields import config, require_integer
from splic_jax.transforms.base import per_image


@config
class ThermometerConfig:
    """Settings of `thermometer`.

    Attributes:
        levels: k, number of zeros and ones for each value; 16 as in the paper; >= 2.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    levels: int = 16

    def __post_init__(self) -> None:
        require_integer(self, "levels", least=2)


def channels(config: ThermometerConfig, channels: int) -> int:
    """Channels of encoded images; an alpha channel, the 2nd or 4th, stays as it is."""
    alpha = channels in (2, 4)
    return (channels - alpha) * config.levels + alpha


def thermometer_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: ThermometerConfig
) -> Float[Array, "h w c2"]:
    r"""Encodes each value x as k zeros and ones, like a thermometer's column.

    .. math:: \tau(x)_j = 1 \text{ if } x \ge j / k \text{ else } 0, \quad j < k

    The first of them is always 1. They stand side by side for each channel: value j of
    channel c is channel ``c * levels + j``. A network must be trained on this encoding.

    Not random. Its derivative is zero: attack it by
    ``bpda(transform, backward=lambda x: soft_thermometer(x, config))``.

    References:
        Buckman, Roy, Raffel and Goodfellow 2018, "Thermometer encoding: one hot way to
        resist adversarial examples".
    """
    del key
    # Compared with the nearest float to j / k, so that such values are not below it.
    steps = jnp.asarray(np.arange(config.levels) / config.levels, image.dtype)
    reached = image[..., None] >= steps
    return reached.reshape(*image.shape[:2], -1).astype(image.dtype)


thermometer = per_image(thermometer_one)


def soft_thermometer(
    images: Float[Array | np.ndarray, "*n h w c"], config: ThermometerConfig
) -> Float[Array, "*n h w c2"]:
    r"""A thermometer whose column rises without steps.

    .. math:: \hat\tau(x)_j = \min(\max((k x - j + 1) / 2, 0), 1), \quad j > 0

    Each value rises from 0 to 1 as x goes from one step below its threshold to one step
    above it. So at every x below 1 the derivative is nonzero for the two values nearest
    to switching. The first is always 1, as in `thermometer`; no value is further than
    1/2 from that of `thermometer`.

    Args:
        images: floats in [0, 1].
        config: the settings of the encoding that it stands in for.

    Returns:
        Floats in [0, 1], of the shape and dtype that `thermometer` returns.

    References:
        After Athalye, Carlini and Wagner 2018, "Obfuscated gradients give a false sense
        of security", which attacks the encoding through a ramp.
    """
    images = jnp.asarray(images)
    *rest, count = images.shape
    colours = count - (count in (2, 4))
    values = images[..., :colours].astype(jnp.promote_types(images.dtype, jnp.float32))
    steps = jnp.arange(config.levels)
    column = jnp.clip((values[..., None] * config.levels - steps + 1) / 2, 0, 1)
    column = jnp.where(steps == 0, 1, column)
    column = column.reshape(*rest, -1).astype(images.dtype)
    return jnp.concatenate([column, images[..., colours:]], axis=-1)
