"""Fast adversarial training: one large step from a random start (Wong et al.)."""

import dataclasses

from jaxtyping import PRNGKeyArray

import attacks
from splic_jax.fields import require_number
from train.recipes.base import Frozen, Images, Labels
from train.recipes.losses import LossOfAttacked, require_epsilon


@dataclasses.dataclass(frozen=True)
class Fast(LossOfAttacked):
    """As `PGD` with a single step, at about twice the cost of no attack at all.

    Trained for long, or at a larger epsilon, it may learn to resist that one step and
    nothing else ("catastrophic overfitting"): check the result with PGD.

    Attributes:
        epsilon: radius in pixel values, images being in [0, 1].
        step_ratio: the step in units of epsilon; > 0.

    References:
        Wong, Rice and Kolter 2020, "Fast is better than free: revisiting adversarial
        training", algorithm 3 (10/255 for an epsilon of 8/255).
    """

    epsilon: float = 8 / 255
    step_ratio: float = 1.25

    def __post_init__(self) -> None:
        require_epsilon(self)
        require_number(self, "step_ratio", "(0, inf)")

    def craft(
        self, frozen: Frozen, images: Images, labels: Labels, key: PRNGKeyArray
    ) -> Images:
        if not self.epsilon:
            return images
        step = self.step_ratio * self.epsilon
        batch = (frozen.network, images, labels, key)
        attacked = attacks.pgd(*batch, epsilon=self.epsilon, step_size=step, steps=1)
        return attacked.images
