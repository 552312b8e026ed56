"""Soft-Impute, with the defaults of fancyimpute, as ME-Net applies it to images."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from splic_jax.fields import config, require_integer, require_number
from splic_jax.solvers.iteration import iterate
from splic_jax.transforms.base import per_image
from splic_jax.transforms.completion.matrices import Masking, estimate
from splic_jax.transforms.completion.singular_values import largest, soft_threshold


@config
class SoftImputeConfig(Masking):
    """Settings of `soft_impute`; the defaults are fancyimpute's, called by ME-Net.

    Attributes, beside those of `Masking`:
        shrinkage: lambda, subtracted from each singular value, as a share of the
            largest one of the kept entries (the others 0); in (0, 1).
        path: number of lambdas, falling evenly on a logarithmic scale from that largest
            one, each started from the solution of the one before, as Mazumder et al.
            do; 1 is fancyimpute's single lambda; >= 1.
        tolerance: relative change of the missing entries at which one lambda is done;
            >= 0.
        max_steps: steps at one lambda; >= 1.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    shrinkage: float = 0.02
    path: int = 1
    tolerance: float = 1e-3
    max_steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "shrinkage", "(0, 1)")
        require_number(self, "tolerance", "[0, inf)")
        require_integer(self, "path", "max_steps")


class _State(NamedTuple):
    x: Array
    moved: Array  # norm of the last change
    size: Array  # norm of the missing entries before it


def soft_impute_matrix(
    matrix: Float[Array | np.ndarray, "m n"],
    mask: Bool[Array | np.ndarray, "m n"],
    config: SoftImputeConfig,
) -> Float[Array, "m n"]:
    r"""Completes a matrix; the observed entries come back as they are.

    Each step fills the missing entries from ``Z = D_lambda(X)``, the iterate with its
    singular values lowered by lambda, starting from 0. Z tends to a minimiser of

    .. math:: \tfrac12 \|P_\Omega(X - Z)\|_F^2 + \lambda \|Z\|_*

    Lambda is a share of the largest singular value of the observed matrix. A matrix
    without missing entries, or of zeros, is returned unchanged.

    Args:
        matrix: values around 0; ME-Net's are in [-1, 1].
        mask: True where the entry is observed.
        config: `shrinkage`, `path`, `tolerance` and `max_steps`.

    Returns:
        The completed matrix, not clipped. Differentiable in reverse mode.

    References:
        Mazumder, Hastie and Tibshirani 2010, "Spectral regularization algorithms for
        learning large incomplete matrices", algorithm 1.
    """
    observed = jnp.where(mask, matrix, 0)
    unit = largest(observed)

    def unfinished(state: _State) -> Array:
        # The first step fills what was empty, so its change has nothing to compare to.
        started = (state.size == 0) & (state.moved > 0)
        return started | (state.moved > config.tolerance * state.size)

    def step(state: _State, problem: tuple[Array, Array, Array]) -> _State:
        shrinkage, observed, mask = problem
        filled = jnp.where(mask, observed, soft_threshold(state.x, shrinkage))
        moved, size = filled - state.x, jnp.where(mask, 0, state.x)
        return _State(filled, *jax.lax.stop_gradient((_norm(moved), _norm(size))))

    def at_one(x: Array, share: Array) -> tuple[Array, None]:
        start = _State(x, jnp.full_like(unit, jnp.inf), jnp.zeros_like(unit))
        problem = (share * unit, observed, mask)
        done = iterate(step, unfinished, start, problem, config.max_steps)
        return done.x, None

    fractions = jnp.arange(1, config.path + 1, dtype=matrix.dtype) / config.path
    shares = jnp.asarray(config.shrinkage, matrix.dtype) ** fractions
    completed, _ = jax.lax.scan(at_one, observed, shares)
    return jnp.where(mask, matrix, completed)


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(x**2))


def soft_impute_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: SoftImputeConfig
) -> Float[Array, "h w c"]:
    """Completes an image from a random part of its pixels by `soft_impute_matrix`.

    Range, key, attack and source are those of `usvt_one`; differentiable in reverse
    mode.

    References:
        Mazumder, Hastie and Tibshirani 2010; fancyimpute's `SoftImpute`.
    """
    return estimate(image, key, config, lambda x, m: soft_impute_matrix(x, m, config))


soft_impute = per_image(soft_impute_one)
