"""Certified radius in changed pixels ("L0"), by a vote over random anchors.

A classifier that sees only some pixels, drawn at random, cannot be moved by a change to
the others. Its vote over many draws, and for how many changed pixels it must stay:

    from splic_jax.certificate import ablation_of, certify
    config = AblationConfig(keep_probability=0.05)  # or a SPLICConfig
    ablate, deltas = ablation_of(config, images.shape[1:3])
    found = certify(logits_fn, images, jax.random.key(0), ablate, deltas)
    found.label, found.radius

A pixel is a location with all its channels.

References:
    Levine and Feizi 2020, "Robustness certificates for sparse adversarial attacks by
    randomized ablation".
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int, Int64, PRNGKeyArray, Shaped
from scipy import stats

from splic_jax.arguments import described, require_array, require_key
from splic_jax.config import SPLICConfig
from splic_jax.keys import mappable
from splic_jax.masks.designs import anchors_of
from splic_jax.purification import purify
from splic_jax.transforms.random.ablation import AblationConfig, ablate
from splic_jax.transforms.registry import TransformConfig

NO_LABEL = -1


class Certificate(NamedTuple):
    """What `certify` found, one entry per image.

    Attributes:
        label: the class with most votes in the selection sample, `NO_LABEL` if none of
            its answers was finite.
        abstained: whether that class was not shown to win the vote at all.
        radius: the vote is for the label however this many pixels are changed; -1 where
            abstained.
        p_lower: lower bound on the share of the label in all draws.
        p_upper: upper bound on the share of every other class.
    """

    label: Int64[np.ndarray, " n"]
    abstained: Bool[np.ndarray, " n"]
    radius: Int64[np.ndarray, " n"]
    p_lower: Float64[np.ndarray, " n"]
    p_upper: Float64[np.ndarray, " n"]


def certify(
    logits_fn: Callable[[Float[Array, "m h w c2"]], Float[Array, "m classes"]],
    images: Shaped[Array | np.ndarray, "n h w c"],
    key: PRNGKeyArray,
    ablate: Callable[..., Array],
    deltas: Float64[np.ndarray, " radii"],
    *,
    samples_select: int = 100,
    samples_estimate: int = 1000,
    alpha: float = 0.05,
    bound: Literal["majority", "top_two"] = "majority",
    chunk: int = 100,
    first_index: int = 0,
) -> Certificate:
    r"""Certifies the vote of a classifier over random anchors.

    One sample of draws selects the label A; another, independent one bounds its share
    from below, all with confidence :math:`1 - \alpha` for each image. Changing r
    pixels moves a share by at most :math:`\Delta_r`, so the radius is the greatest r
    with

    .. math:: \underline{p_A} - \Delta_r > \tfrac12 \quad\text{("majority") or}\quad
        \underline{p_A} - \Delta_r > \overline{p_B} + \Delta_r
        \quad\text{("top_two")}

    for every other class B, the bounds in the latter holding all at once
    (:math:`\alpha` divided by the number of classes).

    Draw s for image i is ``fold_in(fold_in(key, first_index + i), s)``, so its result
    follows from its own content and index.

    Args:
        logits_fn: of ablated images, each by itself, without randomness; compiled
            here. Logits that are not finite count for no class.
        images: floats in [0, 1] or uint8, of 1 or 3 channels.
        key: a key of `jax.random.key`.
        ablate: ``(images, key, first_index=...) -> images``, as `ablation_of` returns.
            Of another one the result must depend on nothing but the pixels it keeps,
            or the certificate is void.
        deltas: :math:`\Delta_r` for r = 0 ... h w, as `ablation_of` returns.
        samples_select: draws to choose the label; >= 1.
        samples_estimate: draws to bound its share; >= 1.
        alpha: chance of a wrong certificate, for each image; in (0, 1).
        bound: which inequality.
        chunk: draws at a time.
        first_index: index of the first image.

    Returns:
        Label, radius and the bounds.

    Raises:
        TypeError: for images or deltas that are no array, or a key that is none.
        ValueError: for images with alpha, deltas for images of another size, or a
            setting out of range.
    """
    for name, value in (
        ("samples_select", samples_select),
        ("samples_estimate", samples_estimate),
        ("chunk", chunk),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")
    if bound not in ("majority", "top_two"):
        raise ValueError(f"bound must be 'majority' or 'top_two', got {bound!r}")
    require_array("images", images)
    require_key(key)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            "images must be [n, h, w, c] of 1 or 3 channels (alpha is not ablated), "
            f"got shape {images.shape}"
        )
    pixels = math.prod(images.shape[1:3])
    require_array("deltas", deltas)
    if deltas.shape != (pixels + 1,):
        raise ValueError(
            f"deltas must be {pixels + 1} for images of {pixels} pixels, got "
            f"{described(deltas)}"
        )
    if images.dtype == jnp.uint8:
        images = np.asarray(images, np.float32) / 255
    total, key = samples_select + samples_estimate, mappable(key)

    @jax.jit
    def answer(ablated: Array) -> Array:
        logits = logits_fn(ablated)
        finite = jnp.isfinite(logits).all(axis=-1, keepdims=True)
        chosen = logits.argmax(axis=-1, keepdims=True) == jnp.arange(logits.shape[-1])
        return finite & chosen

    found = []
    for number, image in enumerate(images, start=first_index):
        image_key = jax.random.fold_in(key, number)
        copies = jnp.broadcast_to(image, (chunk, *image.shape))
        answers = [
            np.asarray(answer(ablate(copies, image_key, first_index=start)))
            for start in range(0, total, chunk)
        ]
        drawn = np.concatenate(answers)[:total]
        votes = [x.sum(axis=0) for x in np.split(drawn, [samples_select])]
        label = int(votes[0].argmax()) if votes[0].any() else NO_LABEL
        p_lower, p_upper = share_bounds(votes[1], label, samples_estimate, alpha, bound)
        found.append((label, p_lower, p_upper, radius_of(p_lower, p_upper, deltas)))
    columns = np.array(found, np.float64).reshape(-1, 4).T
    labels, radii = columns[0].astype(np.int64), columns[3].astype(np.int64)
    return Certificate(labels, radii < 0, radii, columns[1].copy(), columns[2].copy())


def radius_of(
    p_lower: float, p_upper: float, deltas: Float64[np.ndarray, " radii"]
) -> int:
    """The greatest r with ``p_lower - deltas[r] > p_upper + deltas[r]``, -1 if none.

    With ``p_upper = 1 - p_lower`` it is the greatest with p_lower - deltas[r] > 1/2.
    """
    require_array("deltas", deltas)
    safe = p_lower - p_upper > 2 * deltas
    return int(np.argmin(np.append(safe, False))) - 1


def share_bounds(
    votes: Int[np.ndarray, " classes"],
    label: int,
    samples: int,
    alpha: float,
    bound: Literal["majority", "top_two"] = "majority",
) -> tuple[float, float]:
    """Bounds the share of a class from below and of the others from above.

    Args:
        votes: of the estimation sample.
        label: the class; of `NO_LABEL` nothing is known.
        samples: how many votes there were, for no class as well.
        alpha: chance that a bound is wrong.
        bound: "majority" gives others what the class leaves; "top_two" bounds each of
            them as well.

    Returns:
        Lower bound of the class, upper bound of every other.

    Raises:
        TypeError, ValueError: for votes that are no array of a whole number a class.
    """
    _require_votes(votes)
    if label == NO_LABEL:
        return 0.0, 1.0
    if bound == "majority":
        p_lower = clopper_pearson_lower(int(votes[label]), samples, alpha)
        return p_lower, 1 - p_lower
    each = alpha / len(votes)
    p_lower = clopper_pearson_lower(int(votes[label]), samples, each)
    most = int(np.delete(votes, label).max(initial=0))
    p_upper = clopper_pearson_upper(most, samples, each)
    return p_lower, min(p_upper, 1 - p_lower)


def predict(votes: Int[np.ndarray, " classes"], alpha: float = 0.05) -> int:
    """The class that wins the vote, or `NO_LABEL` where this is not sure enough.

    Asks whether the two leading classes might be equally likely, by a two-sided
    binomial test of their votes; the answer is wrong with a chance of alpha at most.

    References:
        Hung and Fithian 2019, "Rank verification for exponential families", as used by
        Cohen, Rosenfeld and Kolter 2019, "Certified adversarial robustness via
        randomized smoothing".
    """
    _require_votes(votes)
    first, *rest = np.argsort(-votes, kind="stable")[:2]
    second = votes[rest[0]] if rest else 0
    most = int(votes[first])
    if most == 0 or stats.binomtest(most, most + int(second)).pvalue > alpha:
        return NO_LABEL
    return int(first)


def _require_votes(votes: Any) -> None:
    require_array("votes", votes)
    if votes.ndim != 1 or not np.issubdtype(votes.dtype, np.integer):
        raise ValueError(
            f"votes must be a whole number for each class, got {described(votes)}"
        )


def clopper_pearson_lower(successes: int, trials: int, alpha: float) -> float:
    """Is above the chance of a success with a probability of at most alpha."""
    if successes == 0:
        return 0.0
    return float(stats.beta.ppf(alpha, successes, trials - successes + 1))


def clopper_pearson_upper(successes: int, trials: int, alpha: float) -> float:
    """Is below the chance of a success with a probability of at most alpha."""
    if successes == trials:
        return 1.0
    return float(stats.beta.isf(alpha, successes + 1, trials - successes))


def ablation_of(
    config: TransformConfig, shape: tuple[int, int]
) -> tuple[Callable[..., Array], Float64[np.ndarray, " radii"]]:
    r"""What to vote over, and how far changed pixels can move its shares.

    Args:
        config: an `AblationConfig` or a `SPLICConfig`.
        shape: height and width of the images.

    Returns:
        ``ablate(images, key, first_index=...)`` and :math:`\Delta_r` for r = 0 ... d:
        the chance that any of r pixels is kept.

    Raises:
        ValueError: for a transform whose result depends on more than the pixels it
            keeps, or masks that it is not known for.
    """
    if isinstance(config, AblationConfig):
        apply = partial(ablate, config=config)
    elif isinstance(config, SPLICConfig):
        # Alternated or not, `purify` looks at the anchors alone.
        apply = partial(purify, config=config)
        if config.mask != "shared":
            raise ValueError(
                f"a certificate needs mask='shared', got {config.mask!r}: it counts "
                "locations"
            )
    else:
        raise ValueError(
            "a certificate is known for AblationConfig and SPLICConfig alone, whose "
            f"result depends on nothing but the pixels they keep; got {config!r}"
        )
    if config.mask_design not in ("exact", "iid"):
        raise ValueError(
            "a certificate needs mask_design='exact' or 'iid', got "
            f"{config.mask_design!r}"
        )
    pixels = math.prod(shape)
    if config.mask_design == "exact":
        return apply, exact_deltas(pixels, anchors_of(shape, config.keep_probability))
    return apply, iid_deltas(pixels, config.keep_probability)


def exact_deltas(pixels: int, kept: int) -> Float64[np.ndarray, " radii"]:
    r"""Chance that any of r of d pixels is among k kept ones, for r = 0 ... d.

    .. math:: \Delta_r = 1 - \binom{d - r}{k} / \binom{d}{k}
    """
    # Whole numbers of any size, whose quotient Python rounds but once.
    every = math.comb(pixels, kept)
    some = [every - math.comb(pixels - r, kept) for r in range(pixels + 1)]
    return np.array([x / every for x in some])


def iid_deltas(pixels: int, keep_probability: float) -> Float64[np.ndarray, " radii"]:
    r"""The same where each is kept with probability p, and one at least.

    .. math:: \Delta_r = 1 - (1 - p)^r + (1 - p)^d \, \frac{r}{d}

    as `sample_mask` keeps one of d pixels, each as likely as another, where it would
    have kept none.
    """
    # The draws are multiples of 2^-23 (and equal ones of a chance below d 2^-23).
    p = math.ceil(np.float32(keep_probability) * 2.0**23) / 2.0**23
    r = np.arange(pixels + 1)
    return 1 - (1 - p) ** r + (1 - p) ** pixels * r / pixels
