"""Figures of pictures with what a network says of them."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from train.utils.errors import UserError
from train.utils.files import written_whole

# Okabe and Ito's bluish green and vermilion: told apart by the colour-blind too.
RIGHT, WRONG = "#007a5a", "#d55e00"


class Row(NamedTuple):
    """Pictures of one kind, and the class a network gives each."""

    title: str
    images: Float[np.ndarray, "n h w c"]
    predicted: Int[np.ndarray, " n"]


def picture_grid(
    rows: Sequence[Row],
    labels: Int[np.ndarray, " n"],
    class_names: Sequence[str],
    path: str | os.PathLike[str],
    *,
    caption: str = "",
) -> None:
    """Draws one row for each kind and one column for each picture, as a PNG.

    Args:
        rows: the pictures, floats in [0, 1], and their predictions.
        labels: the right answers.
        class_names: name of each class.
        path: the file to write; whole or not at all.
        caption: a sentence or two below the pictures.

    Raises:
        UserError: if the file cannot be written.
    """
    path = pathlib.Path(path)
    columns = len(labels)
    inch = 1.05
    with matplotlib.rc_context({"font.size": 9, "font.family": "DejaVu Sans"}):
        figure = Figure(
            figsize=(inch * columns + 1.2, (inch + 0.22) * len(rows) + 0.65),
            layout="constrained",
        )
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, row in zip(axes, rows, strict=True):
            line[0].set_ylabel(
                row.title, rotation=0, ha="right", va="center", fontweight="bold"
            )
            for axis, image, predicted, label in zip(
                line, row.images, row.predicted, labels, strict=True
            ):
                axis.imshow(np.clip(image, 0, 1), interpolation="nearest")
                axis.set_xticks([])
                axis.set_yticks([])
                right = predicted == label
                mark = "\N{CHECK MARK}" if right else "\N{BALLOT X}"
                axis.set_xlabel(
                    f"{mark} {class_names[predicted]}",
                    color=RIGHT if right else WRONG,
                    labelpad=2,
                )
                for spine in axis.spines.values():
                    spine.set(color=RIGHT if right else WRONG, linewidth=2)
        figure.supxlabel(caption, fontsize=8.5, color="#333333")
        try:
            with written_whole(path) as temporary:
                figure.savefig(temporary, format="png", dpi=110)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
