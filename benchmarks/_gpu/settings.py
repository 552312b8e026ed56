"""The settings of SPLIC that the GPU benchmark uses."""

import dataclasses

from splic_jax import SPLICConfig

CHOSEN = SPLICConfig(tv_weight=0.15, channels="separate", mask="shared")
PRINTED = dataclasses.replace(CHOSEN, tv_weight=0.02)
