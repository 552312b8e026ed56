"""Adversarial training with PGD (Madry et al.)."""

import dataclasses

from jaxtyping import PRNGKeyArray

import attacks
from attacks.losses import Loss
from splic_jax.fields import require_integer, require_number
from train.recipes.base import Frozen, Images, Labels
from train.recipes.losses import LossOfAttacked, require_epsilon


@dataclasses.dataclass(frozen=True)
class PGD(LossOfAttacked):
    r"""The cross-entropy of the images that PGD makes of the batch.

    .. math:: \min_\theta E \max_{\|x' - x\|_\infty \le \epsilon} L(f_\theta(x'), y)

    Attributes:
        epsilon: radius in pixel values, images being in [0, 1].
        step_size: of a step of PGD, in pixel values; > 0.
        steps: from a random start; >= 1.

    References:
        Madry et al. 2018, "Towards deep learning models resistant to adversarial
        attacks".
    """

    epsilon: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 7

    def __post_init__(self) -> None:
        require_epsilon(self)
        require_number(self, "step_size", "(0, 1]")
        require_integer(self, "steps")

    def craft(
        self, frozen: Frozen, images: Images, labels: Labels, key: PRNGKeyArray
    ) -> Images:
        return self.attacked(frozen, images, labels, key)

    def attacked(
        self,
        frozen: Frozen,
        images: Images,
        labels: Labels,
        key: PRNGKeyArray,
        loss: Loss | None = None,
    ) -> Images:
        """What PGD makes of the images, on the cross-entropy or on another loss."""
        settings = {"epsilon": self.epsilon, "step_size": self.step_size}
        batch = (frozen.network, images, labels, key)
        return attacks.pgd(*batch, **settings, steps=self.steps, loss=loss).images
