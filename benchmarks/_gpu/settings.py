"""The completions that are measured: the printed lambda, and the one that works."""

from splic_jax import SPLICConfig

PRINTED = SPLICConfig(solver="fused")
CHOSEN = SPLICConfig(tv_weight=0.15, solver="fused")
