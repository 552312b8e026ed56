"""SRF, the matrix completion that SPLIC builds on, as published.

It is not a setting of `SPLICConfig`: it starts from a wider smoothing, does not cut the
rank, and stops by the change of a whole round instead of its last step.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from splic_jax.fields import config, require_integer, require_number
from splic_jax.layout.channels import Channels
from splic_jax.masks.sampling import sample_mask
from splic_jax.solvers.iteration import iterate
from splic_jax.transforms.base import per_image
from splic_jax.transforms.completion.matrices import Mask, Masking, of_matrices
from splic_jax.transforms.completion.singular_values import (
    descend_smoothed_rank,
    largest,
)


@config
class SRFConfig(Masking):
    """Settings of `srf`.

    The decay and the inner steps are common choices for this method; `start`,
    `step_size` and `tolerance` are chosen here, not read off the papers. A faster decay
    (0.5) is four times cheaper on images.

    Attributes, beside those of `Masking`:
        start: the first delta, as a multiple of the largest singular value of the kept
            pixels (the others 0); in (0, 1e6].
        delta_decay: c, the factor on delta after each round; in (0, 1).
        step_size: mu; the gradient step is ``mu delta^2``. In (0, 2]: with more,
            singular values below delta would grow from step to step.
        inner_steps: L, gradient steps in a round, that is at one delta; >= 1.
        tolerance: epsilon, the relative change by a round at which the loop stops;
            >= 0.
        max_rounds: rounds at most; >= 1.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    start: float = 4.0
    delta_decay: float = 0.9
    step_size: float = 1.0
    inner_steps: int = 8
    tolerance: float = 1e-3
    max_rounds: int = 100
    channels: Channels = "separate"
    mask: Mask = "shared"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "start", "(0, 1e6]")
        require_number(self, "delta_decay", "(0, 1)")
        require_number(self, "step_size", "(0, 2]")
        require_number(self, "tolerance", "[0, inf)")
        require_integer(self, "inner_steps", "max_rounds")


class _State(NamedTuple):
    x: Array
    delta: Array
    change: Array  # relative, by the last round


def srf_matrix(
    matrix: Float[Array | np.ndarray, "m n"],
    mask: Bool[Array | np.ndarray, "m n"],
    config: SRFConfig,
) -> Float[Array, "m n"]:
    r"""Completes a matrix by minimising its smoothed rank; kept entries do not change.

    From the completion of least norm, which is 0 where nothing is known, each round
    takes `inner_steps` projected gradient steps on the smoothed rank,

    .. math:: X \leftarrow P_\Omega(A) + P_\Omega^\perp\left(
        X - \mu \delta^2 \nabla F_\delta(X) \right),

    and delta falls by a constant factor. A matrix that is 0 where it is known, or known
    everywhere, is returned unchanged.

    Args:
        matrix: A, in any unit.
        mask: True where an entry is known.
        config: the settings; `keep_probability`, `channels` and `mask` are not used.

    Returns:
        The completed matrix. Differentiable in reverse mode.

    References:
        Ghasemi, Malek-Mohammadi, Babaie-Zadeh and Jutten 2011, "SRF: matrix completion
        based on smoothed rank function"; Malek-Mohammadi, Babaie-Zadeh, Amini and
        Jutten 2014, "Recovery of low-rank matrices under affine constraints via a
        smoothed rank function".
    """
    known = jnp.where(mask, matrix, 0)

    def unfinished(state: _State) -> Array:
        return state.change > config.tolerance

    def one_round(state: _State, problem: tuple[Array, Array]) -> _State:
        known, mask = problem

        def step(x: Array, _: None) -> tuple[Array, None]:
            descended = descend_smoothed_rank(x, state.delta, config.step_size)
            return jnp.where(mask, known, descended), None

        x, _ = jax.lax.scan(step, state.x, length=config.inner_steps)
        old, new = jax.lax.stop_gradient((state.x, x))
        size = jnp.sum(old**2)
        change = jnp.sqrt(jnp.sum((new - old) ** 2) / jnp.where(size > 0, size, 1))
        return _State(x, config.delta_decay * state.delta, change)

    infinite = jnp.full((), jnp.inf, matrix.dtype)
    start = _State(known, config.start * largest(known), infinite)
    done = iterate(one_round, unfinished, start, (known, mask), config.max_rounds)
    return jnp.where(mask, matrix, done.x)


def srf_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: SRFConfig
) -> Float[Array, "h w c"]:
    """Completes an image from a random part of its pixels by `srf_matrix`.

    The kept pixels come back as they are. Random, and differentiable in reverse mode;
    attack the average of many masks (EOT), as SPLIC.
    """
    mask = sample_mask(key, image.shape, config.keep_probability, config.mask)
    complete = partial(srf_matrix, config=config)
    return jnp.clip(of_matrices(complete, image, mask, config.channels), 0, 1)


srf = per_image(srf_one)
