"""Certified L0 radius (number of changed pixels), by a vote over random anchors.

A classifier that sees only randomly drawn pixels is not affected by changes to the
others. Its vote over many draws, and the number of changed pixels it withstands:

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
_CHANNELS = 3  # of an image, at most


class Certificate(NamedTuple):
    """The result of `certify`, one entry per image.

    Attributes:
        label: the class with most votes in the selection sample; `NO_LABEL` if all its
            logits were non-finite.
        abstained: whether the label could not be certified even for the clean image.
        radius: the number of pixels that can change without changing the vote; -1 where
            abstained.
        p_lower: lower bound on the probability of the label over all draws.
        p_upper: upper bound on the probability of every other class.
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

    One sample of draws selects the label A; an independent one bounds its probability
    from below, with confidence :math:`1 - \alpha` for each image. Changing r pixels
    changes a probability by at most :math:`\Delta_r`, so the radius is the greatest r
    with

    .. math:: \underline{p_A} - \Delta_r > \tfrac12 \quad\text{("majority") or}\quad
        \underline{p_A} - \Delta_r > \overline{p_B} + \Delta_r
        \quad\text{("top_two")}

    for every other class B. The bounds of "top_two" hold simultaneously
    (:math:`\alpha` divided by the number of classes).

    Draw s of image i has the key ``fold_in(fold_in(key, first_index + i), s)``, so the
    result of an image depends on its content and index alone.

    Args:
        logits_fn: logits of ablated images, each independent of its batch and without
            randomness; compiled here. Logits that are not finite vote for no class.
        images: floats in [0, 1] or uint8, of 1 or 3 channels.
        key: from `jax.random.key`.
        ablate: ``(images, key, first_index=...) -> images``, as `ablation_of` returns.
            The result must depend on the pixels it keeps alone, or the certificate is
            void.
        deltas: :math:`\Delta_r` for r = 0 ... h w, as `ablation_of` returns.
        samples_select: draws to select the label; >= 1.
        samples_estimate: draws to bound its probability; >= 1.
        alpha: probability of a wrong certificate, for each image; in (0, 1).
        bound: which inequality.
        chunk: draws in a batch; >= 1.
        first_index: index of the first image.

    Returns:
        Label, radius and the bounds.

    Raises:
        TypeError: if images or deltas are not arrays, or for an invalid key.
        ValueError: for images with alpha, deltas of another image size, or a setting
            out of range.
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
    """Bounds the probability of a class from below and of the others from above.

    Args:
        votes: of the estimation sample.
        label: the class; `NO_LABEL` gets the bounds 0 and 1.
        samples: number of draws, those without a vote included.
        alpha: probability that a bound is wrong.
        bound: "majority" bounds the others by one minus the lower bound; "top_two"
            bounds each of them as well.

    Returns:
        Lower bound of the class, upper bound of every other.

    Raises:
        TypeError, ValueError: if votes is not an array of one integer per class.
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
    """The class that wins the vote, or `NO_LABEL` where the vote is not significant.

    Tests whether the two leading classes are equally likely, by a two-sided binomial
    test of their votes. The class is wrong with probability at most alpha.

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
        raise ValueError(f"votes must be one integer per class, got {described(votes)}")


def clopper_pearson_lower(successes: int, trials: int, alpha: float) -> float:
    """Lower bound on a success probability, wrong with probability at most alpha."""
    if successes == 0:
        return 0.0
    return float(stats.beta.ppf(alpha, successes, trials - successes + 1))


def clopper_pearson_upper(successes: int, trials: int, alpha: float) -> float:
    """Upper bound on a success probability, wrong with probability at most alpha."""
    if successes == trials:
        return 1.0
    return float(stats.beta.isf(alpha, successes + 1, trials - successes))


def ablation_of(
    config: TransformConfig, shape: tuple[int, int]
) -> tuple[Callable[..., Array], Float64[np.ndarray, " radii"]]:
    r"""The ablation to vote over, and how far changed pixels can move the vote.

    Args:
        config: an `AblationConfig` or a `SPLICConfig`.
        shape: height and width of the images.

    Returns:
        ``ablate(images, key, first_index=...)`` and :math:`\Delta_r` for r = 0 ... d:
        the probability that any of r pixels is kept. With a mask for each channel a
        pixel is kept where any of its channels is: :math:`1 - (1 - \Delta_r)^3`, for
        the three channels that an image has at most.

    Raises:
        ValueError: for a transform whose result depends on more than the pixels it
            keeps, or a kind or design of masks without a known :math:`\Delta_r`.
    """
    if isinstance(config, AblationConfig):
        apply = partial(ablate, config=config)
    elif isinstance(config, SPLICConfig):
        # Alternated or not, `purify` reads the anchors alone.
        apply = partial(purify, config=config)
    else:
        raise ValueError(
            "a certificate needs an AblationConfig or a SPLICConfig, whose result "
            f"depends on the pixels they keep alone; got {config!r}"
        )
    if config.mask_design not in ("exact", "iid"):
        raise ValueError(
            "a certificate needs mask_design='exact' or 'iid', got "
            f"{config.mask_design!r}"
        )
    pixels = math.prod(shape)
    if config.mask_design == "exact":
        deltas = exact_deltas(pixels, anchors_of(shape, config.keep_probability))
    else:
        deltas = iid_deltas(pixels, config.keep_probability)
    if isinstance(config, SPLICConfig) and config.mask == "independent":
        deltas = 1 - (1 - deltas) ** _CHANNELS
    return apply, deltas


def exact_deltas(pixels: int, kept: int) -> Float64[np.ndarray, " radii"]:
    r"""Probability that any of r of d pixels is among the k kept, for r = 0 ... d.

    .. math:: \Delta_r = 1 - \binom{d - r}{k} / \binom{d}{k}
    """
    # Integers of any size; Python rounds their quotient once.
    every = math.comb(pixels, kept)
    some = [every - math.comb(pixels - r, kept) for r in range(pixels + 1)]
    return np.array([x / every for x in some])


def iid_deltas(pixels: int, keep_probability: float) -> Float64[np.ndarray, " radii"]:
    r"""`exact_deltas` for pixels kept with probability p each, and at least one.

    .. math:: \Delta_r = 1 - (1 - p)^r + (1 - p)^d \, \frac{r}{d}

    because `sample_mask` keeps one of the d pixels, all equally likely, where it would
    have kept none.
    """
    # The draws are multiples of 2^-23 (and tie with probability below d 2^-23).
    p = math.ceil(np.float32(keep_probability) * 2.0**23) / 2.0**23
    r = np.arange(pixels + 1)
    return 1 - (1 - p) ** r + (1 - p) ** pixels * r / pixels
