"""Figures 3, 4, 5, 8 and 10: images, convergence, features."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_image
from sklearn.metrics import silhouette_score

from splic_jax import SPLICConfig, transform
from splic_jax.transforms import TransformConfig
from train import models
from train.evaluation.cells import attack_batch, batch_size, classify_batch
from train.evaluation.plan import attack_words
from train.present.figure import Row, picture_grid
from train.present.plots import COLOURS
from train.reproductions import analysis, drawing
from train.reproductions.plan import Cells, Item, no_cells
from train.reproductions.workshop import Workshop
from train.utils.quality import quality

SHOWN = 7
TRACED = 4
PHOTOGRAPH, SIDE = "china.jpg", 112
EMBEDDED = 2000  # images at most; t-SNE takes quadratic time


def _batch(workshop: Workshop) -> tuple[jax.Array, jax.Array]:
    """The first test images in [0, 1], as many as a cell's batch, and their labels."""
    test = workshop.test
    count = batch_size(len(test.images))
    images = jax.device_put(test.images[:count], jax.devices()[0])
    return images.astype(jnp.float32) / 255, jnp.asarray(test.labels[:count])


def rows_of_images(
    network: str,
    knows: bool,
    workshop: Workshop,
    cells: Cells,
    path: pathlib.Path,
) -> dict[str, Any]:
    """Clean, attacked and purified images in rows, with what the network answers.

    Args:
        network: who answers: "vanilla", or "splic" of purified training images.
        knows: whether PGD goes through the defence (white-box), or not (gray-box).
        workshop, cells, path: as an item's `finish` takes them.
    """
    del cells
    clean, labels = _batch(workshop)
    logits_fn, config = workshop.logits(network), SPLICConfig()
    attack_key, mask_key = workshop.keys()
    attack = workshop.scale.attacks()["pgd"]
    attacked = attack_batch(
        logits_fn, clean, labels, attack_key, 0, config if knows else None, attack
    ).images
    answers = []
    for title, images, seen_through in (
        ("clean", clean, None),
        ("attacked", attacked, None),
        ("attacked,\nthen purified", attacked, config),
    ):
        predicted, seen = classify_batch(logits_fn, images, mask_key, 0, seen_through)
        answers.append(Row(title, *(np.asarray(x)[:SHOWN] for x in (seen, predicted))))
    words = attack_words("white-box", config if knows else None, attack)
    given = workshop.given_as(network)
    shown = workshop.test.labels[:SHOWN]
    picture_grid(
        answers,
        shown,
        workshop.test.class_names,
        path.with_suffix(".png"),
        caption=f"The first {len(shown)} test images of {workshop.dataset_name}; "
        f"{words} on the {given.title if given else f'network {network!r}'}",
    )
    return {
        "network": network,
        "attack": words,
        "labels": shown.tolist(),
        "predicted": {row.title: row.predicted.tolist() for row in answers},
    }


def convergence(workshop: Workshop, cells: Cells, path: pathlib.Path) -> dict[str, Any]:
    """Figure 4: the relative change of each gradient step, over four images."""
    del cells
    images, _ = _batch(workshop)
    traces = analysis.convergence(images[:TRACED], workshop.keys()[1])
    means = [
        np.nanmean(image[:, ~np.isnan(image).all(axis=0)], axis=0)
        for image in np.asarray(traces)
    ]

    def paint(figure: Figure) -> None:
        axis = figure.subplots()
        for index, (colour, values) in enumerate(zip(COLOURS, means, strict=False)):
            steps = np.arange(1, len(values) + 1)
            axis.semilogy(steps, values, color=colour, label=f"image {index}")
        axis.axhline(SPLICConfig().tolerance, linestyle=":", color="#1b1e23")
        axis.set_xlabel("gradient step (dotted: the tolerance)")
        axis.set_ylabel("relative change, mean of the matrices")
        handles, names = axis.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=TRACED)

    drawing.draw(path, paint)
    return {"relative_change": [values.tolist() for values in means]}


def photograph() -> np.ndarray:
    """The middle of scikit-learn's photograph, float32 ``[112, 112, 3]`` in [0, 1]."""
    pixels = load_sample_image(PHOTOGRAPH)
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    small = square.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255


def ranks_of_photograph(
    workshop: Workshop, cells: Cells, path: pathlib.Path
) -> dict[str, Any]:
    """Figure 5: a photograph purified at several ranks."""
    del cells
    image = jnp.asarray(photograph())[None]
    shown, psnr = {"original": np.asarray(image[0])}, {}
    for rank in workshop.scale.photograph_ranks:
        config = dataclasses.replace(SPLICConfig(), rank=rank)
        made = transform(image, workshop.keys()[1], config, check_finite=True)
        psnr[f"{rank}"] = float(quality(made, image).psnr[0])
        shown[f"r = {rank}, {psnr[f'{rank}']:.1f} dB"] = np.asarray(made[0])
    drawing.pictures(path, shown)
    return {"photograph": PHOTOGRAPH, "side": SIDE, "psnr_db_by_rank": psnr}


def features(workshop: Workshop, cells: Cells, path: pathlib.Path) -> dict[str, Any]:
    """Figure 10: features of the test images, bare and with SPLIC, by t-SNE."""
    del cells
    count = min(EMBEDDED, len(workshop.test.images))
    labels = workshop.test.labels[:count]
    panels, silhouettes = {}, {}
    for title, name, config in (
        ("without SPLIC", "vanilla", None),
        ("with SPLIC", "splic", SPLICConfig()),
    ):
        found = features_of(workshop, name, config)[:count]
        panels[title] = analysis.tsne(found, workshop.seed, min(30.0, (count - 1) / 3))
        silhouettes[title] = float(silhouette_score(found, labels))
    drawing.scatter(path, panels, labels, workshop.test.class_names)
    return {"count": count, "silhouette_of_features": silhouettes}


def features_of(
    workshop: Workshop, name: str, config: TransformConfig | None
) -> np.ndarray:
    """What the network's last layer sees of the test images, ``[n, width]``."""
    loaded = workshop.network(name)
    apply = jax.jit(models.features_function(loaded.graphdef, loaded.variables))
    images = workshop.test.images[:EMBEDDED]
    batch, found = batch_size(len(images)), []
    for start in range(0, len(images), batch):
        # The last batch is filled up, because another size would compile again.
        chosen = (start + np.arange(batch)) % len(images)
        pixels = jnp.asarray(images[chosen], jnp.float32) / 255
        if config is not None:
            key = workshop.keys()[1]
            pixels = transform(
                pixels, key, config, first_index=start, check_finite=True
            )
        found.append(np.asarray(apply(pixels)))
    return np.concatenate(found)[: len(images)]


# Figures that look into a network.
OF_FEATURES = ("figure10",)
FIGURES: Mapping[str, Item] = {
    "figure3": Item(
        "attacked and purified images, gray-box PGD (section 3.4)",
        no_cells,
        functools.partial(rows_of_images, "vanilla", False),
        (".png",),
        ("vanilla",),
    ),
    "figure4": Item(
        "convergence on four images (section 3.6)",
        no_cells,
        convergence,
        drawing.SUFFIXES,
    ),
    "figure5": Item(
        "a photograph at several ranks (section 3.7)",
        no_cells,
        ranks_of_photograph,
        drawing.SUFFIXES,
    ),
    "figure8": Item(
        "clean, attacked and purified images, white-box PGD (section 3.9.4)",
        no_cells,
        functools.partial(rows_of_images, "splic", True),
        (".png",),
        ("splic",),
    ),
    "figure10": Item(
        "features by t-SNE, without and with SPLIC (section 3.9.2)",
        no_cells,
        features,
        drawing.SUFFIXES,
        ("vanilla", "splic"),
    ),
}
