"""Feature distillation: a JPEG's quantisation, coarser and made for networks."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from splic_jax.fields import config, require_choice, require_integer, require_number
from splic_jax.transforms.base import per_image
from splic_jax.transforms.coding.jpeg import Rounding, quantise


@config
class FeatureDistillationConfig:
    """Settings of `distil_features`; the default is the authors' released code.

    Attributes:
        step: of the quantisation of most DCT coefficients, in levels of 255; > 0.
        low_step: of those of low frequency, on which the network's accuracy depends
            most; > 0.
        low_frequencies: how many count as low, along each axis; from 0 to 8.
        rounding: "exact" or "differentiable", as in `JPEGConfig`.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    step: float = 30.0
    low_step: float = 25.0
    low_frequencies: int = 4
    rounding: Rounding = "exact"

    def __post_init__(self) -> None:
        require_number(self, "step", "(0, inf)")
        require_number(self, "low_step", "(0, inf)")
        require_integer(self, "low_frequencies", least=0)
        require_number(self, "low_frequencies", "[0, 8]")
        require_choice(self, "rounding", ("exact", "differentiable"))


def distil_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: FeatureDistillationConfig
) -> Float[Array, "h w c"]:
    """Rounds the DCT coefficients of each 8 x 8 block of each channel of colour.

    To multiples of `low_step` at low and of `step` at high frequencies; a JPEG has many
    steps, chosen for the eye, in luma and chroma.

    Not random. Differentiable only where its `rounding` says so: else attack by BPDA.

    References:
        Liu et al. 2019, "Feature distillation: DNN-oriented JPEG compression against
        adversarial examples"; the steps, and the use of RGB and of levels from 0 on,
        as in their code's ``utils/feature_distillation.py``.
    """
    del key
    low = config.low_frequencies
    steps = (
        jnp.full((8, 8), config.step, image.dtype).at[:low, :low].set(config.low_step)
    )
    levels = jnp.moveaxis(image * 255, -1, 0)
    planes = [quantise(plane, steps, config.rounding) for plane in levels]
    return jnp.clip(jnp.stack(planes, -1) / 255, 0, 1)


distil_features = per_image(distil_one)
