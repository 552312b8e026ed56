"""AutoAttack: a fixed ensemble of attacks without parameters to tune."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Integer, Num, PRNGKeyArray, Real

from attacks import inputs, norms
from attacks.ascent import Best, finish, initial_best, merge, preference, stop_status
from attacks.autopgd import NORMS, autopgd, targeted_autopgd
from attacks.empty import allow_no_images
from attacks.fab import fab
from attacks.judge import judge_goal
from attacks.losses import cross_entropy, dlr
from attacks.oracle import make_goal
from attacks.precision import in_working_precision
from attacks.square import square
from attacks.types import Attacked, LogitsFunction, Status

VERSIONS = ("standard", "plus", "rand")

# Largest number of target classes of the targeted attacks.
TARGET_CLASSES = 9


class Stage(NamedTuple):
    """One attack of AutoAttack.

    Attributes:
        name: as in the authors' program.
        attack: ``(logits_fn, images, labels, key, *, epsilon, first_index) ->
            Attacked``.
    """

    name: str
    attack: Callable[..., Attacked]


@allow_no_images
@in_working_precision
def autoattack(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    norm: str = "linf",
    version: str = "standard",
    stages: tuple[Stage, ...] | None = None,
    evaluations: int | None = None,
    eot_chunk: int = 1,
    first_index: Integer[ArrayLike, ""] = 0,
) -> Attacked:
    r"""AutoAttack: its attacks one after another.

    ========  =====================================================================
    standard  APGD-CE, APGD-T (9 targets), FAB-T (9 targets), Square (5,000 queries)
    plus      APGD-CE, APGD-DLR and FAB with 5 restarts each, Square, APGD-T, FAB-T
    rand      APGD-CE and APGD-DLR, each gradient averaged over 20 keys
    ========  =====================================================================

    with 100 steps each, except Square.

    "standard" and "plus" are for deterministic classifiers, where one misclassification
    is proof. An image that is misclassified, possibly the clean one, is returned as it
    is and not attacked again. A stage runs if any image is left; it computes the whole
    batch but changes only those left. For an image that no stage breaks, the one of
    highest cross-entropy among the clean image and the stages' results is returned.

    "rand" is for random classifiers, where one misclassification proves nothing. Every
    stage attacks every image. The clean image and each stage's result are evaluated
    under the same `evaluations` keys, none of which an attack has used, and the image
    of highest mean cross-entropy is returned,

    .. math::
        \arg\max_{x'} \frac{1}{m} \sum_{j=1}^m -\log \mathrm{softmax}(f(x'; k_j))_y

    Success is decided by majority vote under as many new keys; for the mean accuracy
    over keys pass the result to `attacks.judge`. The authors' program counts an image
    as broken at its first misclassification: for a classifier that errs at random now
    and then, the accuracy it reports is far too low.

    For ball, box, keys, constancy and `jax.jit` see `attacks.pgd`; each stage has its
    own key.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``, differentiable.
        images, labels, key: as in `pgd`.
        epsilon: radius of the ball in pixel values, images being in [0, 1]; >= 0.
        norm: "linf" or "l2".
        version: "standard", "plus" or "rand".
        stages: replaces the version's own stages, combined in the version's way.
        evaluations: with "rand", keys under which images are compared, and as many new
            ones for the final evaluation; 20 by default. 1 with the other versions.
        eot_chunk: with "rand", keys per vectorized query; memory grows with it.
        first_index: index of the first image in the data set, if attacked in batches.

    Returns:
        The attacked images. ``loss`` is the cross-entropy. ``queries`` counts, for each
        image, those of the stages that attacked it, `evaluations` for the clean image
        and for each of these stages' results, and as many for the final evaluation.

    Raises:
        ValueError, TypeError: as `pgd`; on fewer classes than the version's losses
            need: 4, or 3 with "rand".

    References:
        Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an
        ensemble of diverse parameter-free attacks", section 6; versions as in the
        authors' program, https://github.com/fra31/auto-attack.

    Example:
        >>> import attacks, jax, jax.numpy as jnp
        >>> def level(images, key):  # four classes: levels of grey
        ...     grey = images.mean(axis=(1, 2, 3))[:, None]
        ...     return -((grey - jnp.array([0.2, 0.4, 0.6, 0.8])) ** 2)
        >>> images, labels = jnp.full((2, 4, 4, 1), 0.52), jnp.array([2, 1])
        >>> attacked = attacks.autoattack(level, images, labels, jax.random.key(0))
        >>> print(attacked.success, attacked.images[1, 0, 0])  # wrong when clean
        [ True  True] [0.52]
    """
    inputs.require_finite(epsilon=epsilon)
    inputs.require_choice("norm", norm, NORMS)
    inputs.require_choice("version", version, VERSIONS)
    randomized = version == "rand"
    if evaluations is None:
        evaluations = 20 if randomized else 1
    inputs.require_at_least(1, evaluations=evaluations)
    if evaluations > 1 and not randomized:
        raise ValueError(
            f"evaluations is {evaluations}, but version {version!r} is for "
            "deterministic classifiers; use version 'rand' for a random one"
        )
    images, labels, count = inputs.checked(logits_fn, images, labels, key)
    if stages is None:
        least = 3 if randomized else 4
        if count < least:
            raise ValueError(
                f"version {version!r} needs {least} classes, logits_fn has {count}; "
                "call autopgd, fab and square instead"
            )
        stages = autoattack_stages(version, norm, eot_chunk=eot_chunk)
    goal = make_goal(cross_entropy, labels)
    prefers = preference(randomized=randomized)
    compare_key, final_key, *stage_keys = (
        jax.random.fold_in(key, index) for index in range(2 + len(stages))
    )

    def compared(best: Best, candidates: Array, allowed: Array) -> Best:
        judged = judge_goal(logits_fn, goal, candidates, compare_key, evaluations)
        not_finite = (allowed & ~judged.finite).astype(jnp.int32)
        flat = jnp.zeros_like(not_finite)  # counted by the stages
        new = Best(candidates, judged.loss, 1 - judged.accuracy, not_finite, flat)
        return merge(best, new, prefers, allowed & judged.finite)

    everywhere = jnp.ones(len(images), bool)
    best = compared(initial_best(images), images, everywhere)
    queries = jnp.full(len(images), evaluations, jnp.int32)
    unknown = Status.NOT_FINITE if stages else Status.BUDGET
    status = jnp.full(len(images), unknown, jnp.int32)
    for stage, stage_key in zip(stages, stage_keys, strict=True):
        left = everywhere if randomized else best.wrong < 1

        def attack(
            stage: Stage,
            key: PRNGKeyArray,
            best: Best,
            queries: Array,
            status: Array,
            left: Array,
        ) -> tuple[Best, Array, Array]:
            found = stage.attack(
                logits_fn,
                images,
                labels,
                key,
                epsilon=epsilon,
                first_index=first_index,
            )
            # A minimal-perturbation attack may end outside the ball.
            moved = norms.size(found.images - images, norm)
            inside = moved <= jnp.asarray(epsilon, images.dtype)
            best = compared(best, found.images, left & inside)
            not_finite = best.not_finite + jnp.where(left, found.not_finite, 0)
            spent = jnp.where(left, found.queries + evaluations, 0)
            # A stage's success counts only if `compared` confirms it.
            reason = jnp.maximum(found.status, Status.BUDGET.value)
            status = jnp.where(left, jnp.minimum(status, reason), status)
            return best._replace(not_finite=not_finite), queries + spent, status

        best, queries, status = jax.lax.cond(
            left.any(),
            partial(attack, stage, stage_key),
            lambda best, queries, status, left: (best, queries, status),
            best,
            queries,
            status,
            left,
        )
    status = stop_status(best, status, at_wrong=not randomized)
    return finish(
        logits_fn, goal, best, final_key, evaluations, queries=queries, status=status
    )


def autoattack_stages(
    version: str = "standard", norm: str = "linf", *, eot_chunk: int = 1
) -> tuple[Stage, ...]:
    """The stages of `autoattack` in order, to be run one by one.

    A caller then sees the result of each, and can drop broken images from the batch,
    which `autoattack` cannot do within one compiled program.

    Args:
        version: "standard", "plus" or "rand".
        norm: "linf" or "l2".
        eot_chunk: with "rand", keys per vectorized query; memory grows with it.

    Returns:
        The stages.

    Raises:
        ValueError: another version or norm.

    Example:
        >>> import attacks, jax, jax.numpy as jnp
        >>> def level(images, key):  # four classes: levels of grey
        ...     grey = images.mean(axis=(1, 2, 3))[:, None]
        ...     return -((grey - jnp.array([0.2, 0.4, 0.6, 0.8])) ** 2)
        >>> images = jnp.array([0.52, 0.55, 0.58])[:, None, None, None]
        >>> labels, key = jnp.array([2, 2, 2]), jax.random.key(0)
        >>> for name, attack in attacks.autoattack_stages("standard")[:2]:
        ...     found = attack(level, images, labels, key, epsilon=8 / 255)
        ...     images, labels = images[~found.success], labels[~found.success]
        ...     print(name, len(images))
        apgd-ce 2
        apgd-t 2
    """
    inputs.require_choice("version", version, VERSIONS)
    inputs.require_choice("norm", norm, NORMS)

    def named(name: str, attack: Callable[..., Attacked], **options: Any) -> Stage:
        return Stage(name, partial(attack, norm=norm, **options))

    if version == "rand":
        options = {"eot_samples": 20, "eot_chunk": eot_chunk}
        return (
            named("apgd-ce", autopgd, loss=cross_entropy, **options),
            named("apgd-dlr", autopgd, loss=dlr, **options),
        )
    apgd_t = named("apgd-t", targeted_autopgd, target_classes=TARGET_CLASSES)
    fab_t = named("fab-t", _targeted_fab)
    # As in the authors' program: the schedule for 10,000 queries, cut at 5,000.
    square_5000 = named("square", square, queries=5000, resc_schedule=False)
    if version == "standard":
        return named("apgd-ce", autopgd, loss=cross_entropy), apgd_t, fab_t, square_5000
    return (
        named("apgd-ce", autopgd, loss=cross_entropy, restarts=5),
        named("apgd-dlr", autopgd, loss=dlr, restarts=5),
        named("fab", fab, restarts=5),
        square_5000,
        apgd_t,
        fab_t,
    )


@allow_no_images
def _targeted_fab(
    logits_fn: LogitsFunction,
    images: Array | np.ndarray,
    labels: Array | np.ndarray,
    key: PRNGKeyArray,
    **options: Any,
) -> Attacked:
    """FAB-T with at most as many targets as there are wrong classes."""
    count = jax.eval_shape(logits_fn, images, key).shape[1]
    targets = min(TARGET_CLASSES, count - 1)
    return fab(logits_fn, images, labels, key, target_classes=targets, **options)
