r"""What an attack makes large, per image: functions of the logits.

Write z for the logits of an image, y for its label, t for a target class and
:math:`z_{\pi_1} \ge z_{\pi_2} \ge \dots` for the logits sorted. An untargeted loss is
called as ``loss(logits, labels)``, a targeted one as ``loss(logits, labels, targets)``;
both return one value for each image and grow as the attacker gets what they want.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Integer

Logits = Float[Array, "n classes"]
Classes = Integer[Array, " n"]
Losses = Float[Array, " n"]

# Untargeted or targeted, as above.
Loss = Callable[..., Losses]

# An untargeted loss, and the targeted one of the same kind.
LossPair = tuple[Loss, Loss]


def cross_entropy(logits: Logits, labels: Classes) -> Losses:
    r""":math:`-\log \mathrm{softmax}(z)_y`, in nats (Goodfellow et al. 2015)."""
    nats: Array = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    return nats


def margin(logits: Logits, labels: Classes) -> Losses:
    r""":math:`\max_{i \ne y} z_i - z_y`, positive where the answer is wrong.

    The negative of the objective f6 of Carlini and Wagner 2017, without its confidence.
    """
    return _largest_other(logits, labels) - of_class(logits, labels)


def dlr(logits: Logits, labels: Classes) -> Losses:
    r"""Difference of logits ratio, which no scaling of the logits changes.

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
    r""":math:`z_t - \max_{i \ne t} z_i`, positive where the target is named.

    The negative of the objective f6 of Carlini and Wagner 2017.
    """
    del labels
    return -margin(logits, targets)


def targeted_difference(logits: Logits, labels: Classes, targets: Classes) -> Losses:
    r""":math:`z_t - z_y`, positive where the target is preferred to the label.

    Gowal et al. 2019, "An alternative surrogate loss for PGD-based adversarial
    testing".
    """
    return of_class(logits, targets) - of_class(logits, labels)


def targeted_dlr(logits: Logits, labels: Classes, targets: Classes) -> Losses:
    r"""The difference of logits ratio towards a target.

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
    r"""A loss that moves the answer away from an earlier one, whatever the label.

    .. math:: \mathrm{KL}(\mathrm{softmax}(r) \| \mathrm{softmax}(z))

    The attack inside TRADES (Zhang et al. 2019, eq. 3). It starts at a point of zero
    slope when z = r: give the attack a random start.

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
    """The logit of one class for each image."""
    return jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]


def is_class(logits: Logits, classes: Classes) -> Bool[Array, "n classes"]:
    """Which logit is that of the class, for each image."""
    return jnp.arange(logits.shape[1])[None] == classes[:, None]


def likeliest_others(
    logits: Logits, labels: Classes, count: int
) -> Integer[Array, "count n"]:
    """The classes of the highest logits but the labels, from the highest on.

    Of equal logits the first class comes first, and NaN last of all.
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
