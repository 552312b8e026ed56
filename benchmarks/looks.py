"""What purified images look like: a contact sheet, and how near they are.

    ./launch.sh bench looks --weights=resnet56.npz --dataset=cifar10 --data_dir=DIR

Two photographs of scikit-learn's with +-8/255 on every value, and six test images after
PGD on the network, each purified with several settings, whatever the library's defaults
are. Writes out/looks.json, and the sheet as a PNG file beside it or where --picture
says.
"""

import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Float32, Int
from PIL import Image
from sklearn.datasets import load_sample_image

from attacks import pgd
from benchmarks import _sheet as sheet
from benchmarks._sheet import FAINT, INK, Tile, Words
from splic_jax.transforms import as_dict, replace
from train import flags as shared_flags
from train.data.loading import Dataset
from train.evaluation.cells import classify_batch, transform_batch
from train.networks import flags as network_flags
from train.present.figure import RIGHT, WRONG
from train.present.results import Results
from train.present.tables.listed import listed
from train.present.terminal import print_table
from train.records import provenance
from train.records.storing import require_replaceable, write_record
from train.reproductions.choice import BASE, SIDE_BY_SIDE
from train.utils import errors, quality
from train.utils.progress import Progress

FLAGS = flags.FLAGS
EPSILON = 8 / 255
# Photograph -> the middle of what is shown of it, as shares of its height and width.
PHOTOGRAPHS = {"china": (0.28, 0.42), "flower": (0.45, 0.55)}
SHOWN = 6  # test images
SETTINGS = {
    ("lambda 0.02", "separate"): {"tv_weight": 0.02},
    ("lambda 0.15", "separate"): {"tv_weight": 0.15},
    ("lambda 0.2", "separate"): {"tv_weight": 0.2},
    ("lambda 0.15", "concatenated"): {"tv_weight": 0.15, **SIDE_BY_SIDE},
    ("lambda 0.2", "concatenated"): {"tv_weight": 0.2, **SIDE_BY_SIDE},
    ("lambda 0.2", "pass 1 only"): {"tv_weight": 0.2, "alternate": False},
}
VIEWS = (("clean", ""), ("attacked", "PGD-7"), *SETTINGS)
NOISY = ("noisy", "+-8/255 everywhere")  # the second of a photograph
CROP, ENLARGED = (88, 136), 3  # of photographs; of a test image's pixels

View = tuple[str, str]

Pixels = Float32[np.ndarray, "h w c"]
Batch = Float32[np.ndarray, "n h w c"]


class Views(NamedTuple):
    """Some images in every view.

    Attributes:
        pixels: the images of each view.
        psnr, ssim: of each image against the clean one, by view.
        seconds: that the last call took, by view; 0 where nothing is computed.
    """

    pixels: Mapping[View, Batch]
    psnr: Mapping[View, list[float]]
    ssim: Mapping[View, list[float]]
    seconds: Mapping[View, float]


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    network_flags.define_network_flags("out/quickstart/bare")
    flags.adopt_module_key_flags(network_flags)
    flags.DEFINE_integer(
        "skip", 200, "test images left out, from the first on", lower_bound=0
    )
    flags.DEFINE_integer("width", 512, "of the photographs", lower_bound=16)
    flags.DEFINE_integer("seed", 0, "of noise, attack and masks", lower_bound=0)
    flags.DEFINE_string("picture", None, "PNG file for the sheet; default beside --out")
    flags.DEFINE_string("out", "out/looks.json", "JSON file for the results")


def photograph(name: str, width: int) -> Pixels:
    """One of scikit-learn's photographs, in [0, 1]."""
    pixels = load_sample_image(f"{name}.jpg")
    size = width, round(width * pixels.shape[0] / pixels.shape[1])
    small = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(small, np.float32) / 255


def views_of(
    clean: Batch, attacked: Batch, key: jax.Array, batch: int, progress: Progress
) -> Views:
    """Purifies images with all settings.

    Args:
        clean, attacked: what results are compared with, and what is purified.
        key: of the masks.
        batch: images at a time. Only the last batch is timed, so that of several the
            compiler's time is none.
        progress: where to show how far it is.
    """
    pixels = {VIEWS[0]: clean, VIEWS[1]: attacked}
    seconds = dict.fromkeys(VIEWS, 0.0)
    with progress.stage(f"images {clean.shape[1:3]}", len(SETTINGS)) as advance:
        for view, changes in SETTINGS.items():
            config, made = replace(BASE, changes), []
            for start in range(0, len(clean), batch):
                images = jnp.asarray(attacked[start : start + batch])
                begin = time.perf_counter()
                made.append(np.asarray(transform_batch(images, key, start, config)))
                seconds[view] = time.perf_counter() - begin
            pixels[view] = np.concatenate(made)
            advance()
    found = {view: quality.quality(x, clean) for view, x in pixels.items()}
    return Views(
        pixels,
        {view: np.asarray(x.psnr).tolist() for view, x in found.items()},
        {view: np.asarray(x.ssim).tolist() for view, x in found.items()},
        seconds,
    )


def of_different_classes(
    dataset: Dataset, skip: int
) -> tuple[Batch, Int[np.ndarray, " n"]]:
    """The first images of some classes, after those that are left out."""
    _, first = np.unique(dataset.labels[skip:], return_index=True)
    chosen = skip + np.sort(first)[:SHOWN]
    return dataset.images[chosen].astype(np.float32) / 255, dataset.labels[chosen]


def part_of(pixels: Pixels, middle: tuple[float, float]) -> tuple[slice, slice]:
    """The rows and columns that are shown of a photograph."""
    ends = []
    for length, size, share in zip(pixels.shape, CROP, middle, strict=False):
        size = min(size, length)
        start = min(max(round(share * length - size / 2), 0), length - size)
        ends.append(slice(start, start + size))
    return ends[0], ends[1]


def title(view: View) -> tuple[Words, ...]:
    """What stands above a column."""
    return tuple(
        Words(line, colour) for line, colour in zip(view, (INK, FAINT), strict=True)
    )


def nearness(views: Views, view: View, i: int) -> Words:
    """PSNR and SSIM of an image, for below it."""
    if math.isinf(views.psnr[view][i]):
        return Words("")
    return Words(f"{views.psnr[view][i]:.1f} dB, {views.ssim[view][i]:.2f}")


def rows_of_photograph(
    views: Views, i: int, name: str, middle: tuple[float, float]
) -> list[list[Tile | None]]:
    """Two rows of tiles, the photograph as a whole before them."""
    shown = part_of(views.pixels[VIEWS[0]][i], middle)
    whole = views.pixels[VIEWS[0]][i]
    height, width = (x.stop - x.start for x in shown)
    words = [Words(f"{name}.jpg"), Words(f"{whole.shape[1]} x {whole.shape[0]}", FAINT)]
    first = Tile(sheet.overview(whole, shown, width), words)
    tiles = [
        Tile(
            views.pixels[view][i][shown],
            title(NOISY if view == VIEWS[1] else view),
            [nearness(views, view, i)],
        )
        for view in VIEWS
    ]
    half = len(tiles) // 2
    return [[first, *tiles[:half]], [None, *tiles[half:]]]


def rows_of_images(
    views: Views,
    answers: Mapping[View, Int[np.ndarray, " n"]],
    labels: Int[np.ndarray, " n"],
    names: Sequence[str],
) -> list[list[Tile]]:
    """A row for each image, with what the network says of it."""
    rows = []
    for i, label in enumerate(labels):
        row = []
        for view in VIEWS:
            answer = answers[view][i]
            said = Words(names[answer], RIGHT if answer == label else WRONG)
            pixels = views.pixels[view][i]
            above = title(view) if i == 0 else ()
            row.append(Tile(pixels, above, [said, nearness(views, view, i)], ENLARGED))
        rows.append(row)
    return rows


def main(argv: Sequence[str]) -> None:
    del argv
    out = pathlib.Path(FLAGS.out)
    picture = pathlib.Path(FLAGS.picture or out.with_suffix(".png"))
    require_replaceable(out)
    dataset = shared_flags.dataset_from_flags("test")
    classifier = network_flags.network_for(dataset)
    images, labels = of_different_classes(dataset, FLAGS.skip)
    attack_key, mask_key = jax.random.split(jax.random.key(FLAGS.seed))
    progress = Progress()

    photographs = np.stack([photograph(name, FLAGS.width) for name in PHOTOGRAPHS])
    rng = np.random.default_rng(FLAGS.seed)
    noise = EPSILON * rng.choice(np.float32([-1, 1]), photographs.shape)
    noisy = np.clip(photographs + noise, 0, 1).astype(np.float32)
    large = views_of(photographs, noisy, mask_key, 1, progress)

    logits = lambda x, key: classifier.logits(x)  # noqa: E731
    attacked = jax.jit(partial(pgd, logits))(images, jnp.asarray(labels), attack_key)
    small = views_of(
        images, np.asarray(attacked.images), mask_key, len(images), progress
    )
    answers = {
        view: np.asarray(classify_batch(classifier.logits, x, mask_key, 0, None)[0])
        for view, x in small.pixels.items()
    }
    rows = []
    for view in VIEWS[1:]:
        changes = SETTINGS.get(view)
        row = {"view": ", ".join(view) if changes else "not purified"}
        row["settings"] = changes and as_dict(replace(BASE, changes))
        for i, name in enumerate(PHOTOGRAPHS):
            row[name] = {"psnr_db": large.psnr[view][i], "ssim": large.ssim[view][i]}
        row["seconds"] = large.seconds[view]
        row["images"] = {
            "psnr_db": float(np.mean(small.psnr[view])),
            "ssim": float(np.mean(small.ssim[view])),
            "correct": int(np.sum(answers[view] == labels)),
        }
        rows.append(row)
    record = {
        "provenance": provenance.provenance(),
        "dataset": dataset.record("test", len(images)) | {"skipped": FLAGS.skip},
        "network": classifier.record,
        "epsilon": EPSILON,
        "seed": FLAGS.seed,
        "photographs": {"size": [photographs.shape[2], photographs.shape[1]]},
        "rows": rows,
    }
    tiles = []
    for i, (name, middle) in enumerate(PHOTOGRAPHS.items()):
        tiles += rows_of_photograph(large, i, name, middle)
    tiles += rows_of_images(small, answers, labels, dataset.class_names)
    sheet.draw(picture, tiles)
    write_record(out, record)
    shown = listed(Results(records={"looks.json": record}), "looks")
    print_table(shown)
    progress.line(f"wrote {picture} and {out}")


if __name__ == "__main__":
    define_flags()
    errors.run(main)
