"""The record of a training run: JSON lines, and TensorBoard events."""

import json
import pathlib

import numpy as np
from jaxtyping import Array, Num

from train.utils.files import write_whole
from train.utils.optional import require


class MetricWriter:
    """Appends to ``metrics.jsonl`` and to the events in ``tensorboard/``.

    Args:
        folder: of the run.
        last_step: the step after which the run resumes. Lines of later steps, which are
            run again, are dropped.
    """

    def __init__(self, folder: pathlib.Path, last_step: int):
        self._path = folder / "metrics.jsonl"
        _drop_after(self._path, last_step)
        self._events = require("tensorboardX").SummaryWriter(
            str(folder / "tensorboard"), purge_step=last_step + 1
        )

    def write(self, step: int, **values: float) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def show(
        self, step: int, name: str, images: Num[np.ndarray | Array, "n h w c"]
    ) -> None:
        """Adds images to the events, side by side: bytes, or floats in [0, 1]."""
        row = np.concatenate(images, axis=1)
        if row.dtype != np.uint8:
            row = np.round(255 * np.clip(row, 0, 1)).astype(np.uint8)
        self._events.add_image(name, row, step, dataformats="HWC")
        self._events.flush()

    def close(self) -> None:
        self._events.close()


def _drop_after(path: pathlib.Path, last_step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= last_step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # cut off when the run was stopped
    write_whole(path, "".join(kept).encode())
