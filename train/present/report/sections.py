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


_EVALUATE = (
    "./launch.sh evaluate --dataset=cifar10 --num_test=300 "
    "--defenses=none,splic,splic_no_tv"
)
_CUE = (
    "./launch.sh evaluate --split=cue_conflict --threats=clean --num_test=400 "
    "--checkpoint=out/quickstart/{0} --out=results/cue_conflict_{0}.json"
)
_SAMPLES = "python -m train.samples --out=results"
_QUICKSTART = {
    "quickstart.json": "./launch.sh && cp out/quickstart/quickstart.json results/"
}
_CIFAR10 = {
    "cifar10_bare.json": f"{_EVALUATE} --checkpoint=out/cifar10_bare "
    "--out=results/cifar10_bare.json",
    "cifar10_splic.json": f"{_EVALUATE} --checkpoint=out/cifar10_splic "
    "--surrogate=out/cifar10_bare --out=results/cifar10_splic.json",
}
SECTIONS = (
    Section("headline", "At a glance", _QUICKSTART | _CIFAR10, measured.headline),
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
    Section("quickstart", "Generated shapes", _QUICKSTART, measured.quickstart),
    Section("cifar10", "CIFAR-10", _CIFAR10, measured.cifar10),
    Section(
        "adaptive",
        "Attackers who know the defence",
        {
            "adaptive.json": "./launch.sh bench adaptive --defense=splic "
            "--checkpoint=out/cifar10_splic --dataset=cifar10 "
            "--out=results/adaptive.json"
        },
        measured.adaptive,
    ),
    Section(
        "defenses",
        "Other defences, other settings",
        {
            "defenses_small.json": "./launch.sh bench defenses "
            "--checkpoint=out/cifar10_bare --dataset=cifar10 "
            "--out=results/defenses_small.json"
        },
        defenses.defenses,
    ),
    Section(
        "cues",
        "Shape or texture",
        {f"cue_conflict_{name}.json": _CUE.format(name) for name in ("bare", "splic")},
        measured.cue_conflict,
    ),
    Section("paper", "Beside the paper", {}, comparison.beside),
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
