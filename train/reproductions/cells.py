"""A cell to be measured, before it is."""

from typing import NamedTuple

from splic_jax.transforms import TransformConfig


class Wanted(NamedTuple):
    """A cell to be measured.

    Attributes:
        row, column: where it stands.
        network: name of the attacked network, as `networks.training_settings` takes it.
        defense: name of the transform before it, "none" for none.
        config: settings of that transform, or None.
        threat: one of `train.evaluation.cells.THREATS`.
        attack: name of the preset; None where the threat is "clean".
        whole: whether the images on which settings are chosen are in it too.
        costly: whether it asks a defence thousands of times, for fewer images; by
            default adaptive attacks and C&W through a defence.
    """

    row: str
    column: str
    network: str
    defense: str
    config: TransformConfig | None
    threat: str
    attack: str | None = None
    whole: bool = False
    costly: bool | None = None
