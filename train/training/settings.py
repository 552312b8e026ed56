"""The settings of a training run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from splic_jax import method_of
from splic_jax.transforms import TransformConfig, as_dict, from_dict
from train import models, recipes

COMPUTE_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What a training run does with its images.

    Attributes:
        model: one of `train.models.NAMES`.
        defense: None trains on the images as they are; settings of a transform, such as
            a `SPLICConfig`, on images transformed with it.
        masks_per_image: how many transformed versions of each image there are; every
            epoch draws one of them at random. 1 without a defense, and where images are
            transformed anew in each step.
        epochs: passes over the training images.
        batch_size: images in a step.
        learning_rate: at the first step; it falls to 0 along half a cosine.
        momentum: Nesterov momentum of SGD; in [0, 1).
        weight_decay: L2 penalty's factor in the gradient.
        seed: of the initial weights, the order, the augmentation, the masks and the
            attacks.
        compute_dtype: "float32", or "bfloat16" for the convolutions and what is between
            them; parameters, batch statistics, loss and optimizer stay float32.
        texture_bias: how the "shapes" images were drawn; recorded, not used.
        keep_range: the keep probability of the first and the last version, with those
            between spread evenly (ME-Net's recipe); that of `defense`, which tests use,
            is their mean. None for one keep probability, that of `defense`.
        initial_weights: SHA-256 of the weights that training starts from; None draws
            them from `seed`.
        adversarial: the recipe, of `train.recipes`: how batches are attacked, and the
            loss.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    model: str = "small"
    defense: TransformConfig | None = None
    masks_per_image: int = 1
    epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0
    compute_dtype: str = "float32"
    texture_bias: float | None = None
    keep_range: tuple[float, float] | None = None
    initial_weights: str | None = None
    adversarial: recipes.Recipe = recipes.RECIPES["none"]

    def __post_init__(self) -> None:
        if self.model not in models.NAMES:
            raise ValueError(
                f"model must be one of {', '.join(models.NAMES)}, got {self.model!r}"
            )
        if self.compute_dtype not in COMPUTE_DTYPES:
            raise ValueError(
                f"compute_dtype must be one of {', '.join(COMPUTE_DTYPES)}, got "
                f"{self.compute_dtype!r}"
            )
        for name in ("masks_per_image", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        recipes.name_of(self.adversarial)  # refuses what is none
        if self.defense is not None:
            method_of(self.defense)
        if self.masks_per_image != 1:
            if self.defense is None:
                raise ValueError("masks_per_image must be 1 where defense is none")
            if not method_of(self.defense).random:
                raise ValueError("masks_per_image must be 1 where defense draws none")
            if self.defends_in_step:
                raise ValueError(
                    "masks_per_image must be 1 where every step transforms its images "
                    "anew, as adversarial training does"
                )
        if self.keep_range is not None:
            self._check_keep_range(*self.keep_range)
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay must be 0 or more, got {self.weight_decay}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be in [0, 2^31), got {self.seed}")

    @property
    def defends_in_step(self) -> bool:
        """Whether images are transformed in each step, not once for all epochs.

        They are if the step attacks them, or if the transform returns codes with
        another number of channels.
        """
        return self.defense is not None and (
            recipes.name_of(self.adversarial) != "none" or self.input_channels(3) != 3
        )

    def input_channels(self, channels: int) -> int:
        """Returns the network's number of channels, given that of the images."""
        if self.defense is None:
            return channels
        return method_of(self.defense).channels(self.defense, channels)

    def keep_probabilities(self) -> tuple[float, ...]:
        """Returns the keep probability of each version, where `keep_range` spreads it.

        Raises:
            TypeError: if it does not.
        """
        first, last = self.keep_range
        steps = self.masks_per_image - 1
        return tuple(first + (last - first) * i / steps for i in range(steps + 1))

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values, with the names of the transform and the recipe."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["defense"] = self.defense and as_dict(self.defense)
        values["adversarial"] = recipes.as_dict(self.adversarial)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainSettings":
        """The inverse of `as_dict`; a record of an older version lacks some fields."""
        values = dict(values)
        if values.get("defense") is not None:
            values["defense"] = from_dict(values["defense"])
        if values.get("keep_range") is not None:
            values["keep_range"] = tuple(values["keep_range"])
        if "adversarial" in values:
            values["adversarial"] = recipes.from_dict(values["adversarial"])
        return cls(**values)

    def _check_keep_range(self, first: float, last: float) -> None:
        if not 0 < min(first, last) <= max(first, last) <= 1:
            raise ValueError(f"keep_range must be in (0, 1], got {first}, {last}")
        if self.masks_per_image < 2:
            raise ValueError("keep_range must be None where masks_per_image is 1")
        kept = getattr(self.defense, "keep_probability", None)
        if kept is None:
            raise ValueError("keep_range must be None where defense keeps no pixels")
        for probability in self.keep_probabilities():
            dataclasses.replace(self.defense, keep_probability=probability)
        if abs(kept - (first + last) / 2) > 1e-9:
            raise ValueError(
                f"keep_range must have the keep probability of defense, {kept}, for "
                f"its mean, got {first}, {last}"
            )
