"""Losses that recipes share, and the check of their radius."""

from typing import Any

import jax
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from splic_jax.fields import require_number
from train.recipes.base import Batch, Forward, Labels, Logits, LossOf


def cross_entropy(logits: Logits, labels: Labels) -> Float[Array, ""]:
    """The mean over the batch, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


class LossOfAttacked:
    """The loss of recipes that differ only in their attack."""

    def loss(self, forward: Forward, batch: Batch, key: PRNGKeyArray) -> LossOf:
        """The cross-entropy of the attacked images, and their logits."""
        logits = forward(batch.attacked, key).logits
        return cross_entropy(logits, batch.labels), logits


def kl_divergence(reference: Logits, logits: Logits) -> Float[Array, ""]:
    r""":math:`\mathrm{KL}(\mathrm{softmax}(r) \| \mathrm{softmax}(z))`, the mean."""
    return optax.kl_divergence(
        jax.nn.log_softmax(logits), jax.nn.softmax(reference)
    ).mean()


def require_epsilon(recipe: Any) -> None:
    """Raises a `ValueError` unless the recipe's epsilon is a radius."""
    require_number(recipe, "epsilon", "[0, 1]")
