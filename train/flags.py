"""The flags that the binaries share: which images, and how SPLIC is set.

Call the `define_` functions in a binary's ``if __name__ == "__main__":`` block, not at
import, so that one binary can import another.
"""

import ast
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from splic_jax import SPLICConfig
from splic_jax.transforms import RENAMED, replace
from train.data import loading, shapes
from train.utils.errors import UserError

FLAGS = flags.FLAGS

# Field of SPLICConfig -> (flag, help). Names that could belong to something else, an
# attack for one, get a prefix.
SPLIC_FLAGS = {
    "rank": ("rank", "rank each iterate is cut to; default a quarter of the side"),
    "tv_weight": ("tv_weight", "lambda, weight of the total variation"),
    "delta_decay": ("splic_delta_decay", "rho, the factor on delta after each round"),
    "step_size": ("splic_step_size", "mu, the gradient step"),
    "inner_steps": ("splic_inner_steps", "gradient steps in a round"),
    "tolerance": ("splic_tolerance", "relative change at which a completion stops"),
    "max_steps": ("splic_max_steps", "gradient steps at most"),
    "keep_probability": ("keep_probability", "chance of a pixel to be an anchor"),
    "alternate": ("alternate", "also complete the anchors from the completed pixels"),
    "step_scaling": (
        "splic_step",
        "scale of the gradient step: relative to delta^2, or as the paper prints it "
        "(which also sets --splic_pixel_scale=255 unless that is given)",
    ),
    "tv_form": ("tv_form", "gradient of the total variation: exact, or eq. (10)"),
    "rank_cut": ("rank_cut", "cut the matrix to --rank before each step"),
    "tv_scales": ("tv_scales", "levels of the pyramid the total variation is over"),
    "pixel_scale": ("splic_pixel_scale", "value of a white pixel in the iteration"),
    "channels": ("splic_channels", "complete channels one by one, or side by side"),
    "solver": (
        "splic_solver",
        "follow the singular vectors (tracked: without a GPU's kernel), or decompose",
    ),
    "mask": ("splic_mask", "one mask for all channels, or one for each"),
    "mask_design": ("splic_mask_design", "how the anchors of a mask are chosen"),
}


def values_of(*names: str) -> dict[str, Any]:
    """The values of some flags, by their names."""
    return {name: FLAGS[name].value for name in names}


def define_data_flags(*, judged: bool = True) -> None:
    """Defines the flags that choose images: --dataset, --data_dir and the like.

    Args:
        judged: whether there are results on them, and --images_note with these.
    """
    if "dataset" in FLAGS:
        return
    flags.DEFINE_string(
        "dataset",
        "shapes",
        f"the images: {', '.join(loading.NAMES)} (docs/networks.md)",
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "folder with the data set's files as its authors publish them; without it "
        "cifar10, cifar100 and svhn_cropped are downloaded (shapes needs neither). For "
        "folder it holds train/CLASS/*.png (or .jpg) and test/CLASS/*.png, and for npz "
        "train.npz and test.npz with images and labels",
    )
    if judged:
        define_note_flag()
    flags.DEFINE_integer(
        "resize",
        None,
        "side that pictures of folder or tfds:NAME are brought to, by Pillow's bicubic "
        "filter after a cut to the square in their middle",
        lower_bound=1,
    )
    for split in ("train", "test"):
        flags.DEFINE_integer(
            f"num_{split}",
            None,
            f"number of {split} images; default all",
            lower_bound=1,
        )
    flags.DEFINE_float(
        "texture_bias",
        None,
        "shapes only: share of the training images whose texture agrees with the class",
        lower_bound=0,
        upper_bound=1,
    )


def define_note_flag() -> None:
    """Defines --images_note."""
    flags.DEFINE_string(
        "images_note",
        None,
        "for the results, which images of that name are judged on, in words: "
        '"600 original test images", "JPEG export"',
    )


def dataset_from_flags(split: str) -> loading.Dataset:
    """Loads the split ("train", "test", "cue_conflict") that the flags ask for.

    Raises:
        UserError: if the flags contradict each other or the data cannot be read.
    """
    texture_bias = texture_bias_from_flags()
    options = {} if texture_bias is None else {"texture_bias": texture_bias}
    dataset = loading.load(
        FLAGS.dataset,
        split,
        data_dir=FLAGS.data_dir,
        num_examples=FLAGS.num_train if split == "train" else FLAGS.num_test,
        resize=FLAGS.resize,
        **options,
    )
    if split == "train" or "images_note" not in FLAGS:
        return dataset
    return dataclasses.replace(dataset, note=FLAGS.images_note)


def texture_bias_from_flags() -> float | None:
    """Returns the texture bias of shapes, None for another data set.

    Raises:
        UserError: if one is given for another data set.
    """
    if FLAGS.dataset == "shapes":
        given = FLAGS.texture_bias
        return shapes.DEFAULT_TEXTURE_BIAS if given is None else given
    if FLAGS.texture_bias is not None:
        raise UserError(f"--texture_bias is for shapes only, not {FLAGS.dataset}")
    return None


def define_splic_flags() -> None:
    """Defines one flag for each field of `SPLICConfig`, with the field's default."""
    if "tv_weight" in FLAGS:
        return
    types = typing.get_type_hints(SPLICConfig)
    for field in dataclasses.fields(SPLICConfig):
        name, text = SPLIC_FLAGS[field.name]
        text = f"SPLIC: {text}"
        if isinstance(field.default, bool):
            flags.DEFINE_bool(name, field.default, text)
        elif isinstance(field.default, str):
            choices = typing.get_args(types[field.name])
            flags.DEFINE_enum(name, field.default, choices, text)
        elif isinstance(field.default, float):
            flags.DEFINE_float(name, field.default, text)
        else:
            flags.DEFINE_integer(name, field.default, text)


def splic_config_from_flags(base: SPLICConfig = SPLICConfig()) -> SPLICConfig:
    """Returns the `SPLICConfig` that the flags ask for.

    Args:
        base: the values of the flags that are not given.

    Raises:
        UserError: for a value that makes no sense, naming the flag.
    """
    values = {
        field: FLAGS[flag].value if FLAGS[flag].present else getattr(base, field)
        for field, (flag, _) in SPLIC_FLAGS.items()
    }
    if FLAGS.splic_step == "printed" and not FLAGS["splic_pixel_scale"].present:
        values["pixel_scale"] = SPLICConfig.printed().pixel_scale
    try:
        return SPLICConfig(**values)
    except ValueError as error:
        field, _, rest = str(error).partition(" ")
        flag = SPLIC_FLAGS.get(field, (field, ""))[0]
        raise UserError(f"--{flag} {rest}") from None


def define_option_flag() -> None:
    """Defines --option, for the settings of any method."""
    flags.DEFINE_multi_string(
        "option",
        [],
        "METHOD.FIELD=VALUE, a setting of a defence, such as usvt.keep_probability=0.4 "
        "(`evaluate --list` prints them), or of a recipe, such as trades.beta=1; may "
        "be given several times",
    )


def with_options(known: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by method's name, with those of --option in place of their own.

    Raises:
        UserError: for an option that is malformed, or that the method does not take.
    """
    known = dict(known)
    for option in FLAGS.option:
        target, equals, text = option.partition("=")
        name, dot, field = target.partition(".")
        if not (equals and dot):
            raise UserError(f"--option={option} is not METHOD.FIELD=VALUE")
        if name in RENAMED:
            raise UserError(f"--option={option}: {RENAMED[name]}")
        if name not in known:
            raise UserError(
                f"--option={option}: no method {name!r}; there are {', '.join(known)}"
            )
        try:
            known[name] = replace(known[name], {field: _value(text)})
        except ValueError as error:
            raise UserError(f"--option={option}: {error}") from None
    return known


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def require_known(flag: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raises a `UserError` for an unknown name, or for no name at all."""
    for name in names:
        if name in RENAMED:
            raise UserError(f"{flag} has {name!r}: {RENAMED[name]}")
        if name not in known:
            raise UserError(f"{flag} has {name!r}; choose from {', '.join(known)}")
    if not names:
        raise UserError(f"{flag} is empty; choose from {', '.join(known)}")


def require_rank(config: SPLICConfig, image_shape: Sequence[int]) -> None:
    """Raises a `UserError` if --rank does not fit images [h, w, c] of this shape."""
    height, width, channels = image_shape
    side_by_side = channels if config.channels == "concatenated" else 1
    try:
        config.rank_of((height, width * side_by_side))
    except ValueError as error:
        raise UserError(f"--{error}") from None
