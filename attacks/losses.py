r"""The losses that attacks maximize, per image: functions of the logits.

Write z for the logits of an image, y for its label, t for a target class and
:math:`z_{\pi_1} \ge z_{\pi_2} \ge \dots` for the logits sorted. An untargeted loss is
called as ``loss(logits, labels)``, a targeted one as ``loss(logits, labels, targets)``;
both return one value per image, which is larger the closer the attack is to its goal.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Integer

Logits = Float[Array, "n classes"]
Classes = Integer[Array, " n"]
Losses = Float[Array, " n"]

# Untargeted or targeted.
Loss = Callable[..., Losses]

# An untargeted loss and its targeted counterpart.
LossPair = tuple[Loss, Loss]


def cross_entropy(logits: Logits, labels: Classes) -> Losses:
    r""":math:`-\log \mathrm{softmax}(z)_y`, in nats (Goodfellow et al. 2015)."""
    nats: Array = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    return nats


def margin(logits: Logits, labels: Classes) -> Losses:
    r""":math:`\max_{i \ne y} z_i - z_y`, positive where the image is misclassified.

    The negative of Carlini and Wagner 2017's f6, without the confidence.
    """
    return _largest_other(logits, labels) - of_class(logits, labels)


def dlr(logits: Logits, labels: Classes) -> Losses:
    r"""Difference of logits ratio, invariant to the scale of the logits.

    .. math:: -\frac{z_y - \max_{i \ne y} z_i}{z_{\pi_1} - z_{\pi_3}}

    Needs three classes. The denominator is at least 1e-12. Croce and Hein 2020,
    "Reliable evaluation of adversarial robustness", eq. (6).

    Raises:
        ValueError: on fewer than three classes.
    """
    ordered = _sorted(logits, least=3)
    return margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def targeted_cross_entropy(logits: Logits, labels: Classes, targets: Classes) -> Losses:
    r""":math:`\log \mathrm{softmax}(z)_t`, in nats, at most 0."""
    del labels
    return -cross_entropy(logits, targets)


def targeted_margin(logits: Logits, labels: Classes, targets: Classes) -> Losses:
    r""":math:`z_t - \max_{i \ne t} z_i`, positive where the target is predicted.

    The negative of Carlini and Wagner 2017's f6.
    """
    del labels
    return -margin(logits, targets)


def targeted_difference(logits: Logits, labels: Classes, targets: Classes) -> Losses:
    r""":math:`z_t - z_y`, positive where the target outscores the label.

    Gowal et al. 2019, "An alternative surrogate loss for PGD-based adversarial
    testing".
    """
    return of_class(logits, targets) - of_class(logits, labels)


def targeted_dlr(logits: Logits, labels: Classes, targets: Classes) -> Losses:
    r"""The targeted difference of logits ratio.

    .. math:: -\frac{z_y - z_t}{z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2}

    Needs four classes. The denominator is at least 1e-12. Croce and Hein 2020, eq. (7).

    Raises:
        ValueError: on fewer than four classes.
    """
    ordered = _sorted(logits, least=4)
    gap = targeted_difference(logits, labels, targets)
    return gap / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12)


CROSS_ENTROPY: LossPair = (cross_entropy, targeted_cross_entropy)
MARGIN: LossPair = (margin, targeted_margin)


def kl_from(reference: Logits) -> Loss:
    r"""The divergence of the prediction from a reference, whatever the label.

    .. math:: \mathrm{KL}(\mathrm{softmax}(r) \| \mathrm{softmax}(z))

    The loss of the attack in TRADES (Zhang et al. 2019, eq. 3). Its gradient is zero at
    z = r, so the attack needs a random start.

    Args:
        reference: logits r of the clean images ``[n, classes]``, a constant.

    Returns:
        ``loss(logits, labels)``; the labels are not used.
    """
    reference = jax.lax.stop_gradient(reference)

    def kl(logits: Logits, labels: Classes) -> Losses:
        del labels
        nats: Array = optax.losses.kl_divergence(
            jax.nn.log_softmax(logits), jax.nn.softmax(reference)
        )
        return nats

    return kl


def of_class(logits: Logits, classes: Classes) -> Losses:
    """The logit of the given class, for each image."""
    return jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]


def is_class(logits: Logits, classes: Classes) -> Bool[Array, "n classes"]:
    """The one-hot mask of the given class, for each image."""
    return jnp.arange(logits.shape[1])[None] == classes[:, None]


def likeliest_others(
    logits: Logits, labels: Classes, count: int
) -> Integer[Array, "count n"]:
    """The `count` classes other than the label with the highest logits, in order.

    Ties go to the lower class index; NaN comes last.
    """
    order = jnp.lexsort((-logits, is_class(logits, labels)), axis=1)
    return order[:, :count].T.astype(labels.dtype)


def _largest_other(logits: Array, labels: Array) -> Array:
    return jnp.where(is_class(logits, labels), -jnp.inf, logits).max(axis=1)


def _sorted(logits: Array, least: int) -> Array:
    if logits.shape[1] < least:
        raise ValueError(
            f"this loss compares {least} logits, logits_fn has {logits.shape[1]} "
            "classes; use the margin or the cross-entropy"
        )
    return -jnp.sort(-logits, axis=1)
