"""Training on the images as they come."""

import dataclasses

from jaxtyping import PRNGKeyArray

from train.recipes.base import Batch, Forward, Frozen, Images, Labels, LossOf
from train.recipes.losses import LossOfAttacked


@dataclasses.dataclass(frozen=True)
class Vanilla(LossOfAttacked):
    """The cross-entropy of the images, which nobody attacks."""

    def craft(
        self, frozen: Frozen, images: Images, labels: Labels, key: PRNGKeyArray
    ) -> Images:
        del frozen, labels, key
        return images

    def loss(self, forward: Forward, batch: Batch, key: PRNGKeyArray) -> LossOf:
        return super().loss(forward, batch._replace(attacked=batch.images), key)
