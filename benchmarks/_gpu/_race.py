"""The attacks that libraries are timed on, and the order of timing."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

EPSILON, STEP_SIZE = 8 / 255, 2 / 255
CONFIDENCE, LEARNING_RATE = 20.0, 0.005
_REPEATS, _ENOUGH = 5, 0.5  # most runs of a row, and seconds after which they stop


class Work(NamedTuple):
    """An attack with its settings, starting at the images.

    Attributes:
        kind: "pgd" or "cw".
        steps: of PGD, or of Adam for each constant.
        constants: number of C&W's constants; 1 for PGD.
    """

    kind: str
    steps: int
    constants: int = 1

    @property
    def name(self) -> str:
        if self.kind == "pgd":
            return f"PGD-{self.steps}"
        return f"C&W, {self.constants} x {self.steps}"

    @property
    def first_constant(self) -> float:
        """C&W's first constant; larger if it is the only one."""
        return 1.0 if self.constants == 1 else 0.01

    @property
    def beginning(self) -> "Work":
        """The shortest work that runs all its code, for the warm-up."""
        return self._replace(steps=2, constants=min(self.constants, 2))

    @property
    def gradients(self) -> int:
        """Number of gradients in a run."""
        return self.steps * self.constants


FULL = Work("pgd", 7), Work("pgd", 50), Work("cw", 50), Work("cw", 50, 5)
TOY = Work("pgd", 3), Work("cw", 3), Work("cw", 3, 2)


class Entry(NamedTuple):
    """A library's implementation of some work.

    Attributes:
        library: its name and settings.
        work: the attack.
        images: batch size.
        warm: compiles what a run needs, and does other work that is done once.
        run: runs the attack, and returns when it is done.
    """

    library: str
    work: Work
    images: int
    warm: Callable[[], Any]
    run: Callable[[], Any]


def drawn_images(count: int) -> np.ndarray:
    """Float32 images in [0, 1], ``[count, 32, 32, 3]``, the same in every process."""
    return np.random.default_rng(0).random((count, 32, 32, 3), np.float32)


def race(
    entries: Iterable[Entry],
    seconds: Callable[[], float],
    add: Callable[[Mapping[str, Any]], None],
) -> None:
    """Times entries, the least work first, until the time is used up.

    Args:
        entries: to be timed, in any order.
        seconds: returns the seconds left. An entry is skipped if its library's earlier
            rows predict that it takes longer.
        add: takes each row: the seconds of each run, or why there are none.
    """
    pace: dict[tuple[str, int], float] = {}  # seconds per gradient
    for entry in sorted(entries, key=lambda e: e.work.gradients * e.images):
        row: dict[str, Any] = {
            "work": entry.work.name,
            "library": entry.library,
            "images": entry.images,
        }
        # Estimated from rows of the same batch size; 0 if there are none.
        known = pace.get((entry.library, entry.images))
        expected = entry.work.gradients * (known or 0)
        if expected * 1.1 > seconds() or seconds() < 1:
            add({**row, "skipped": f"{expected:.1f} s expected"})
            continue
        try:
            start = time.perf_counter()
            entry.warm()
            row["warm_up_seconds"] = time.perf_counter() - start
            taken = _taken(entry.run, seconds)
        except Exception as error:  # a result too; the other entries still run
            add({**row, "error": f"{type(error).__name__}: {error}"[:500]})
            continue
        median = float(np.median(taken))
        pace[entry.library, entry.images] = median / entry.work.gradients
        add({**row, "seconds": taken, "images_per_second": entry.images / median})


def with_ratios(rows: Sequence[Mapping[str, Any]], reference: str) -> list[Any]:
    """The rows, with their time as a multiple of the reference's for the same work."""
    speeds = {
        (row["work"], row["images"]): row["images_per_second"]
        for row in rows
        if row["library"] == reference and "images_per_second" in row
    }

    def extended(row: Mapping[str, Any]) -> Mapping[str, Any]:
        ours = speeds.get((row["work"], row["images"]))
        if ours is None or "images_per_second" not in row:
            return row
        return {**row, "ratio": ours / row["images_per_second"]}

    return [extended(row) for row in rows]


def _taken(run: Callable[[], Any], seconds: Callable[[], float]) -> list[float]:
    taken: list[float] = []
    while len(taken) < _REPEATS and sum(taken) < min(_ENOUGH, seconds()):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    if not taken:
        raise TimeoutError("no time was left after the warm-up")
    return taken
