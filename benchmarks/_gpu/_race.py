"""The work that attacks are timed at, and the order in which that is done."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

EPSILON, STEP_SIZE = 8 / 255, 2 / 255
CONFIDENCE, LEARNING_RATE = 20.0, 0.005
_REPEATS, _ENOUGH = 5, 0.5  # runs of a row, and seconds after which there are no more


class Work(NamedTuple):
    """One attack with its settings; the images are where it starts.

    Attributes:
        kind: "pgd" or "cw".
        steps: of PGD, or of Adam for each constant.
        constants: how many of C&W's; 1 for PGD.
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
        """One that is tried alone is to do more than the first of several."""
        return 1.0 if self.constants == 1 else 0.01

    @property
    def beginning(self) -> "Work":
        """As little of it as there is of everything, to warm up with."""
        return self._replace(steps=2, constants=min(self.constants, 2))

    @property
    def gradients(self) -> int:
        """How many a run of it asks for."""
        return self.steps * self.constants


FULL = Work("pgd", 7), Work("pgd", 50), Work("cw", 50), Work("cw", 50, 5)
TOY = Work("pgd", 3), Work("cw", 3), Work("cw", 3, 2)


class Entry(NamedTuple):
    """A library at some work.

    Attributes:
        library: which, and how it is set.
        work: what.
        images: how many at once.
        warm: compiles what a run needs, or what else there is to be done once.
        run: does the work, and returns when it is done.
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
    """Times entries, the least work first, as long as there is time.

    Args:
        entries: what to time, in any order.
        seconds: how many are left. A library whose earlier rows say that the next one
            takes longer does not start it.
        add: takes each row: the seconds of some runs, or why there are none.
    """
    pace: dict[tuple[str, int], float] = {}  # seconds for a gradient
    for entry in sorted(entries, key=lambda e: e.work.gradients * e.images):
        row: dict[str, Any] = {
            "work": entry.work.name,
            "library": entry.library,
            "images": entry.images,
        }
        # One gradient of more images takes longer, so this is too little, if anything.
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
        except Exception as error:  # also a result, and the others are to have theirs
            add({**row, "error": f"{type(error).__name__}: {error}"[:500]})
            continue
        median = float(np.median(taken))
        pace[entry.library, entry.images] = median / entry.work.gradients
        add({**row, "seconds": taken, "images_per_second": entry.images / median})


def with_ratios(rows: Sequence[Mapping[str, Any]], reference: str) -> list[Any]:
    """The rows, with their time as a multiple of the reference's at the same work."""
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
