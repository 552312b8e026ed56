"""Projected gradient descent, and its one-step and momentum variants.

For a classifier `logits_fn(images, key) -> logits`:

    attack = jax.jit(functools.partial(pgd, logits_fn))     # compile once
    attacked = attack(images, labels, key)
    accuracy = 1 - attacked.success.mean()

Options that are not numbers or that set a count, such as `norm` or `steps`, go into
the `partial`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Integer, Num, PRNGKeyArray, Real

from attacks import inputs, norms
from attacks.ascent import (
    Best,
    Rule,
    ascend,
    finish,
    finish_last_iterate,
    initial_best,
    latest,
    merge,
    preference,
    stop_status,
)
from attacks.empty import allow_no_images
from attacks.keys import image_keys, mappable
from attacks.losses import Loss
from attacks.oracle import Answer, make_goal, make_sampling, query
from attacks.precision import in_working_precision
from attacks.types import Attacked, LogitsFunction

# A constant, or a schedule `step index -> size`, as in optax.
StepSize = Real[ArrayLike, ""] | Callable[[Array], ArrayLike]


@allow_no_images
@in_working_precision
def pgd(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    step_size: StepSize = 2 / 255,
    steps: int = 7,
    norm: str = "linf",
    loss: Loss | None = None,
    targets: Num[Array | np.ndarray, " n"] | None = None,
    random_start: bool = True,
    restarts: int = 1,
    keep_best: bool = False,
    momentum: Real[ArrayLike, ""] | None = None,
    eot_samples: int = 1,
    eot_chunk: int = 1,
    evaluations: int = 1,
    first_index: Integer[ArrayLike, ""] = 0,
) -> Attacked:
    r"""Projected gradient ascent on a loss, in a ball around each image.

    .. math::
        x_0 \sim U(B), \qquad
        x_{t+1} = \Pi_B(x_t + \alpha\, d(\nabla_x L(f(x_t), y))),
        \qquad B = \{x' \in [0, 1] : \|x' - x\| \le \epsilon\}

    with d the sign for L-infinity, and g / ||g|| for L2 and L1. The defaults are the
    paper's: 7 steps of 2/255 in the L-infinity ball of 8/255, from a random start,
    returning the last iterate, which is not always the one of highest loss.

    The result lies in [0, 1] and in the ball as computed in the images' dtype:
    ``norm(attacked.images - images) <= epsilon``, with no tolerance. Gradient entries
    that are zero or NaN leave their pixel unchanged, so without a usable gradient only
    the random start perturbs the image. An iterate with NaN or infinite logits is
    returned only if there is no other.

    Every step and every query of the final evaluation has its own key. The random start
    of an image depends on the key and the image's index, so its result does not depend
    on its batch (if the classifier treats images independently).

    Wrap the call in `jax.jit` to compile it once; otherwise every call compiles. The
    two agree up to rounding, since the compiler may fuse operations. The attack is not
    differentiable: the returned images are constants.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``, differentiable.
        images: floats in [0, 1].
        labels: integers in [0, classes), the true classes.
        key: from `jax.random.key`.
        epsilon: radius of the ball in pixel values, images being in [0, 1]; >= 0.
        step_size: alpha, in pixel values; > 0; or a schedule, ``index -> alpha``.
        steps: number of gradient steps; >= 0.
        norm: "linf", "l2" or "l1".
        loss: ``(logits, labels) -> [n]``, or ``(logits, labels, targets) -> [n]`` with
            targets; see `attacks.losses`. None for the cross-entropy.
        targets: integers in [0, classes), the target classes; None for untargeted.
        random_start: start at a uniform sample of the ball, or else at the image.
        restarts: runs from independent random starts, of which the best is returned: a
            misclassified image first, then the higher loss; the mean loss alone if
            `eot_samples` or `evaluations` above 1 imply a random classifier.
        keep_best: return the best iterate in the same sense, not the last.
        momentum: decay of the gradients that are summed, as in MI-FGSM; None for none.
        eot_samples: keys over which each gradient is averaged.
        eot_chunk: keys per vectorized query; memory grows with it.
        evaluations: keys of the final evaluation, decided by majority vote.
        first_index: index of the first image in the data set, if attacked in batches.

    Returns:
        The attacked images. ``queries`` is ``steps * eot_samples`` for each restart,
        ``eot_samples`` more if iterates are compared (`keep_best` or restarts), and
        ``evaluations``; twice that if a last iterate that was returned without
        comparison has logits that are not finite.

    Raises:
        ValueError: an invalid setting, by name; wrong shapes or dtypes; a pixel not
            in [0, 1] or a label not in [0, classes), with index and value. Traced
            values (under `jax.jit`) are not checked.
        TypeError: images or labels that are not arrays, or a key that is not a JAX key.

    References:
        Madry et al. 2018, "Towards deep learning models resistant to adversarial
        attacks", section 2.1.

    Example:
        >>> import attacks, jax, jax.numpy as jnp
        >>> def brightness(images, key):  # two classes: dark and light
        ...     return (images.mean((1, 2, 3)) - 0.5)[:, None] * jnp.array([-1, 1])
        >>> images, labels = jnp.full((1, 8, 8, 3), 0.51), jnp.array([1])
        >>> attacked = attacks.pgd(brightness, images, labels, jax.random.key(0))
        >>> print(attacked.success)
        [ True]
        >>> print(f"{jnp.abs(attacked.images - images).max() * 255:.1f}")
        8.0
        >>> attacked = attacks.fgsm(brightness, images, labels, jax.random.key(0))
        >>> print(f"{(attacked.images - images).max() * 255:.1f}")
        -8.0
        >>> attacks.mi_fgsm(brightness, images, labels, jax.random.key(0)).success
        Array([ True], dtype=bool)
    """
    inputs.require_finite(epsilon=epsilon)
    inputs.require_choice("norm", norm, norms.NORMS)
    if not callable(step_size):
        inputs.require_positive(step_size=step_size)
    inputs.require_at_least(0, steps=steps)
    inputs.require_at_least(1, restarts=restarts)
    sampling = make_sampling(eot_samples, eot_chunk, evaluations)
    images, labels, _ = inputs.checked(logits_fn, images, labels, key, targets)
    goal = make_goal(loss, labels, targets)
    better = preference(randomized=sampling.randomized)
    oracle = partial(query, logits_fn, goal, sampling=sampling)
    rule = _rule(images, epsilon, step_size, norm, momentum)
    climb = partial(
        ascend, oracle, rule, steps=steps, prefers=better if keep_best else latest
    )

    def start_of(key: PRNGKeyArray) -> tuple[Array, PRNGKeyArray]:
        start_key, query_key = jax.random.split(key)
        start = images
        if random_start:
            keys = image_keys(start_key, first_index, images)
            start = norms.random_in_ball(keys, images, epsilon, norm)
        return start, query_key

    def run(best: Best, key: PRNGKeyArray) -> tuple[Best, None]:
        _, found = climb(*start_of(key))
        return merge(best, found, better), None

    # The first run splits the key, which folds in 0 and 1; 2 is the evaluation's.
    key, fold_in = mappable(key), jax.vmap(jax.random.fold_in, (None, 0))
    final_key = jax.random.fold_in(key, 2)
    if restarts == 1 and not keep_best:
        end, best = climb(*start_of(key), query_last=False)
        return finish_last_iterate(
            logits_fn,
            goal,
            end,
            merge(initial_best(images), best, latest),
            final_key,
            evaluations=evaluations,
            queries=steps * eot_samples,
        )
    keys = jnp.concatenate([key[None], fold_in(key, 2 + jnp.arange(1, restarts))])
    best, _ = jax.lax.scan(run, initial_best(images), keys)
    queries, status = restarts * (steps + 1) * eot_samples, stop_status(best)
    return finish(
        logits_fn, goal, best, final_key, evaluations, queries=queries, status=status
    )


@allow_no_images
@in_working_precision
def fgsm(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    **options: Any,
) -> Attacked:
    r"""The fast gradient sign method: one step to the edge of the ball.

    .. math:: x' = \Pi_B(x + \epsilon\, d(\nabla_x L(f(x), y)))

    Args:
        logits_fn, images, labels, key, epsilon: as in `pgd`.
        options: other options of `pgd` but ``step_size``, ``steps``, ``random_start``
            and ``restarts``.

    Returns:
        The attacked images.

    Raises:
        ValueError, TypeError: as `pgd`.

    References:
        Goodfellow, Shlens and Szegedy 2015, "Explaining and harnessing adversarial
        examples", section 4.
    """
    inputs.require_finite(epsilon=epsilon)
    # A step size must be positive; with epsilon 0 its value does not matter.
    step_size = jnp.where(jnp.asarray(epsilon) > 0, epsilon, 1)
    fixed: dict[str, Any] = dict(step_size=step_size, steps=1, random_start=False)
    return pgd(logits_fn, images, labels, key, epsilon=epsilon, **fixed, **options)


@allow_no_images
@in_working_precision
def mi_fgsm(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    steps: int = 10,
    momentum: Real[ArrayLike, ""] = 1.0,
    **options: Any,
) -> Attacked:
    r"""The momentum iterative method, for attacks that transfer to other networks.

    .. math::
        g_{t+1} = \mu g_t + \frac{\nabla_x L}{\mathrm{mean} |\nabla_x L|}, \qquad
        x_{t+1} = \Pi_B(x_t + \frac{\epsilon}{T} d(g_{t+1}))

    Args:
        logits_fn, images, labels, key, epsilon: as in `pgd`.
        steps: T, >= 1.
        momentum: mu, >= 0.
        options: other options of `pgd`; ``step_size`` is epsilon / T and
            ``random_start`` is False by default.

    Returns:
        The attacked images.

    Raises:
        ValueError, TypeError: as `pgd`.

    References:
        Dong et al. 2018, "Boosting adversarial attacks with momentum", algorithm 1
        (whose L1 norm of the gradient differs from its mean by a constant factor).
    """
    inputs.require_finite(epsilon=epsilon, momentum=momentum)
    inputs.require_at_least(1, steps=steps)
    step_size = jnp.where(jnp.asarray(epsilon) > 0, jnp.asarray(epsilon) / steps, 1)
    options = {"step_size": step_size, "random_start": False, **options}
    options |= {"steps": steps, "momentum": momentum}
    return pgd(logits_fn, images, labels, key, epsilon=epsilon, **options)


def _rule(
    clean: Array,
    epsilon: ArrayLike,
    step_size: StepSize,
    norm: str,
    momentum: ArrayLike | None,
) -> Rule:
    def direction(summed: Array | None, gradient: Array) -> tuple[Array, Array | None]:
        if summed is not None:
            pixels = clean[0].size
            unit = norms.direction(gradient, "l1") * pixels
            summed = gradient = jnp.asarray(momentum, clean.dtype) * summed + unit
        return norms.direction(gradient, norm), summed

    def step(
        summed: Array | None, images: Array, answer: Answer, index: Array
    ) -> tuple[Array, Array | None]:
        assert answer.gradient is not None
        size = step_size(index) if callable(step_size) else step_size
        move, summed = direction(summed, answer.gradient)
        moved = images + jnp.asarray(size, clean.dtype) * move
        return norms.project(moved, clean, epsilon, norm), summed

    none = momentum is None
    return Rule(lambda images: None if none else jnp.zeros_like(images), step)
