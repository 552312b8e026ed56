"""Purifies images piece by piece, and measures how far they moved."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, Shaped

import splic_jax
from splic_jax import SPLICConfig, purify
from splic_jax.keys import GENERATOR, generator
from splic_jax.layout.batches import NotFiniteError
from splic_jax.purification import default_chunk_size
from train.utils.devices import spread
from train.utils.errors import UserError
from train.utils.quality import Quality, quality

# The keys of masks in records that do not name them: JAX's default.
_UNRECORDED = {"key_type": GENERATOR, "jax_threefry_partitionable": True}


def comparable(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description of `Purifier`, made now or recorded, to be compared with others.

    The default kind of keys is left out, since older records do not name it.
    """
    description = dict(description)
    if description.get("masks") == _UNRECORDED:
        del description["masks"]
    return description


def require_same_masks(
    where: pathlib.Path, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    """Refuses to resume an output that was begun with another kind of random keys.

    Args:
        where: the output that was begun.
        found, wanted: descriptions of `Purifier`, from the record and from now.

    Raises:
        UserError: naming both kinds of keys.
    """
    begun, now = (d.get("masks", _UNRECORDED) for d in (found, wanted))
    if begun == now:
        return
    kinds = [
        f"{kind['key_type']} keys"
        + ("" if kind["jax_threefry_partitionable"] else " (not partitionable)")
        for kind in (begun, now)
    ]
    raise UserError(
        f"{where} was begun with masks from {kinds[0]}, but JAX is now set to "
        f"{kinds[1]}, which draw others; give another --output, or restore the setting"
    )


class Purified(NamedTuple):
    """A purified piece.

    Attributes:
        images: of the shape, dtype and range of the input; alpha as it was.
        psnr: of each image's colours against the input's, in dB; None if none changed.
        ssim: likewise; None for images smaller than its window of 11 x 11 pixels.
    """

    images: Shaped[np.ndarray, "n h w c"]
    psnr: list[float | None]
    ssim: list[float | None]


@dataclasses.dataclass
class Tally:
    """What a run did.

    Attributes:
        done: images purified.
        before: images found done by an earlier run.
        failed: pictures that could not be read, purified or written.
        seconds: that purifying took.
        psnr: of each image, done now or before, where it has one.
        ssim: likewise.
    """

    done: int = 0
    before: int = 0
    failed: int = 0
    seconds: float = 0.0
    psnr: list[float] = dataclasses.field(default_factory=list)
    ssim: list[float] = dataclasses.field(default_factory=list)

    def add_quality(self, entry: Mapping[str, Any]) -> None:
        """Adds an image by its line in the record."""
        for name, values in (("psnr", self.psnr), ("ssim", self.ssim)):
            if entry.get(name) is not None:
                values.append(entry[name])


@dataclasses.dataclass(frozen=True)
class Purifier:
    """Purifies pieces of a set of images.

    Attributes:
        config: the settings of the completion.
        seed: of the masks.
        batch: images processed at a time; None chooses from shape and platform.
    """

    config: SPLICConfig
    seed: int = 0
    batch: int | None = None

    def description(self) -> dict[str, Any]:
        """Everything but the input that the result depends on, as JSON has it."""
        return {
            "splic_jax": splic_jax.__version__,
            "seed": self.seed,
            "config": dataclasses.asdict(self.config),
            "masks": generator(self.key),
        }

    @property
    def key(self) -> Key[Array, ""]:
        """The key of the masks, of the type that JAX is set to."""
        return jax.random.key(self.seed)

    def piece_size(self, shape: tuple[int, int, int]) -> int:
        """Images of this shape in a piece; never depends on how many there are."""
        platform = jax.default_backend()
        return self.batch or default_chunk_size(shape, platform, self.config)

    def __call__(
        self, images: Shaped[np.ndarray, "n h w c"], indices: Int[np.ndarray, " n"]
    ) -> Purified:
        """Purifies up to `piece_size` images, with the masks of `indices`.

        Compiles once for each shape: a short piece is padded with its last image.

        Raises:
            NotFiniteError: for images that are not finite once purified.
            ValueError: for images or settings that `purify` does not take.
        """
        # JAX takes no byte order but the machine's.
        inputs = images.astype(images.dtype.newbyteorder("="))
        filling = self.piece_size(images.shape[1:]) - len(images)
        inputs = np.concatenate([inputs, np.repeat(inputs[-1:], filling, axis=0)])
        devices = spread()
        try:
            purified = purify(
                inputs,
                self.key,
                self.config,
                chunk_size=None if devices else len(inputs),
                indices=np.concatenate([indices, np.repeat(indices[-1:], filling)]),
                devices=devices,
                check_finite=True,
            )
        except NotFiniteError as error:
            bad = [number for number in error.images if number < len(images)]
            raise NotFiniteError(bad) from None
        psnr, ssim = jax.device_get(_quality(inputs, purified))
        result = np.array(purified)[: len(images)].astype(images.dtype)
        if images.shape[-1] in (2, 4):
            result[..., -1] = images[..., -1]  # to the bit, whatever JAX's precision
        return Purified(
            result,
            [_number(value) for value in psnr[: len(images)]],
            [_number(value) for value in ssim[: len(images)]],
        )


@jax.jit
def _quality(
    before: Shaped[Array, "n h w c"], after: Shaped[Array, "n h w c"]
) -> Quality:
    channels = before.shape[-1]
    colours = channels - (channels in (2, 4))
    scale = 255 if before.dtype == jnp.uint8 else 1
    before, after = (
        x[..., :colours].astype(jnp.float32) / scale for x in (before, after)
    )
    return quality(after, before)


def _number(value: np.floating) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None
