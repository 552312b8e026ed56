"""Attacked images as 8-bit files hold them: multiples of 1/255, judged again.

found = deepfool(logits_fn, images, labels, key)
found = quantized(logits_fn, found, images, labels, key)
pixels = np.round(np.asarray(found.images) * 255).astype(np.uint8)  # exact
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Num, PRNGKeyArray, Real

from attacks import inputs, norms
from attacks.empty import allow_no_images
from attacks.judge import judge_goal
from attacks.losses import MARGIN, Loss
from attacks.oracle import make_goal
from attacks.types import Attacked, LogitsFunction

Images = Float[Array, "n h w c"]

LEVELS = 255
# The part of a step, away from the clean image, from which on a pixel makes the whole
# of it: from the nearest multiple to the next one outwards, but for what rounding adds.
ROUNDINGS = (1 / 2, 3 / 8, 1 / 4, 1 / 8, 1 / 16, 1e-3)


@allow_no_images
def quantized(
    logits_fn: LogitsFunction,
    attacked: Attacked,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] | None = None,
    norm: str = "linf",
    loss: Loss | None = None,
    targets: Num[Array | np.ndarray, " n"] | None = None,
    evaluations: int = 1,
) -> Attacked:
    r"""Rounds attacked images to multiples of 1/255, in the ball, and judges them.

    An image that ends just past a boundary, as those of `deepfool`, `carlini_wagner`,
    `fab_minimal` and `boundary` do, is often back before it once every pixel has moved
    to the nearest multiple. So of several roundings the first counts with which the
    classifier errs: to the nearest multiple, and then more and more of the pixels away
    from the clean image,

    .. math::
        255\, |x'_i - x_i| \mapsto \lfloor 255\, |x'_i - x_i| + 1 - \tau \rfloor,
        \qquad \tau = \tfrac12, \tfrac38, \tfrac14, \tfrac18, \tfrac1{16}, 0

    (where the clean image is one of multiples; else it is the multiples of x' away
    from x). Each is cut to [0, 1] and to the ball. For L-infinity a pixel outside goes
    to the nearest multiple inside, towards the clean image; for L2 and L1 the
    perturbation is shrunk by what makes its rounding fit, and no more.

    Success may be lost: where the boundary lies between a ball's edge and the last
    multiple before it, where none of these roundings is an error, where no pixel moves
    by a thousandth of a step. Such images are rounded to the nearest, and are no
    success. Where the ball holds no multiple, which is so only around a clean image
    that is none itself, its nearest ones are taken.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``.
        attacked: what an attack returned: of `carlini_wagner` and `boundary` one of
            the two readings, of `fab_minimal` its ``attacked``.
        images: the clean ones, floats in [0, 1].
        labels: integers in [0, classes), the true classes.
        key: a key of `jax.random.key`.
        epsilon: radius of the ball in pixel values, >= 0; None for no ball. As
            `soundness.check_ball` measures, so that 8/255 holds 8 steps.
        norm: "linf", "l2" or "l1", of the ball.
        loss: to be reported, as in `attacks.pgd`; None for the margin.
        targets: integers in [0, classes), the target classes; None for untargeted.
        evaluations: keys under which each rounding is compared, and as many new ones
            under which the result is judged, by vote.

    Returns:
        The images in the dtype of `attacked`, judged again: ``success`` and ``loss``
        are theirs, ``queries`` and ``not_finite`` the attack's and what came on top,
        `evaluations` for each rounding that the image needed and for the verdict.

    Raises:
        ValueError, AssertionError: as `attacks.pgd`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attacks import deepfool, quantized
        >>> def brightness(images, key):  # two classes: dark and light
        ...     light = images.mean(axis=(1, 2, 3)) - 0.5
        ...     return jnp.stack([-light, light], axis=1)
        >>> images, labels = jnp.full((1, 4, 4, 1), 153 / 255), jnp.array([1])
        >>> found = deepfool(brightness, images, labels, jax.random.key(0))
        >>> found = quantized(brightness, found, images, labels, jax.random.key(0))
        >>> print(found.success, f"{found.images[0, 0, 0, 0] * 255:.4f}")
        [ True] 127.0000
    """
    if epsilon is not None:
        inputs.require_finite(epsilon=epsilon)
    inputs.require_choice("norm", norm, norms.NORMS)
    inputs.require_at_least(1, evaluations=evaluations)
    clean, labels, _ = inputs.checked(logits_fn, images, labels, key, targets)
    inputs.require_same_shape("attacked.images", attacked.images, "images", clean)
    moved, _, _ = inputs.checked(logits_fn, attacked.images, labels, key)
    goal = make_goal(loss, labels, targets, default=MARGIN)
    compare_key, evaluation_key = jax.random.split(key)
    rounded = partial(on_levels, moved, clean, epsilon=epsilon, norm=norm)

    def attempt(carry: _Carry) -> _Carry:
        index, best, found, queries, not_finite = carry
        candidates = rounded(threshold=jnp.asarray(ROUNDINGS)[index])
        judged = judge_goal(logits_fn, goal, candidates, compare_key, evaluations)
        named = judged.majority if goal.targeted else ~judged.majority
        # The nearest stays where none is an error.
        taken = ~found & ((named & judged.finite) | (index == 0))
        best = jnp.where(norms.per_image(taken), candidates, best)
        queries += jnp.where(found, 0, evaluations)
        not_finite += ~found & ~judged.finite
        return index + 1, best, found | (named & judged.finite), queries, not_finite

    nothing = jnp.zeros(len(clean), jnp.int32)
    _, best, _, queries, not_finite = jax.lax.while_loop(
        lambda carry: (carry[0] < len(ROUNDINGS)) & ~carry[2].all(),
        attempt,
        (jnp.int32(0), moved, nothing > 0, nothing, nothing),
    )
    best = jax.lax.stop_gradient(best)
    judged = judge_goal(logits_fn, goal, best, evaluation_key, evaluations)
    return attacked._replace(
        images=best,
        success=judged.majority if goal.targeted else ~judged.majority,
        loss=judged.loss,
        queries=attacked.queries + queries + evaluations,
        not_finite=attacked.not_finite + not_finite + ~judged.finite,
    )


# The index of the rounding, images, which are done, what was asked, and what was lost.
_Carry = tuple[Array, Array, Array, Array, Array]


def on_levels(
    images: Images,
    clean: Images,
    *,
    epsilon: ArrayLike | None = None,
    norm: str = "linf",
    threshold: ArrayLike = 0.5,
) -> Images:
    """Multiples of 1/255 near the images, in the ball and in [0, 1].

    Args:
        images, clean: in [0, 1].
        epsilon, norm: as in `quantized`.
        threshold: the part of a step, away from the clean image, from which on a pixel
            makes the whole of it, above 0.

    Returns:
        Images of the same shape and dtype.
    """
    dtype = jnp.promote_types(images.dtype, jnp.float32)
    start = clean.astype(dtype)
    perturbation = images.astype(dtype) - start

    def round_at(share: Array) -> Array:
        """The level of each pixel, after a share of the way."""
        level = (start + share * perturbation) * LEVELS
        outwards = 1 - jnp.asarray(threshold, dtype)
        up, down = jnp.floor(level + outwards), jnp.ceil(level - outwards)
        still = jnp.abs(share * perturbation) * LEVELS < ROUNDINGS[-1]
        outer = jnp.where(perturbation > 0, up, down)
        return jnp.clip(jnp.where(still, jnp.round(level), outer), 0, LEVELS)

    levels = round_at(jnp.ones((), dtype))
    if epsilon is not None:
        radius = jnp.asarray(epsilon, dtype) + norms.rounding(start, norm)
        if norm == "linf":
            levels = jnp.clip(levels, *_ends(start, radius))
        else:
            levels = _shrunk(round_at, levels, start, radius, norm)
    return _from_levels(levels, dtype).astype(images.dtype)


def _from_levels(levels: Images, dtype: DTypeLike) -> Images:
    """Levels in [0, 255] as reading a file gives them, to the bit.

    Compiled, a division by 255 would become a product with its inverse.
    """
    table = np.arange(LEVELS + 1, dtype=np.dtype(dtype)) / np.dtype(dtype).type(LEVELS)
    values: Images = jnp.asarray(table)[levels.astype(jnp.int32)]
    return values


def _ends(clean: Images, radius: Array) -> tuple[Images, Images]:
    """The first and the last level in an L-infinity ball, or the one nearest to it."""
    ends = jnp.stack([clean - radius, clean, clean + radius]) * LEVELS
    lower, nearest, upper = jnp.clip(jnp.round(ends), 0, LEVELS)
    lower += clean - _from_levels(lower, clean.dtype) > radius
    upper -= _from_levels(upper, clean.dtype) - clean > radius
    some = lower <= upper
    return jnp.where(some, lower, nearest), jnp.where(some, upper, nearest)


def _shrunk(
    round_at: Callable[[Array], Array],
    levels: Images,
    clean: Images,
    radius: Array,
    norm: str,
) -> Images:
    """The levels, or those at the largest share of the way whose rounding fits."""

    def fits(levels: Images) -> Array:
        return norms.size(_from_levels(levels, clean.dtype) - clean, norm) <= radius

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        fit = norms.per_image(fits(round_at(middle)))
        return jnp.where(fit, middle, low), jnp.where(fit, high, middle)

    none = jnp.zeros((len(clean), 1, 1, 1), clean.dtype)
    share, _ = jax.lax.fori_loop(0, 24, halve, (none, none + 1))
    return jnp.where(norms.per_image(fits(levels)), levels, round_at(share))
