"""Intervals and paired comparisons; all of 95 %."""

import math
from typing import Any

import numpy as np
from scipy import stats

from train.evaluation.plan import cell_name


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (SciPy's)."""
    interval = stats.binomtest(correct, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def share_of(correct: int, count: int) -> dict[str, Any]:
    """The share of right answers and its interval, as records have them."""
    return {
        "accuracy": correct / count,
        "accuracy_interval": list(wilson_interval(correct, count)),
    }


def mean_interval(values: np.ndarray) -> dict[str, float]:
    """Mean, and half the width of its 95 % interval by Student's t."""
    if len(values) < 2:
        return {"mean": float(np.mean(values)), "half_width": math.inf}
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return {"mean": float(np.mean(values)), "half_width": float(half)}


def compare(cells: list[dict[str, Any]], ours: str, other: str) -> list[dict[str, Any]]:
    """Paired comparison of two defences, image by image, threat by threat.

    Against the bare network ("none") gray-box is compared with its white-box cell,
    which is the same attack.

    Args:
        cells: summaries of `evaluate`.
        ours: name of a defence.
        other: name of the one to compare it with.

    Returns:
        For each threat and attack both were measured under: the accuracy of both and
        the p-value of McNemar's exact test that they are equally often right, and the
        mean difference in PSNR with the half width of its 95 % interval (None where a
        PSNR is infinite).
    """
    found = {cell_name(cell): cell for cell in cells}
    rows = []
    for (defense, threat, attack), a in found.items():
        twin = "white-box" if other == "none" and threat == "gray-box" else threat
        b = found.get((other, twin, attack))
        if defense != ours or b is None:
            continue
        pairs = list(zip(a["correct_by_image"], b["correct_by_image"], strict=True))
        gained, lost = pairs.count(("1", "0")), pairs.count(("0", "1"))
        test = stats.binomtest(gained, gained + lost) if gained + lost else None
        gap = None
        psnrs = a["psnr_db_by_image"], b["psnr_db_by_image"]
        if all(psnrs) and None not in psnrs[0] + psnrs[1]:
            gap = mean_interval(np.subtract(*psnrs))
        rows.append(
            {
                "threat": threat,
                "attack": attack,
                "defense": ours,
                "other": other,
                "accuracy": a["accuracy"],
                "other_accuracy": b["accuracy"],
                "p_value": float(test.pvalue) if test else 1.0,
                "intervals_apart": a["accuracy_interval"][0] > b["accuracy_interval"][1]
                or b["accuracy_interval"][0] > a["accuracy_interval"][1],
                "psnr_difference_db": gap,
            }
        )
    return rows
