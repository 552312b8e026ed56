"""The embedded data set `shapes`: 32 x 32 images, labelled by shape and by texture.

Every image shows one of ten silhouettes, filled with one of ten textures, in front of
a background that has a texture of its own. The shape is the class; the texture of the
filling agrees with it (stripes for disks, checks for rings, ...) in a share
`texture_bias` of the images, and never in the split "cue_conflict". There a network
that reads the shape is right and one that reads the texture is wrong: the cue-conflict
test of Geirhos et al., "ImageNet-trained CNNs are biased towards texture" (2019).

Nothing is downloaded or stored: image i of a split is a function of the seed, the
split, the bias and i alone, so the first ten of fifty are the ten drawn alone. It is
computed in float64 and rounded to bytes, which hides the last bits in which processors
differ; a new NumPy may still draw other numbers, and requirements.txt pins one.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32, UInt8

from train.data.silhouettes import SILHOUETTES
from train.data.textures import TEXTURES

SIZE = 32
SPLITS = ("train", "test", "cue_conflict")
CLASS_NAMES = tuple(SILHOUETTES)

# Chosen so that the small network, once trained, is neither near chance nor near 100 %,
# is misled by texture, and falls below 10 % under PGD (results/ holds quickstart.json
# and cue_conflict_bare.json).
DEFAULT_TEXTURE_BIAS = 0.9
RADIUS = (9.0, 14.0)  # pixels
STRETCH = 0.2  # logarithm of width over height, up to
ROTATION = 0.8  # radians, up to
LIGHTNESS = (0.08, 0.28)  # of the background, above or below the middle of [0, 1]
CONTRAST = (0.24, 0.46)  # between the mean lightness of filling and background
FILLING = (0.10, 0.22)  # amplitude of the texture
BACKGROUND = (0.05, 0.14)
NOISE = (0.01, 0.04)  # standard deviation

# Images are drawn in whole blocks of this many, because vector instructions may round
# the last images of an array differently. A multiple of ten, so that classes balance.
_BLOCK = 250

Labels = Int32[np.ndarray, " n"]
Column = Float[np.ndarray, "n 1 1"]  # one number per image
Grid = Float[np.ndarray, "n h w"]


class Shapes(NamedTuple):
    """Images with values 0 to 255, and their labels in the order of the two tables."""

    images: UInt8[np.ndarray, "n 32 32 3"]
    shape_labels: Labels
    texture_labels: Labels


def make(
    split: str,
    num_images: int,
    *,
    seed: int = 0,
    texture_bias: float = DEFAULT_TEXTURE_BIAS,
) -> Shapes:
    """Draws the first `num_images` images of a split.

    The classes take turns: image i has class i mod 10. Background and filling have
    independent hues, and the texture of the background is independent of everything.

    Args:
        split: "train", "test" (the same distribution) or "cue_conflict".
        num_images: how many, at least 1.
        seed: in [0, 2**32).
        texture_bias: in [0, 1], the chance that the texture agrees with the class.
            Otherwise, and always in "cue_conflict", it is one of the other nine, each
            as likely.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, not {num_images}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32), not {seed}")
    if not 0 <= texture_bias <= 1:
        raise ValueError(f"texture_bias must be in [0, 1], not {texture_bias}")
    share = 0.0 if split == "cue_conflict" else texture_bias
    blocks = [
        _block(seed, SPLITS.index(split), first, share)
        for first in range(0, num_images, _BLOCK)
    ]
    return Shapes(
        *(np.concatenate(parts)[:num_images] for parts in zip(*blocks, strict=True))
    )


def _block(seed: int, split: int, first: int, texture_bias: float) -> Shapes:
    """Draws the images `first` to `first` + _BLOCK - 1."""
    indices = np.arange(first, first + _BLOCK)
    generators = [np.random.default_rng((seed, split, index)) for index in indices]
    draws = iter(np.stack([g.random(32) for g in generators], axis=1))
    fine = np.stack([g.standard_normal((2, SIZE, SIZE)) for g in generators])
    coarse = _enlarge(np.stack([g.standard_normal((2, 8, 8)) for g in generators]))
    noise = np.stack([g.standard_normal((SIZE, SIZE, 3)) for g in generators])

    def uniform(low: float, high: float) -> Column:
        return low + (high - low) * next(draws)[:, None, None]

    shapes = indices % len(SILHOUETTES)
    agrees = uniform(0, 1).ravel() < texture_bias
    shift = 1 + uniform(0, len(TEXTURES) - 1).ravel().astype(int)
    textures = (shapes + np.where(agrees, 0, shift)) % len(TEXTURES)
    background_textures = uniform(0, len(TEXTURES)).ravel().astype(int)

    # Pixel centres, with the origin in the middle of the image and y up.
    x, y = np.meshgrid(
        np.arange(SIZE) - SIZE / 2 + 0.5, SIZE / 2 - 0.5 - np.arange(SIZE)
    )
    radius = uniform(*RADIUS)
    room = SIZE / 2 - radius
    center_x, center_y = room * uniform(-1, 1), room * uniform(-1, 1)
    inside_x, inside_y = x - center_x, y - center_y
    coverage = _coverage(shapes, inside_x, inside_y, radius, uniform)

    side = np.where(uniform(0, 1) < 0.5, 1, -1)
    background = 0.5 - side * uniform(*LIGHTNESS)
    filling = background + side * uniform(*CONTRAST)
    filling = filling + uniform(*FILLING) * _texture(
        textures, inside_x, inside_y, fine[:, 0], coarse[:, 0], uniform
    )
    slope, direction = uniform(0, 0.12), uniform(0, 2 * np.pi)
    ramp = (np.cos(direction) * x + np.sin(direction) * y) * 2 / SIZE
    background = background + slope * ramp + 0.04 * coarse[:, 1]
    background = background + uniform(*BACKGROUND) * _texture(
        background_textures, x, y, fine[:, 1], coarse[:, 1], uniform
    )

    back = _tint(background, uniform)
    images = back + coverage[..., None] * (_tint(filling, uniform) - back)
    images = images + uniform(*NOISE)[..., None] * noise
    return Shapes(
        np.round(255 * np.clip(images, 0, 1)).astype(np.uint8),
        shapes.astype(np.int32),
        textures.astype(np.int32),
    )


def _coverage(
    labels: Int[np.ndarray, " n"],
    x: Grid,
    y: Grid,
    radius: Column,
    uniform: Callable[[float, float], Column],
) -> Grid:
    """The share of each pixel that the silhouette covers, around the origin."""
    x, y = _rotate(x / radius, y / radius, uniform(-ROTATION, ROTATION))
    stretch = np.exp(uniform(-STRETCH, STRETCH) / 2)
    # Inside the unit disk still: the longer side keeps its length.
    longer = np.maximum(stretch, 1 / stretch)
    x, y = x * longer / stretch, y * longer * stretch
    distance = np.empty(x.shape)
    for label, silhouette in enumerate(SILHOUETTES.values()):
        chosen = labels == label
        distance[chosen] = silhouette(x[chosen], y[chosen])
    return np.clip(0.5 - distance * radius / longer, 0, 1)


def _texture(
    labels: Int[np.ndarray, " n"],
    x: Grid,
    y: Grid,
    fine: Grid,
    coarse: Grid,
    uniform: Callable[[float, float], Column],
) -> Grid:
    """Textures of random period (in pixels), direction and offset, in [-1, 1]."""
    period = uniform(4.5, 6.5)
    x, y = x + uniform(-3, 3), y + uniform(-3, 3)
    x, y = _rotate(x / period, y / period, uniform(-0.5, 0.5))
    result = np.empty(fine.shape)
    for label, texture in enumerate(TEXTURES.values()):
        chosen = labels == label
        result[chosen] = texture(x[chosen], y[chosen], fine[chosen], coarse[chosen])
    return result


def _tint(
    lightness: Grid, uniform: Callable[[float, float], Column]
) -> Float[np.ndarray, "n h w 3"]:
    """Gives a grey image a random hue and saturation, and keeps its luma."""
    hue, chroma = uniform(0, 6)[..., None], uniform(0.08, 0.35)[..., None]
    pure = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    luma = pure @ np.array([[0.299], [0.587], [0.114]])
    return lightness[..., None] + chroma * (pure - luma)


def _rotate(x: Grid, y: Grid, angle: Column) -> tuple[Grid, Grid]:
    cosine, sine = np.cos(angle), np.sin(angle)
    return cosine * x - sine * y, sine * x + cosine * y


def _enlarge(noise: Float[np.ndarray, "n k h w"]) -> Float[np.ndarray, "n k 32 32"]:
    """Bilinear interpolation to the size of the image."""
    cells = noise.shape[-1]
    positions = (np.arange(SIZE) + 0.5) * cells / SIZE - 0.5
    positions = np.clip(positions, 0, cells - 1)
    weights = np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(cells)))
    return weights @ noise @ weights.T
