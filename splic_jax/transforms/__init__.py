"""Input transforms: what may stand between an image and the classifier.

    from splic_jax.transforms import METHODS, USVTConfig, transform
    transformed = transform(images, key, USVTConfig())

`METHODS` lists all of them by name, with their default settings.
"""

from splic_jax.transforms.coding.bit_depth import BitDepthConfig
from splic_jax.transforms.coding.feature_distillation import FeatureDistillationConfig
from splic_jax.transforms.coding.jpeg import JPEGConfig
from splic_jax.transforms.coding.quilting import QuiltingConfig
from splic_jax.transforms.coding.sparse_coding import SparseCodingConfig
from splic_jax.transforms.coding.thermometer import ThermometerConfig
from splic_jax.transforms.completion.nuclear_norm import NuclearNormConfig
from splic_jax.transforms.completion.soft_impute import SoftImputeConfig
from splic_jax.transforms.completion.srf import SRFConfig
from splic_jax.transforms.completion.tv_minimisation import TVMinimisationConfig
from splic_jax.transforms.completion.usvt import USVTConfig
from splic_jax.transforms.filters.bilateral import BilateralConfig
from splic_jax.transforms.filters.guided import GuidedConfig
from splic_jax.transforms.random.ablation import AblationConfig
from splic_jax.transforms.random.barrage import BarrageConfig
from splic_jax.transforms.random.crop_rescale import CropRescaleConfig
from splic_jax.transforms.random.diversification import DiversificationConfig
from splic_jax.transforms.registry import (
    METHODS,
    RENAMED,
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

__all__ = [
    "METHODS",
    "RENAMED",
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
