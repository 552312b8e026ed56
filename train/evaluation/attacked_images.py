"""Attacked images on disk, as 8-bit files hold them: PNG files, and .npz files.

    DIR/none/white-box/fgsm-l-inf-8-255-rounded-to-8-bits.npz
    DIR/none/white-box/fgsm-l-inf-8-255-rounded-to-8-bits/00000.png

The arrays of an .npz are the `images`, uint8 [n, h, w, c], their `labels`, whether each
was classified as `correct`, and `about`, JSON that says what they come from. A PNG file
is named after the image's place in the data set.
"""

import dataclasses
import io
import json
import pathlib
import re
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from train.evaluation.plan import Name
from train.files.codecs import Picture, encode
from train.utils.errors import UserError
from train.utils.files import digest_of, write_whole


@dataclasses.dataclass(frozen=True)
class AttackedImages:
    """A folder for the attacked images of an evaluation.

    Attributes:
        folder: where they go; made where it is missing.
        about: what all cells depend on: data set, network, seed.
        defenses: the settings of each defence by name, as plain values.
    """

    folder: pathlib.Path
    about: Mapping[str, Any]
    defenses: Mapping[str, Any]

    def require_free(self, names: Iterable[Name]) -> None:
        """Refuses a folder that holds another evaluation's files under these names.

        Raises:
            UserError: naming the file.
        """
        for name in sorted(names):
            path = self._path(name)
            if path.exists():
                mine = _about(path) == self._about_cell(name)
            else:
                mine = not any(path.with_suffix("").glob("*"))
                path = path.with_suffix("")
            if not mine:
                raise UserError(
                    f"{path} is not of this evaluation; give another --save_attacked"
                )

    def holds(self, cell: Mapping[str, Any]) -> bool:
        """Whether the file that a cell's summary names is there, unchanged."""
        path = self.folder / cell["saved"]["file"]
        pictures = path.with_suffix("")
        try:
            return digest_of(path) == cell["saved"]["sha256"] and all(
                (pictures / _picture_name(i)).is_file() for i in range(cell["count"])
            )
        except OSError:
            return False

    def write(
        self,
        name: Name,
        images: UInt8[np.ndarray, "n h w c"],
        labels: Integer[np.ndarray, " n"],
        correct: Bool[np.ndarray, " n"],
    ) -> dict[str, str]:
        """Writes the images of a cell.

        Returns:
            The path of the .npz file below the folder, and its SHA-256, for the record.

        Raises:
            UserError: where they cannot be written.
        """
        path, file = self._path(name), io.BytesIO()
        about = np.array(json.dumps(self._about_cell(name), sort_keys=True))
        arrays = {"images": images, "labels": labels, "correct": correct}
        np.savez_compressed(file, **arrays, about=about)
        try:
            write_whole(path, file.getvalue())
            for index, pixels in enumerate(images):
                picture = path.with_suffix("") / _picture_name(index)
                write_whole(picture, encode(Picture(pixels), picture))
            digest = digest_of(path)
        except OSError as error:
            where = error.filename or path
            raise UserError(
                f"cannot write {where}: {error.strerror}; give another --save_attacked"
            ) from error
        return {"file": path.relative_to(self.folder).as_posix(), "sha256": digest}

    def _path(self, name: Name) -> pathlib.Path:
        defense, threat, attack = name
        plain = re.sub("[^a-z0-9.]+", "-", attack.lower()).strip("-")
        return self.folder / defense / threat / f"{plain}.npz"

    def _about_cell(self, name: Name) -> dict[str, Any]:
        defense, threat, attack = name
        cell = {"defense": defense, "threat": threat, "attack": attack}
        settings = {"defense_settings": self.defenses.get(defense)}
        found: dict[str, Any] = json.loads(
            json.dumps({**self.about, **cell, **settings})
        )
        return found


def _picture_name(index: int) -> str:
    return f"{index:05d}.png"


def _about(path: pathlib.Path) -> Any:
    """The description in an .npz file of attacked images; None for another file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return json.loads(str(arrays["about"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
