"""A few images for the report: clean, attacked, purified, and under other settings.

Three files: `samples.json`, what each network answers, and two sheets of tiles,
`samples.png` and `explorer.png`.
"""

import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from splic_jax import SPLICConfig, purify
from splic_jax.transforms import as_dict
from train import models
from train.data.loading import Dataset
from train.evaluation.cells import attack_batch
from train.files import codecs
from train.flags import require_rank
from train.records import provenance, storing
from train.threats.attackers import AttackSettings
from train.training import checkpoints
from train.utils import quality
from train.utils.errors import UserError
from train.utils.files import write_whole
from train.utils.progress import Progress

FORMAT = 1
SHOWN_CLASSES = 3
VIEWS = ("clean", "attacked", "purified")
# Field of SPLICConfig -> the values of the grid; the default is among them.
GRID: Mapping[str, tuple[Any, ...]] = {
    "keep_probability": (0.3, 0.5, 0.7),
    "rank": (2, 4, 8, 16),
    "tv_weight": (0.0, 0.02, 0.15),
}

Tiles = UInt8[np.ndarray, "n h w c"]
Images = Float[np.ndarray | jax.Array, "n h w c"]
Network = Callable[[jax.Array], jax.Array]


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of a grid, the last field changing fastest."""
    return [
        dict(zip(grid, values, strict=True))
        for values in itertools.product(*grid.values())
    ]


def answers(
    logits: Float[np.ndarray | jax.Array, "n classes"], class_names: Sequence[str]
) -> list[list[dict[str, Any]]]:
    """For each image the likeliest classes, and the probability of each."""
    probabilities = np.asarray(jax.nn.softmax(logits))
    return [
        [
            {"class": class_names[i], "probability": float(row[i])}
            for i in np.argsort(-row, kind="stable")[:SHOWN_CLASSES]
        ]
        for row in probabilities
    ]


def psnr_of(clean: Images, images: Images) -> list[float | None]:
    """PSNR against the clean images in dB; None where the two are equal."""
    values = np.asarray(quality.psnr(clean, images))
    return [round(float(x), 2) if math.isfinite(x) else None for x in values]


def tiles_of(images: Images) -> Tiles:
    """Images as bytes; alpha and grey become colour."""
    pixels = np.round(255 * np.clip(np.asarray(images), 0, 1)).astype(np.uint8)
    if pixels.shape[-1] < 3:
        pixels = np.repeat(pixels[..., :1], 3, axis=-1)
    return pixels[..., :3]


def sheet_of(tiles: Tiles, columns: int) -> UInt8[np.ndarray, "height width c"]:
    """Tiles side by side, row by row; the last row is filled up with black."""
    count, height, width, channels = tiles.shape
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, height, width, channels), np.uint8)
    sheet[:count] = tiles
    sheet = sheet.reshape(rows, columns, height, width, channels)
    return sheet.swapaxes(1, 2).reshape(rows * height, columns * width, channels)


def tiles_from(
    sheet: UInt8[np.ndarray, "height width c"], count: int, tile: tuple[int, int]
) -> Tiles:
    """The inverse of `sheet_of`."""
    rows, columns = sheet.shape[0] // tile[0], sheet.shape[1] // tile[1]
    split = sheet.reshape(rows, tile[0], columns, tile[1], sheet.shape[-1])
    return split.swapaxes(1, 2).reshape(-1, *tile, sheet.shape[-1])[:count]


def _write_sheet(path: pathlib.Path, tiles: Tiles, columns: int) -> None:
    picture = codecs.Picture(sheet_of(tiles, columns))
    try:
        write_whole(path, codecs.encode(picture, path))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _read_sheet(path: pathlib.Path, like: Tiles, columns: int) -> Tiles | None:
    """The tiles in a sheet of an earlier run; None if their shape is another."""
    try:
        sheet = np.asarray(Image.open(path).convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        return None
    if sheet.shape != sheet_of(like, columns).shape:
        return None
    return tiles_from(sheet, len(like), like.shape[1:3])


def require_trained(folder: pathlib.Path, network: checkpoints.LoadedModel) -> None:
    """Raises a `UserError` if the training in a folder is not finished."""
    if checkpoints.latest_epoch(folder) != network.settings.epochs:
        raise UserError(
            f"the training in {folder} is not finished; repeat its command to go on"
        )


def require_pair(
    loaded: Mapping[str, checkpoints.LoadedModel], dataset: Dataset
) -> None:
    """Raises a `UserError` if the networks are not "bare" and "splic" for the grid."""
    config = loaded["splic"].settings.defense
    if not isinstance(config, SPLICConfig) or loaded["bare"].settings.defense:
        raise UserError(
            "--bare must be a run of ./launch.sh train without --defense, and --splic "
            "one with --defense=splic"
        )
    for rank in GRID["rank"]:
        require_rank(dataclasses.replace(config, rank=rank), dataset.images.shape[1:])


def make_samples(
    folder: pathlib.Path,
    loaded: Mapping[str, checkpoints.LoadedModel],
    dataset: Dataset,
    *,
    explored: int,
    seed: int,
    grid: Mapping[str, tuple[Any, ...]] = GRID,
    progress: Progress,
) -> None:
    """Writes the three files; skips what they hold already.

    Args:
        folder: where to.
        loaded: the networks "bare" and "splic", the latter trained on purified images.
        dataset: the images.
        explored: how many of them are purified under every setting.
        seed: of attack and masks.
        grid: field of `SPLICConfig` to its values.
        progress: shows the progress.
    """
    config = loaded["splic"].settings.defense
    settings = combinations(grid)
    rows = len(next(iter(grid.values())))
    attack = AttackSettings()
    inputs = {
        "format": FORMAT,
        "dataset": {
            "name": dataset.name,
            "split": "test",
            "count": len(dataset.images),
            "sha256": checkpoints.dataset_checksum(dataset),
        },
        "networks": {n: checkpoints.network_record(x) for n, x in loaded.items()},
        "attack": {**dataclasses.asdict(attack), "words": attack.words()},
        "defense": as_dict(config),
        "seed": seed,
        "tile": list(dataset.images.shape[1:3]),
        "views": list(VIEWS),
        "grid": {name: list(values) for name, values in grid.items()},
        "explored": explored,
        "rows_an_image": rows,
    }
    inputs = json.loads(json.dumps(inputs))
    path = folder / "samples.json"
    record = {"provenance": provenance.provenance(), **inputs}

    # The same attack on the same images as in the evaluation.
    attack_key, mask_key = jax.random.split(jax.random.key(seed))
    networks = {
        name: models.logits_function(each.graphdef, each.variables)
        for name, each in loaded.items()
    }
    clean = jax.device_put(dataset.images, jax.devices()[0]).astype(np.float32) / 255
    blank = np.zeros((len(settings) * explored, *dataset.images.shape[1:3], 3))
    blank = blank.astype(np.uint8)
    columns = len(settings) // rows
    tiles = _read_sheet(folder / "explorer.png", blank, columns)
    cells = list(storing.record_of(path, inputs).get("explorer", []))
    if tiles is None:
        tiles, cells = blank, []
    if len(cells) == len(settings) and (folder / "samples.png").exists():
        progress.line(f"{path} is complete")
        return
    tiles = tiles.copy()
    progress.line(f"attacking {len(clean)} images of {dataset.name}: {attack.words()}")
    attacked = attack_batch(
        networks["bare"], clean, dataset.labels, attack_key, 0, None, attack
    ).images
    purified = purify(attacked, mask_key, config, check_finite=True)
    views = dict(zip(VIEWS, (clean, attacked, purified), strict=True))
    _write_sheet(
        folder / "samples.png",
        np.concatenate([tiles_of(view) for view in views.values()]),
        len(clean),
    )
    record["images"] = _described(views, networks, dataset)
    with progress.stage("purifying", len(settings), done=len(cells)) as advance:
        for index in range(len(cells), len(settings)):
            chosen = settings[index]
            seen = purify(
                attacked[:explored],
                mask_key,
                dataclasses.replace(config, **chosen),
                check_finite=True,
            )
            # An image's tiles stand together.
            tiles[index :: len(settings)] = tiles_of(seen)
            found = answers(networks["bare"](seen), dataset.class_names)
            psnrs = psnr_of(clean[:explored], seen)
            cells.append(
                {
                    **chosen,
                    "images": [
                        {"psnr_db": psnr, **top[0]}
                        for psnr, top in zip(psnrs, found, strict=True)
                    ],
                }
            )
            # The picture first: the JSON says which of its tiles are there.
            _write_sheet(folder / "explorer.png", tiles, columns)
            storing.write_record(path, {**record, "explorer": cells})
            advance()
    progress.line(f"wrote {path}, samples.png and explorer.png")


def _described(
    views: Mapping[str, Images], networks: Mapping[str, Network], dataset: Dataset
) -> list[dict[str, Any]]:
    """For each image its label and, for each view, PSNR and every network's answer."""
    images = [
        {"index": i, "label": dataset.class_names[label], "views": {}}
        for i, label in enumerate(dataset.labels)
    ]
    for view, seen in views.items():
        psnrs = psnr_of(views["clean"], seen)
        found = {
            name: answers(logits_fn(seen), dataset.class_names)
            for name, logits_fn in networks.items()
        }
        for image, psnr, *tops in zip(images, psnrs, *found.values(), strict=True):
            image["views"][view] = {
                "psnr_db": psnr,
                "top": dict(zip(found, tops, strict=True)),
            }
    return images
