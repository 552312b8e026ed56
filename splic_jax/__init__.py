"""SPLIC in JAX: structure-preserving progressive low-rank image completion.

Images are NHWC (or HWC), floats in [0, 1] or uint8. Everything else is a pure function
of one matrix: apply `jax.jit`, `jax.vmap` and `jax.grad` as you like.

    from splic_jax import SPLICConfig, purify
    purified = purify(images, jax.random.key(0), SPLICConfig())

Purification:  purify, SPLICConfig, sample_mask
Defenses:      transform, METHODS, and each method's settings (`splic_jax.transforms`)
Certificate:   `splic_jax.certificate`
Completion:    complete, complete_alternating, Completion
Objective:     objective, smoothed_rank, total_variation
Closed forms:  smoothed_rank_gradient, total_variation_gradient
"""

from splic_jax.completion import complete, complete_alternating
from splic_jax.config import SPLICConfig
from splic_jax.masks.sampling import sample_mask
from splic_jax.objective.objective import objective
from splic_jax.objective.smoothed_rank import smoothed_rank
from splic_jax.objective.smoothed_rank_gradient import smoothed_rank_gradient
from splic_jax.objective.total_variation import total_variation
from splic_jax.objective.total_variation_gradient import total_variation_gradient
from splic_jax.purification import purify
from splic_jax.solvers.algorithm1 import Completion
from splic_jax.transforms import METHODS, BitDepthConfig, Method, method_of, transform

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "BitDepthConfig",
    "Completion",
    "Method",
    "SPLICConfig",
    "complete",
    "complete_alternating",
    "method_of",
    "objective",
    "purify",
    "sample_mask",
    "smoothed_rank",
    "smoothed_rank_gradient",
    "total_variation",
    "total_variation_gradient",
    "transform",
]
