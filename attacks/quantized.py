"""Attacked images as 8-bit files store them: multiples of 1/255, evaluated again.

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
from jaxtyping import Array, Num, PRNGKeyArray, Real

from attacks import inputs, norms
from attacks.empty import allow_no_images
from attacks.judge import judge_goal
from attacks.losses import MARGIN, Loss
from attacks.oracle import make_goal
from attacks.types import Attacked, Images, LogitsFunction

LEVELS = 255
# The fraction of a level above which a perturbation is rounded away from the clean
# image: from the nearest level to the next one outwards, up to rounding errors.
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
    r"""Rounds attacked images to multiples of 1/255 in the ball, and evaluates them.

    Images just past a decision boundary, as from `deepfool`, `carlini_wagner`,
    `fab_minimal` and `boundary`, often fall back behind it when rounded to the nearest
    multiples. So several roundings are tried, and the first that is misclassified is
    taken: to the nearest multiple, then with ever more pixels rounded away from the
    clean image,

    .. math::
        255\, |x'_i - x_i| \mapsto \lfloor 255\, |x'_i - x_i| + 1 - \tau \rfloor,
        \qquad \tau = \tfrac12, \tfrac38, \tfrac14, \tfrac18, \tfrac1{16}, 0

    (for a clean image of multiples; else x' itself is rounded, away from x). Each is
    clipped to [0, 1] and to the ball. For L-infinity a pixel outside goes to the
    nearest multiple inside, towards the clean image; for L2 and L1 the perturbation is
    scaled down just enough for its rounding to fit.

    Success may be lost: if the boundary lies between the ball's edge and the last
    multiple inside, if none of these roundings is misclassified, or if no pixel changes
    by a thousandth of a level. Such images are rounded to the nearest multiples and are
    no success. If the ball contains no multiples, which needs a clean image that is not
    of multiples itself, those nearest to the clean image are taken.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``.
        attacked: the result of an attack: of `carlini_wagner` and `boundary` one of the
            two readings, of `fab_minimal` its ``attacked``.
        images: the clean images, floats in [0, 1].
        labels, key: as in `pgd`.
        epsilon: radius of the ball in pixel values, >= 0; None for no ball. Measured
            as in `soundness.check_ball`, so that 8/255 allows 8 levels.
        norm: of the ball: "linf", "l2" or "l1".
        loss: the loss to report, as in `attacks.pgd`; None for the margin.
        targets: integers in [0, classes), the target classes; None for untargeted.
        evaluations: keys for comparing the roundings, and as many new ones for the
            final evaluation; both decide by majority vote.

    Returns:
        The rounded images in the dtype of `attacked`, with ``success`` and ``loss`` of
        their evaluation. ``queries`` and ``not_finite`` add to those of the attack:
        `evaluations` for each rounding tried on the image and for the final evaluation.

    Raises:
        ValueError, TypeError: as `pgd`.

    Example:
        >>> import attacks, jax, jax.numpy as jnp
        >>> def brightness(images, key):  # two classes: dark and light
        ...     return (images.mean((1, 2, 3)) - 0.5)[:, None] * jnp.array([-1, 1])
        >>> images, labels = jnp.full((1, 4, 4, 1), 153 / 255), jnp.array([1])
        >>> key = jax.random.key(0)
        >>> found = attacks.deepfool(brightness, images, labels, key)
        >>> found = attacks.quantized(brightness, found, images, labels, key)
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
        success = judged.majority if goal.targeted else ~judged.majority
        # The nearest rounding stays if none is misclassified.
        taken = ~found & ((success & judged.finite) | (index == 0))
        best = jnp.where(norms.per_image(taken), candidates, best)
        queries += jnp.where(found, 0, evaluations)
        not_finite += ~found & ~judged.finite
        return index + 1, best, found | (success & judged.finite), queries, not_finite

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


# The index of the rounding, images, which are found, queries, and how many not finite.
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
        threshold: the fraction of a level above which a perturbation is rounded away
            from the clean image; > 0.

    Returns:
        Images of the same shape and dtype.
    """
    dtype = jnp.promote_types(images.dtype, jnp.float32)
    start = clean.astype(dtype)
    perturbation = images.astype(dtype) - start

    def round_at(share: Array) -> Array:
        """The level of each pixel, with the perturbation scaled by `share`."""
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
    """Pixel values of the levels 0 to 255, bit for bit as read from a file.

    A compiled division by 255 would become a multiplication by its inverse.
    """
    table = np.arange(LEVELS + 1, dtype=np.dtype(dtype)) / np.dtype(dtype).type(LEVELS)
    values: Images = jnp.asarray(table)[levels.astype(jnp.int32)]
    return values


def _ends(clean: Images, radius: Array) -> tuple[Images, Images]:
    """The lowest and highest level in the L-infinity ball, or the nearest if none."""
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
    """The levels, or those of the largest scaled perturbation whose rounding fits."""

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
