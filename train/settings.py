"""The settings of a training run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from splic_jax import SPLICConfig
from train import models

COMPUTE_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What a training run does with its images.

    Attributes:
        model: "small" or "resnet18".
        defense: None trains on the images as they are; a `SPLICConfig` on images
            purified with it.
        masks_per_image: how many purified versions of each image there are; every epoch
            draws one of them at random. 1 without a defense.
        epochs: passes over the training images.
        batch_size: images in a step.
        learning_rate: at the first step; it falls to 0 along half a cosine.
        momentum: Nesterov momentum of SGD; in [0, 1).
        weight_decay: L2 penalty's factor in the gradient.
        seed: of the initial weights, the order, the augmentation and the masks.
        compute_dtype: "float32", or "bfloat16" for the convolutions and what is between
            them; parameters, batch statistics, loss and optimizer stay float32.
        texture_bias: how the "shapes" images were drawn; recorded, not used.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    model: str = "small"
    defense: SPLICConfig | None = None
    masks_per_image: int = 1
    epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0
    compute_dtype: str = "float32"
    texture_bias: float | None = None

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
        if self.defense is None and self.masks_per_image != 1:
            raise ValueError("masks_per_image must be 1 where defense is none")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay must be 0 or more, got {self.weight_decay}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be in [0, 2^31), got {self.seed}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainSettings":
        """The inverse of `dataclasses.asdict`."""
        values = dict(values)
        if values.get("defense") is not None:
            values["defense"] = SPLICConfig(**values["defense"])
        return cls(**values)
