"""Total-variation minimisation with random pixel dropout."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from splic_jax.fields import config, require_choice, require_integer, require_number
from splic_jax.masks.sampling import sample_mask
from splic_jax.transforms.base import per_image

# The squared norm of the differences of an image is below 8, and the steps of the
# solver have to multiply to less than its inverse. Their ratio is what converges
# fastest for images in [0, 1] and weights of about 0.03; any converges.
_PRIMAL_STEP = 1.0
_DUAL_STEP = 1 / (8 * _PRIMAL_STEP)


@config
class TVMinimisationConfig:
    """Settings of `tv_minimisation`; the first four defaults are those of Guo et al.

    Attributes:
        keep_probability: chance of a value to be kept (the paper drops with the other
            probability); in (0, 1].
        tv_weight: lambda_TV; in [0, 1e18], as float32 has to hold its square.
        form: which lengths the total variation sums. "pixels" is the length of each
            pixel's gradient, as the authors' default solver takes it; "rows" is the
            length of the difference of each two neighbouring rows, and columns, as the
            paper writes it (p = 2).
        mask: "independent" draws for each channel, as Guo et al.; "shared" for all.
        steps: steps of the solver; >= 1.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    keep_probability: float = 0.5
    tv_weight: float = 0.03
    form: Literal["pixels", "rows"] = "pixels"
    mask: Literal["shared", "independent"] = "independent"
    steps: int = 200

    def __post_init__(self) -> None:
        require_number(self, "keep_probability", "(0, 1]")
        require_number(self, "tv_weight", "[0, 1e18]")
        require_choice(self, "form", ("pixels", "rows"))
        require_choice(self, "mask", ("shared", "independent"))
        require_integer(self, "steps")


# The iterate, its extrapolation, and the dual variable.
_Carry = tuple[Array, Array, Array]


def minimise_tv(
    image: Float[Array | np.ndarray, "h w c"],
    mask: Bool[Array | np.ndarray, "h w c"],
    config: TVMinimisationConfig,
) -> Float[Array, "h w c"]:
    r"""The simplest image that is close to the kept values.

    .. math:: \min_z \tfrac12 \|M \odot (z - x)\|_2^2 + \lambda \, \mathrm{TV}(z)

    The squared error is that of the authors' code; the paper writes it unsquared. Their
    code minimises by split Bregman until changes are below 0.01; this takes a fixed
    number of steps of the primal-dual method of Chambolle and Pock, which converges to
    the minimum. Channels are independent of each other.

    Args:
        image: x.
        mask: M, True at the kept values; at least one of each channel is.
        config: `tv_weight`, `form` and `steps`.

    Returns:
        z, within the range of x up to the solver's accuracy. Differentiable in `image`.
    """
    x, mask = jnp.moveaxis(image, 2, 0), jnp.moveaxis(mask, 2, 0)
    kept = jnp.where(mask, x, 0)
    pull = _PRIMAL_STEP * mask.astype(x.dtype)
    mean = jnp.sum(kept, (1, 2), keepdims=True) / jnp.sum(mask, (1, 2), keepdims=True)

    @jax.checkpoint
    def step(carry: _Carry, _: None) -> tuple[_Carry, None]:
        z, ahead, dual = carry
        dual = _project(dual + _DUAL_STEP * _differences(ahead), config)
        new = z - _PRIMAL_STEP * _differences_transposed(dual)
        new = (new + pull * kept) / (1 + pull)
        return (new, 2 * new - z, dual), None

    start = jnp.where(mask, x, mean)
    dual = jnp.zeros((2, *x.shape), x.dtype)
    (z, _, _), _ = jax.lax.scan(step, (start, start, dual), length=config.steps)
    return jnp.moveaxis(z, 0, 2)


def _differences(z: Array) -> Array:
    """To the next row and to the next column; 0 where there is none."""
    down = jnp.pad(z[:, 1:] - z[:, :-1], ((0, 0), (0, 1), (0, 0)))
    right = jnp.pad(z[:, :, 1:] - z[:, :, :-1], ((0, 0), (0, 0), (0, 1)))
    return jnp.stack([down, right])


def _differences_transposed(dual: Array) -> Array:
    down, right = dual[0, :, :-1], dual[1, :, :, :-1]
    z = jnp.pad(down, ((0, 0), (1, 0), (0, 0))) - jnp.pad(
        down, ((0, 0), (0, 1), (0, 0))
    )
    z += jnp.pad(right, ((0, 0), (0, 0), (1, 0)))
    return z - jnp.pad(right, ((0, 0), (0, 0), (0, 1)))


def _project(dual: Array, config: TVMinimisationConfig) -> Array:
    """Projects onto vectors whose parts, one for each length, are lambda at most."""
    squares = dual**2
    if config.form == "pixels":
        squares = jnp.sum(squares, 0, keepdims=True)
    else:
        down = jnp.sum(squares[0], 2, keepdims=True)
        right = jnp.sum(squares[1], 1, keepdims=True)
        squares = jnp.stack(jnp.broadcast_arrays(down, right))
    outside = squares > config.tv_weight**2
    length = jnp.sqrt(jnp.where(outside, squares, 1))
    return dual * jnp.where(outside, config.tv_weight / length, 1)


def minimise_tv_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: TVMinimisationConfig
) -> Float[Array, "h w c"]:
    """Drops random pixels and rebuilds the image by total-variation minimisation.

    Random, and differentiable. Guo et al. take it for hard to differentiate; an attack
    through the solver, or by BPDA with an identity backward, over many masks (EOT) is
    what breaks it (Athalye, Carlini and Wagner 2018).

    References:
        Guo, Rana, Cisse and van der Maaten 2018, "Countering adversarial images using
        input transformations", section 3 and their published code; Chambolle and Pock
        2011, "A first-order primal-dual algorithm for convex problems", algorithm 1.
    """
    mask = sample_mask(key, image.shape, config.keep_probability, config.mask)
    return jnp.clip(minimise_tv(image, mask, config), 0, 1)


tv_minimisation = per_image(minimise_tv_one)
