"""What the report shows, section by section, and the files each needs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from train.present.report import comparison, defenses, measured, pictures, words
from train.present.results import Results


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        id: its anchor.
        title: its heading.
        files: what it needs of the results' folder, each with the command that makes
            it.
        build: its data for the template.
    """

    id: str
    title: str
    files: Mapping[str, str]
    build: Callable[[Results], dict[str, Any]]


_REPRODUCE = (
    "./launch.sh reproduce --scale=workstation --weights={}.npz --data_dir=DIR "
    "--test_data_dir=ORIGINALS --only={}"
)
_CUE = (
    "./launch.sh evaluate --split=cue_conflict --threats=clean --num_test=400 "
    "--checkpoint=out/quickstart/{0} --out=results/cue_conflict_{0}.json"
)
_SAMPLES = "python -m train.samples --out=results"
_QUICKSTART = {
    "quickstart.json": "./launch.sh && cp out/quickstart/quickstart.json results/"
}
_TABLE3 = {"reproduction/table3.json": _REPRODUCE.format("resnet56", "table3")}
_CHOICE = {"reproduction/choice_resnet56.json": _REPRODUCE.format("resnet56", "choice")}
SECTIONS = (
    Section("headline", "At a glance", _TABLE3, measured.headline),
    Section(
        "see",
        "See it",
        {"samples.json": _SAMPLES, "samples.png": _SAMPLES},
        pictures.samples,
    ),
    Section(
        "explore",
        "Turn the knobs",
        {"samples.json": _SAMPLES, "explorer.png": _SAMPLES},
        pictures.explorer,
    ),
    Section("choice", "Which setting", _CHOICE, comparison.chosen),
    Section("paper", "Beside the paper", {}, comparison.beside),
    Section(
        "adaptive",
        "Attackers who know the defence",
        {
            "adaptive.json": "./launch.sh bench adaptive --defense=splic "
            "--checkpoint=out/reproduce/networks/splic --dataset=cifar10 "
            "--out=results/adaptive.json"
        },
        measured.adaptive,
    ),
    Section(
        "defenses",
        "Other defences, other settings",
        {
            "defenses.json": "./launch.sh bench defenses "
            "--weights=resnet56.npz --dataset=cifar10 --out=results/defenses.json"
        },
        defenses.defenses,
    ),
    Section("quickstart", "A toy: generated shapes", _QUICKSTART, measured.quickstart),
    Section(
        "cues",
        "The toy again: shape or texture",
        {f"cue_conflict_{name}.json": _CUE.format(name) for name in ("bare", "splic")},
        measured.cue_conflict,
    ),
    Section(
        "figures",
        "Gradients and growth",
        {
            "gradients.png": "./launch.sh bench gradients --out=results/gradients.json",
            "growth.png": "./launch.sh bench growth --out=results/speed.json",
        },
        pictures.drawn,
    ),
    Section("checks", "Can the numbers be believed?", {}, words.believed),
    Section("rerun", "Rerun every number", {}, words.rerun),
)
