"""Every input transform by name: what the flags, the evaluation and the docs read."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int, PRNGKeyArray, Shaped

from splic_jax.arguments import require_array, require_key
from splic_jax.config import SPLICConfig
from splic_jax.fields import Settings, array_fields
from splic_jax.purification import purify
from splic_jax.transforms.base import Transform
from splic_jax.transforms.coding.bit_depth import BitDepthConfig, reduce_bit_depth
from splic_jax.transforms.coding.feature_distillation import (
    FeatureDistillationConfig,
    distil_features,
)
from splic_jax.transforms.coding.jpeg import (
    JPEGConfig,
    compress,
    with_differentiable_rounding,
)
from splic_jax.transforms.coding.quilting import QuiltingConfig, fit_bank, quilt
from splic_jax.transforms.coding.sparse_coding import (
    SparseCodingConfig,
    fit_dictionary,
    sparse_code,
)
from splic_jax.transforms.coding.thermometer import (
    ThermometerConfig,
    soft_thermometer,
    thermometer,
)
from splic_jax.transforms.coding.thermometer import channels as code_channels
from splic_jax.transforms.completion.nuclear_norm import NuclearNormConfig, nuclear_norm
from splic_jax.transforms.completion.soft_impute import SoftImputeConfig, soft_impute
from splic_jax.transforms.completion.srf import SRFConfig, srf
from splic_jax.transforms.completion.tv_minimisation import (
    TVMinimisationConfig,
    tv_minimisation,
)
from splic_jax.transforms.completion.usvt import USVTConfig, usvt
from splic_jax.transforms.filters.bilateral import BilateralConfig, filter_bilateral
from splic_jax.transforms.filters.guided import GuidedConfig, filter_guided
from splic_jax.transforms.random import ablation
from splic_jax.transforms.random.ablation import AblationConfig, ablate, encode
from splic_jax.transforms.random.barrage import BarrageConfig, bombard
from splic_jax.transforms.random.crop_rescale import CropRescaleConfig, crop_and_rescale
from splic_jax.transforms.random.diversification import DiversificationConfig, diversify

# The settings of any transform.
TransformConfig = (
    SPLICConfig
    | AblationConfig
    | BarrageConfig
    | BilateralConfig
    | BitDepthConfig
    | CropRescaleConfig
    | DiversificationConfig
    | FeatureDistillationConfig
    | GuidedConfig
    | JPEGConfig
    | NuclearNormConfig
    | QuiltingConfig
    | SRFConfig
    | SoftImputeConfig
    | SparseCodingConfig
    | TVMinimisationConfig
    | ThermometerConfig
    | USVTConfig
)
Config = TypeVar("Config", bound=TransformConfig)
AnySettings = TypeVar("AnySettings", bound=Settings)


@dataclasses.dataclass(frozen=True)
class Method:
    """An input transform, as the registry lists it.

    Attributes:
        title: what the literature calls it.
        idea: what it does, in a sentence.
        source: authors, year and title.
        config: its default settings; their type tells the transforms apart.
        apply: ``(images, key, config, *, first_index, indices) -> images``.
        random: whether the key matters.
        differentiable: whether `jax.grad` through it gives its true derivative.
        attack: the adaptive attack to break it with.
        fit: ``(training images, key, config) -> config``, for a transform that needs
            something of a training set first; None for one that does not.
        channels: channels of the result, from the config and those of the images.
        backward: differentiable ``(images, config) -> images`` to stand in for the
            derivative (BPDA) of a transform that has none or changes the shape; None
            for the identity.
    """

    title: str
    idea: str
    source: str
    config: TransformConfig
    apply: Transform
    random: bool
    differentiable: bool
    attack: str
    fit: Callable[[ArrayLike, PRNGKeyArray, Any], Any] | None = None
    channels: Callable[[Any, int], int] = lambda config, channels: channels
    backward: Callable[[Array, Any], Array] | None = None


_BPDA_EOT = "BPDA with EOT over masks"
_GRADIENT = "its own gradient"
_GRADIENT_EOT = "its own gradient, with EOT"

METHODS: Mapping[str, Method] = {
    "splic": Method(
        title="SPLIC",
        idea="completes a low-rank image from half of its pixels under a total "
        "variation, then that half from the other",
        source="Zhao et al., the paper",
        config=SPLICConfig(),
        apply=purify,
        random=True,
        differentiable=True,
        attack=_BPDA_EOT,
    ),
    "splic_no_tv": Method(
        title="SPLIC without TV",
        idea="the same without the total variation",
        source="Zhao et al., figure 12 (there: SRF)",
        config=SPLICConfig(tv_weight=0.0),
        apply=purify,
        random=True,
        differentiable=True,
        attack=_BPDA_EOT,
    ),
    "srf_reference": Method(
        title="SRF, reference [4]",
        idea="completes from half of the pixels by the smoothed rank alone, once",
        source="Malek-Mohammadi et al. 2014",
        config=SRFConfig(),
        apply=srf,
        random=True,
        differentiable=True,
        attack=_BPDA_EOT,
    ),
    "usvt": Method(
        title="ME-Net, USVT",
        idea="zeroes half of the entries and cuts off the smallest singular values",
        source="Chatterjee 2015; Yang et al. 2019",
        config=USVTConfig(),
        apply=usvt,
        random=True,
        differentiable=True,
        attack=_BPDA_EOT,
    ),
    "soft_impute": Method(
        title="ME-Net, Soft-Impute",
        idea="completes by repeatedly shrinking the singular values",
        source="Mazumder et al. 2010; Yang et al. 2019",
        config=SoftImputeConfig(),
        apply=soft_impute,
        random=True,
        differentiable=True,
        attack=_BPDA_EOT,
    ),
    "nuclear_norm": Method(
        title="ME-Net, nuclear norm",
        idea="completes to the matrix of least nuclear norm near the kept entries",
        source="Candes and Recht 2009; Yang et al. 2019",
        config=NuclearNormConfig(),
        apply=nuclear_norm,
        random=True,
        differentiable=True,
        attack=_BPDA_EOT,
    ),
    "bilateral": Method(
        title="Bilateral filter",
        idea="averages neighbours that are near in place and colour",
        source="Tomasi and Manduchi 1998",
        config=BilateralConfig(),
        apply=filter_bilateral,
        random=False,
        differentiable=True,
        attack=_GRADIENT,
    ),
    "guided": Method(
        title="Guided filter",
        idea="fits a line to the image in every window, and averages the lines",
        source="He, Sun and Tang 2013",
        config=GuidedConfig(),
        apply=filter_guided,
        random=False,
        differentiable=True,
        attack=_GRADIENT,
    ),
    "tv_minimisation": Method(
        title="TV minimisation",
        idea="drops half of the pixels and rebuilds the image of least total variation",
        source="Guo et al. 2018",
        config=TVMinimisationConfig(),
        apply=tv_minimisation,
        random=True,
        differentiable=True,
        attack=_BPDA_EOT,
    ),
    "jpeg": Method(
        title="JPEG",
        idea="compresses and decompresses at quality 75",
        source="Dziugaite et al. 2016; Guo et al. 2018",
        config=JPEGConfig(),
        apply=compress,
        random=False,
        differentiable=False,
        attack="BPDA, by its differentiable rounding (`backward`) or the identity",
        backward=with_differentiable_rounding(compress),
    ),
    "bit_depth": Method(
        title="Bit-depth reduction",
        idea="rounds every value to 3 bits",
        source="Xu et al. 2018; Guo et al. 2018",
        config=BitDepthConfig(),
        apply=reduce_bit_depth,
        random=False,
        differentiable=False,
        attack="BPDA",
    ),
    "crop_rescale": Method(
        title="Crop and rescale",
        idea="enlarges a random part of the image",
        source="Guo et al. 2018",
        config=CropRescaleConfig(),
        apply=crop_and_rescale,
        random=True,
        differentiable=True,
        attack=_GRADIENT_EOT,
    ),
    "quilting": Method(
        title="Image quilting",
        idea="replaces every patch by one like it from the training images",
        source="Efros and Freeman 2001; Guo et al. 2018",
        config=QuiltingConfig(),
        apply=quilt,
        random=True,
        differentiable=False,
        attack=_BPDA_EOT,
        fit=fit_bank,
    ),
    "thermometer": Method(
        title="Thermometer encoding",
        idea="turns every value into a column of zeros and ones, which a network of "
        "its own reads",
        source="Buckman et al. 2018",
        config=ThermometerConfig(),
        apply=thermometer,
        random=False,
        differentiable=False,
        attack="BPDA with the soft thermometer (`backward`)",
        channels=code_channels,
        backward=soft_thermometer,
    ),
    "feature_distillation": Method(
        title="Feature distillation",
        idea="JPEG with the quantisation a network can bear instead of an eye",
        source="Liu et al. 2019",
        config=FeatureDistillationConfig(),
        apply=distil_features,
        random=False,
        differentiable=False,
        attack="BPDA, by its differentiable rounding (`backward`) or the identity",
        backward=with_differentiable_rounding(distil_features),
    ),
    "sparse_coding": Method(
        title="Sparse coding (STL)",
        idea="rebuilds every patch from a few atoms of a dictionary learned from the "
        "training images",
        source="Sun et al. 2019, in its style",
        config=SparseCodingConfig(),
        apply=sparse_code,
        random=False,
        differentiable=True,
        attack=_GRADIENT,
        fit=fit_dictionary,
    ),
    "barrage": Method(
        title="Barrage of random transforms",
        idea="applies some of ten transforms in random order",
        source="Raff et al. 2019",
        config=BarrageConfig(),
        apply=bombard,
        random=True,
        differentiable=False,
        attack="BPDA with EOT over many draws",
    ),
    "ablation": Method(
        title="Randomised ablation",
        idea="keeps one pixel in twenty, for a network of its own; a vote has a "
        "certificate",
        source="Levine and Feizi 2020",
        config=AblationConfig(),
        apply=ablate,
        random=True,
        differentiable=True,
        attack="Sparse-RS on the vote; in other balls its own gradient, with EOT",
        channels=ablation.channels,
        backward=encode,
    ),
    "diversification": Method(
        title="Randomised diversification",
        idea="flips signs in the cosine domain by a secret that its network knows",
        source="Taran et al. 2019",
        config=DiversificationConfig(),
        apply=diversify,
        random=False,
        differentiable=True,
        attack=f"{_GRADIENT}, once the secret is known; else queries",
    ),
}


# Former names of methods, and what to use instead.
RENAMED = {
    "srf": "SPLIC without TV is 'splic_no_tv'; the method of reference [4] is "
    "'srf_reference'"
}


def returns_images(config: TransformConfig) -> bool:
    """Whether a method returns images, not codes with other channels."""
    return method_of(config).channels(config, 3) == 3


def method_of(config: object) -> Method:
    """The method that settings belong to, by their type.

    Raises:
        ValueError: for settings of no method.
    """
    return METHODS[_name_of(config)]


def transform(
    images: Shaped[Array | np.ndarray, "..."],
    key: PRNGKeyArray,
    config: TransformConfig,
    *,
    first_index: Int[ArrayLike, ""] = 0,
    indices: Int[Array | np.ndarray, " count"] | None = None,
    check_finite: bool = False,
) -> Shaped[Array, "..."]:
    """Transforms images by the method that the settings belong to.

    Image i draws from ``fold_in(key, first_index + i)``, so its result depends on its
    own key and content alone.

    Args:
        images: ``[n, h, w, c]`` or ``[h, w, c]``, floats in [0, 1] or uint8.
        key: a typed key (`jax.random.key`).
        config: of a class in `METHODS`: `SPLICConfig`, `USVTConfig`, ...
        first_index: index of the first image.
        indices: the index of each image, where they do not follow one another.
        check_finite: wait for the result, and raise a `NotFiniteError` (a `ValueError`)
            if an image of it is not finite; without, such values are NaN, and 0 in
            uint8. Under `jax.jit` it does nothing.

    Returns:
        Transformed images, in the dtype and range of the input.

    Raises:
        TypeError: for images that are no array, or a key that is none.
        ValueError: for images or settings that the method does not take.

    Example:
        >>> import jax
        >>> from splic_jax import BitDepthConfig, transform
        >>> image = jax.numpy.full((1, 1, 3), 0.7)
        >>> print(transform(image, jax.random.key(0), BitDepthConfig(bits=1)))
        [[[1. 1. 1.]]]
    """
    apply = method_of(config).apply
    return apply(
        images,
        key,
        config,
        first_index=first_index,
        indices=indices,
        check_finite=check_finite,
    )


def fitted(config: Config, training_images: ArrayLike, key: PRNGKeyArray) -> Config:
    """Settings with arrays learned from the training images, if they have any.

    Args:
        config: the settings; returned as they are where the method needs nothing.
        training_images: ``[n, h, w, c]``, floats in [0, 1] or uint8.
        key: of what is drawn from them.

    Raises:
        TypeError: for images that are no array, or a key that is none.
        ValueError: for images that the method cannot learn from.
    """
    fit = method_of(config).fit
    if fit is None:
        return config
    require_array("training_images", training_images)
    require_key(key)
    learned: Config = fit(training_images, key, config)
    return learned


def as_dict(config: TransformConfig) -> dict[str, Any]:
    """Settings as plain values, with the method's name and without arrays."""
    arrays = array_fields(config)
    fields = (f.name for f in dataclasses.fields(config) if f.name not in arrays)
    return {"method": _name_of(config)} | {
        name: getattr(config, name) for name in fields
    }


def from_dict(values: Mapping[str, Any]) -> TransformConfig:
    """The inverse of `as_dict`; without a "method" these are SPLIC's settings.

    Raises:
        ValueError: for an unknown method, or a setting it does not have or take.
    """
    values = dict(values)
    name = values.pop("method", "splic")
    if name in RENAMED:
        raise ValueError(f"no method {name!r}: {RENAMED[name]}")
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    return replace(METHODS[name].config, values)


def replace(config: AnySettings, values: Mapping[str, Any]) -> AnySettings:
    """Settings, of a transform or of anything else, with other values of some fields.

    Raises:
        ValueError: for a field they do not have, or a value that makes no sense.
    """
    arrays = array_fields(config)
    known = [f.name for f in dataclasses.fields(config) if f.name not in arrays]
    for name in values:
        if name not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}")
    return dataclasses.replace(config, **values)


def _name_of(config: object) -> str:
    for name, method in METHODS.items():
        if type(method.config) is type(config):
            bare = isinstance(config, SPLICConfig) and config.tv_weight == 0
            return "splic_no_tv" if bare else name
    raise ValueError(f"config must be the settings of a transform, got {config!r}")
