"""Input transforms: what may stand between an image and the classifier.

    from splic_jax.transforms import METHODS, USVTConfig, transform
    transformed = transform(images, key, USVTConfig())

`METHODS` lists all of them by name, with their default settings.
"""

from splic_jax.transforms.ablation import AblationConfig
from splic_jax.transforms.barrage import BarrageConfig
from splic_jax.transforms.bilateral import BilateralConfig
from splic_jax.transforms.bit_depth import BitDepthConfig
from splic_jax.transforms.crop_rescale import CropRescaleConfig
from splic_jax.transforms.diversification import DiversificationConfig
from splic_jax.transforms.feature_distillation import FeatureDistillationConfig
from splic_jax.transforms.guided import GuidedConfig
from splic_jax.transforms.jpeg import JPEGConfig
from splic_jax.transforms.nuclear_norm import NuclearNormConfig
from splic_jax.transforms.quilting import QuiltingConfig
from splic_jax.transforms.registry import (
    METHODS,
    Method,
    TransformConfig,
    as_dict,
    fitted,
    from_dict,
    method_of,
    replace,
    returns_images,
    transform,
)
from splic_jax.transforms.soft_impute import SoftImputeConfig
from splic_jax.transforms.sparse_coding import SparseCodingConfig
from splic_jax.transforms.srf import SRFConfig
from splic_jax.transforms.thermometer import ThermometerConfig
from splic_jax.transforms.tv_minimisation import TVMinimisationConfig
from splic_jax.transforms.usvt import USVTConfig

__all__ = [
    "METHODS",
    "AblationConfig",
    "BarrageConfig",
    "BilateralConfig",
    "BitDepthConfig",
    "CropRescaleConfig",
    "DiversificationConfig",
    "FeatureDistillationConfig",
    "GuidedConfig",
    "JPEGConfig",
    "Method",
    "NuclearNormConfig",
    "QuiltingConfig",
    "SRFConfig",
    "SoftImputeConfig",
    "SparseCodingConfig",
    "TVMinimisationConfig",
    "ThermometerConfig",
    "TransformConfig",
    "USVTConfig",
    "as_dict",
    "fitted",
    "from_dict",
    "method_of",
    "replace",
    "returns_images",
    "transform",
]
