"""A network's predictions for pictures before and after purification."""

import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from train.files import codecs
from train.files.pictures import Source
from train.networks.checking import check_logits
from train.networks.classifier import Classifier
from train.present.table import Column, Table
from train.utils.errors import UserError

BATCH = 64


def classified(network: Classifier, sources: Sequence[Source]) -> Table:
    """The predicted classes, a row for each picture that was purified.

    Pictures are read as they lie in their files; grey ones are given as RGB.

    Raises:
        UserError: if the network does not take pictures of such a size.
    """
    there = [source for source in sources if source.target.is_file()]
    before = _predictions(network, [source.path for source in there])
    after = _predictions(network, [source.target for source in there])
    names = [source.name for source in there]
    columns = (
        Column("picture", words=True),
        Column("class before", words=True),
        Column("purified", words=True),
    )
    return Table(network.title, columns, tuple(zip(names, before, after, strict=True)))


def _predictions(network: Classifier, paths: Sequence[pathlib.Path]) -> list[str]:
    by_shape: dict[tuple[int, ...], list[int]] = {}
    images = [_rgb(path) for path in paths]
    for number, pixels in enumerate(images):
        by_shape.setdefault(pixels.shape, []).append(number)
    found = [""] * len(paths)
    for group in by_shape.values():
        for start in range(0, len(group), BATCH):
            piece = group[start : start + BATCH]
            logits = check_logits(
                network.name,
                network.logits,
                network.source,
                jnp.stack([images[number] for number in piece]),
            )
            names = network.class_names
            if names and logits.shape[1] != len(names):
                raise UserError(
                    f"{network.name} returns {logits.shape[1]} logits an image; there "
                    f"are {len(names)} names ({names[0]}, ...)"
                )
            for number, row in zip(piece, logits, strict=True):
                found[number] = network.class_name(int(row.argmax()))
    return found


def _rgb(path: pathlib.Path) -> np.ndarray:
    """A picture's colours, float32 ``[h, w, 3]`` in [0, 1]."""
    pixels = codecs.decode(path.read_bytes()).pixels
    if pixels.dtype == np.uint8:
        pixels = pixels.astype(np.float32) / 255
    if pixels.shape[-1] in (2, 4):
        pixels = pixels[..., :-1]
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
