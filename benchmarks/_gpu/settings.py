"""The settings of SPLIC that the GPU benchmark uses."""

from splic_jax import SPLICConfig

PRINTED = SPLICConfig()
CHOSEN = SPLICConfig(tv_weight=0.15)
