"""SPLIC's settings and every transform, clean against attacked: the sweep behind the
defaults of `SPLICConfig`. Not in the paper.

How the defaults are chosen was written down before anything was measured (`CRITERION`).
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from splic_jax import METHODS, SPLICConfig, method_of
from splic_jax.transforms import TransformConfig, as_dict, returns_images
from train.evaluation.cells import attack_batch, batch_size, transform_batch
from train.evaluation.statistics import mean_interval, share_of
from train.present.plots import COLOURS, MARKERS, STYLE
from train.reproductions import drawing
from train.reproductions.cells import Wanted
from train.reproductions.networks import VANILLA
from train.reproductions.plan import Cells, Item, no_finish
from train.reproductions.scales import Scale
from train.reproductions.workshop import Workshop

CRITERION = (
    "The score of a setting is the mean of its accuracy on clean images and of the "
    "least of its accuracies under FGSM, PGD and C&W, all gray-box, on the images set "
    "aside for choosing. Candidates keep what makes the method: both passes, half of "
    "the pixels, the cut to a quarter of the side, the exact derivative; they differ "
    "in lambda, channels, mask, mask design and tv_scales. Among the candidates whose "
    "score is within two points of the best, the default is the one whose attacked "
    "images have the highest PSNR once purified. Scores of several networks are "
    "averaged."
)
COLUMNS = {"FGSM": "fgsm", "PGD": "pgd", "CW": "cw"}
ADAPTIVE = "adaptive"
LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
# Everything that a variant does not change, whatever the library's defaults are.
BASE = SPLICConfig(
    rank=None,
    tv_weight=0.15,
    keep_probability=0.5,
    alternate=True,
    step_scaling="relative",
    tv_form="exact",
    rank_cut=True,
    tv_scales=1,
    pixel_scale=1.0,
    channels="separate",
    mask="shared",
    mask_design="iid",
)
SIDE_BY_SIDE = {"channels": "concatenated", "mask": "independent"}
NO_TRANSFORM = "none"


class Variant(NamedTuple):
    """A setting of the sweep.

    Attributes:
        group: what is changed: the curve or the table that it belongs to.
        name: the row.
        config: its settings; None for no transform.
        candidate: whether it may become the default.
        adaptive: whether it also meets the adaptive attack.
    """

    group: str
    name: str
    config: TransformConfig | None
    candidate: bool = False
    adaptive: bool = False


def _variants() -> Iterator[Variant]:
    def splic(group: str, name: str, **changes: Any) -> Variant:
        config = dataclasses.replace(BASE, **changes)
        free = {"tv_weight", "channels", "mask", "mask_design", "tv_scales"}
        return Variant(group, name, config, candidate=changes.keys() <= free)

    met = {0.0, 0.02, 0.15, 0.3}
    for group, changes in (("separate", {}), ("concatenated", SIDE_BY_SIDE)):
        for weight in LAMBDAS:
            found = splic(
                f"{group} channels",
                f"{group}, lambda {weight:g}",
                **changes,
                tv_weight=weight,
            )
            yield found._replace(adaptive=weight in met)
    yield splic("mask", "separate, a mask per channel", mask="independent")
    yield splic("mask", "concatenated, one mask", channels="concatenated")
    for design in ("exact", "checkerboard", "blue_noise", "blocks"):
        yield splic("mask design", f"{design}", mask_design=design)
    for design in ("checkerboard", "blue_noise"):
        changes = SIDE_BY_SIDE | {"mask_design": design}
        yield splic("mask design", f"concatenated, {design}", **changes)
    for rank in (4, 6, 12, 16):
        yield splic("rank", f"rank {rank}", rank=rank)
    yield splic("rank", "no rank cut", rank_cut=False)
    for kept in (0.3, 0.4, 0.6, 0.7):
        yield splic("keep probability", f"keep {kept:g}", keep_probability=kept)
    for weight in (0.02, 0.15):
        name = f"pass 1 only, lambda {weight:g}"
        yield splic("alternation", name, alternate=False, tv_weight=weight)
    for levels in (2, 3):
        yield splic("tv_scales", f"tv_scales {levels}", tv_scales=levels)
    printed = {"step_scaling": "printed", "pixel_scale": 255.0}
    for weight in (0.02, 0.1, 0.15):
        name = f"line 11 as printed, lambda {weight:g}"
        yield splic("printed forms", name, **printed, tv_weight=weight)
    name = "eq. (10) as printed"
    yield splic("printed forms", name, tv_form="printed")
    everything = dataclasses.replace(SPLICConfig.printed(), tv_weight=0.02)
    yield Variant("printed forms", "everything as printed", everything)
    met = {"usvt", "soft_impute", "nuclear_norm", "tv_minimisation", "jpeg", "guided"}
    for name, method in METHODS.items():
        own = name in ("splic", "splic_no_tv", "ablation", "diversification")
        if not own and returns_images(method.config):
            yield Variant("other transforms", name, method.config, adaptive=name in met)


NOTHING = Variant(NO_TRANSFORM, NO_TRANSFORM, None)
VARIANTS: Mapping[str, Variant] = {
    variant.name: variant for variant in (NOTHING, *_variants())
}


def variants_of(scale: Scale) -> list[Variant]:
    """Those of a scale."""
    return [VARIANTS[name] for name in scale.variants or VARIANTS]


def cells_of(scale: Scale) -> Sequence[Wanted]:
    """Clean and gray-box for all."""
    wanted = []
    for variant in variants_of(scale):
        config, name = variant.config, variant.name
        defense = method_name(config)
        place = {"row": name, "network": VANILLA, "defense": defense, "config": config}
        wanted.append(Wanted(**place, column="Clean", threat="clean", whole=True))
        threat = "gray-box" if config else "white-box"
        wanted += [
            Wanted(**place, column=column, threat=threat, attack=attack, whole=True)
            for column, attack in COLUMNS.items()
        ]
    return wanted


def adaptive_cells_of(scale: Scale) -> Sequence[Wanted]:
    """The adaptive attack on some: BPDA, averaged over masks where there are any."""
    wanted = []
    for variant in variants_of(scale):
        if variant.adaptive:
            random = method_of(variant.config).random
            wanted.append(
                Wanted(
                    row=variant.name,
                    column=ADAPTIVE,
                    network=VANILLA,
                    defense=method_name(variant.config),
                    config=variant.config,
                    threat="adaptive" if random else "white-box",
                    attack="sweep-eot" if random else "bpda",
                    costly=True,
                )
            )
    return wanted


def method_name(config: TransformConfig | None) -> str:
    """The registry's name of a transform, "none" without one."""
    return NO_TRANSFORM if config is None else as_dict(config)["method"]


def score(cells: Mapping[str, str], images: slice) -> float:
    """The `CRITERION` of one setting, from its answers by column."""

    def accuracy(column: str) -> float:
        answers = cells[column][images]
        return answers.count("1") / len(answers)

    return (accuracy("Clean") + min(map(accuracy, COLUMNS))) / 2


def draw(workshop: Workshop, cells: Cells, path: pathlib.Path) -> dict[str, Any]:
    """Draws clean against attacked accuracy; returns scores and what is left."""
    variants = variants_of(workshop.scale)
    answers = answers_of(cells)
    chosen_on = workshop.scale.chosen_on
    left = perturbation_left(workshop, variants)
    rows = []
    for variant in variants:
        found = answers[variant.name]
        held_out = {
            column: accuracy_of(given[chosen_on:]) for column, given in found.items()
        }
        rows.append(
            {
                "group": variant.group,
                "row": variant.name,
                "candidate": variant.candidate,
                "score_where_chosen": score(found, slice(chosen_on)),
                "psnr_where_chosen": psnr_of(cells, variant.name, chosen_on),
                "held_out": held_out,
                **left[variant.name],
            }
        )
    paint_plane(rows, workshop, path)
    return {"criterion": CRITERION, "chosen_on": chosen_on, "rows": rows}


def answers_of(cells: Cells) -> dict[str, dict[str, str]]:
    """Each setting's answers, image by image, by column."""
    found: dict[str, dict[str, str]] = {}
    for cell in cells:
        found.setdefault(cell["row"], {})[cell["column"]] = cell["correct_by_image"]
    return found


def psnr_of(cells: Cells, row: str, count: int) -> float | None:
    """Mean PSNR of the first images once attacked by PGD and purified, in dB."""
    for cell in cells:
        if (cell["row"], cell["column"]) == (row, "PGD"):
            found = [x for x in cell["psnr_db_by_image"][:count] if x is not None]
            return float(np.mean(found)) if found else None
    return None


def accuracy_of(answers: str) -> dict[str, Any]:
    """The share of right answers, with its 95 % interval."""
    right, count = answers.count("1"), len(answers)
    return {**share_of(right, count), "count": count}


def perturbation_left(
    workshop: Workshop, variants: Iterable[Variant]
) -> dict[str, dict[str, Any]]:
    r"""What each transform leaves of a perturbation, and does to a clean image.

    .. math::
        \frac{\|T(x + d) - T(x)\|^2}{\|d\|^2}, \qquad \frac{\|T(x) - x\|^2}{\|d\|^2}

    with one key for both, d made by PGD on the bare network; means over the images that
    settings are chosen on, or a batch of them.
    """
    test = workshop.whole_test
    count = batch_size(len(test.images))
    clean = jnp.asarray(test.images[:count], jnp.float32) / 255
    attack_key, mask_key = workshop.keys()
    attack = workshop.scale.attacks()["pgd"]
    labels = jnp.asarray(test.labels[:count])
    network = workshop.logits(VANILLA)
    attacked = attack_batch(network, clean, labels, attack_key, 0, None, attack).images

    def energy(difference: jax.Array) -> np.ndarray:
        return np.asarray((difference**2).sum(axis=(1, 2, 3)))

    given = energy(attacked - clean)
    found = {}
    for variant in variants:
        config = variant.config and workshop.fitted(variant.config)
        seen, seen_attacked = (
            images if config is None else transform_batch(images, mask_key, 0, config)
            for images in (clean, attacked)
        )
        found[variant.name] = {
            "perturbation_left": mean_interval(energy(seen_attacked - seen) / given),
            "change_of_clean": mean_interval(energy(seen - clean) / given),
        }
    return found


def paint_plane(
    rows: Sequence[Mapping[str, Any]], workshop: Workshop, path: pathlib.Path
) -> None:
    """Clean against attacked accuracy: transforms as points, SPLIC as curves."""

    def place(row: Mapping[str, Any]) -> tuple[float, float]:
        found = row["held_out"]
        attacked = min(found[column]["accuracy"] for column in COLUMNS)
        return 100 * attacked, 100 * found["Clean"]["accuracy"]

    places = {row["row"]: place(row) for row in rows}
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row["row"])

    def paint(figure: Figure) -> None:
        axis = figure.subplots()
        front = sorted(pareto(places.values()))
        axis.step(
            *zip(*front, strict=True),
            where="pre",
            color=STYLE["grid.color"],
            linewidth=5,
            label="Pareto front",
            zorder=0,
        )
        curves = {
            "separate channels": "SPLIC by lambda, channels separate",
            "concatenated channels": "SPLIC by lambda, channels concatenated",
        }
        others = "other transforms", NO_TRANSFORM
        for index, (group, label) in enumerate(curves.items()):
            if group in groups:
                points = np.array([places[name] for name in groups[group]])
                axis.plot(
                    *points.T, color=COLOURS[index], marker=MARKERS[index], label=label
                )
        rest = [n for g in groups if g not in (*curves, *others) for n in groups[g]]
        if rest:
            points = np.array([places[name] for name in rest])
            axis.plot(
                *points.T, "D", color=COLOURS[3], markersize=3, label="SPLIC, otherwise"
            )
        named = [name for group in others for name in groups.get(group, ())]
        if named:
            points = np.array([places[name] for name in named])
            axis.plot(*points.T, "^", color=COLOURS[2], label="other transforms")
        for group in curves:
            for name in groups.get(group, ()):
                axis.annotate(
                    name.rpartition(" ")[2],
                    places[name],
                    (4, -9),
                    textcoords="offset points",
                    fontsize=6.5,
                )
        for name in named:
            axis.annotate(
                "no defence" if name == NO_TRANSFORM else name,
                places[name],
                (5, 3),
                textcoords="offset points",
                fontsize=6.5,
            )
        axis.set_xlim(0, None)
        axis.set_ylim(0, 100)
        axis.set_xlabel("least accuracy under FGSM, PGD and C&W (gray-box), %")
        count = rows[0]["held_out"]["Clean"]["count"]
        axis.set_ylabel(f"accuracy on clean images, %\n({count} images)")
        figure.legend(loc="outside upper left", ncols=2)

    drawing.draw(path, paint, (7.0, 5.2))


def pareto(places: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The places that no other one beats in one coordinate and matches in the other."""
    places = set(places)
    return [
        one
        for one in places
        if not any(
            other != one and other[0] >= one[0] and other[1] >= one[1]
            for other in places
        )
    ]


CHOICE: Mapping[str, Item] = {
    "choice": Item(
        "SPLIC's settings and every transform, clean against attacked (not in the "
        "paper)",
        cells_of,
        draw,
        drawing.SUFFIXES,
        (VANILLA,),
    ),
    "choice_adaptive": Item(
        "some of SPLIC's settings and transforms under an adaptive attack (not in the "
        "paper)",
        adaptive_cells_of,
        no_finish,
        (),
        (VANILLA,),
    ),
}
