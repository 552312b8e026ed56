"""Training on the images as they come."""

import dataclasses

from jaxtyping import Array, Float, PRNGKeyArray

from train.recipes.base import Forward, Frozen, Images, Labels, Logits, LossOfAttacked


@dataclasses.dataclass(frozen=True)
class Vanilla(LossOfAttacked):
    """The cross-entropy of the images, which nobody attacks."""

    def craft(
        self, frozen: Frozen, images: Images, labels: Labels, key: PRNGKeyArray
    ) -> Images:
        del frozen, labels, key
        return images

    def loss(
        self,
        forward: Forward,
        images: Images,
        attacked: Images,
        labels: Labels,
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], Logits]:
        return super().loss(forward, images, images, labels, key)
