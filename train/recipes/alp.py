"""Adversarial logit pairing (Kannan et al.)."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from splic_jax.fields import require_number
from train.recipes.base import Batch, Forward, LossOf
from train.recipes.losses import cross_entropy
from train.recipes.pgd import PGD


@dataclasses.dataclass(frozen=True)
class LogitPairing(PGD):
    r"""Cross-entropy of clean and attacked images, and the distance of their logits.

    .. math::
        \tfrac{1}{2} (L(z, y) + L(z', y)) + \lambda\, \mathrm{mean} (z - z')^2

    with the logits z of the images and z' of PGD's images, both in one batch
    (mixed-minibatch PGD), and the mean over all logits, as in their code. Engstrom et
    al. 2018 found that it mostly masks PGD's gradient: test with restarts and other
    attacks.

    Attributes:
        epsilon, step_size, steps: as in `PGD`.
        pairing: lambda; >= 0.

    References:
        Kannan, Kurakin and Goodfellow 2018, "Adversarial logit pairing", section 3.
    """

    pairing: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "pairing", "[0, inf)")

    def loss(self, forward: Forward, batch: Batch, key: PRNGKeyArray) -> LossOf:
        images, attacked, labels = batch
        logits = forward(jnp.concatenate([images, attacked]), key).logits
        clean, moved = jnp.split(logits, 2)
        distance = jnp.square(clean - moved).mean()
        loss = cross_entropy(logits, jnp.concatenate([labels, labels]))
        return loss + self.pairing * distance, moved
