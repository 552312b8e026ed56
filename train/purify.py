"""Purifies pictures, arrays or a data set with SPLIC.

    python -m train.purify --input=photo.jpg --output=purified.jpg
    python -m train.purify --input=photos --output=purified        # with sub-folders
    python -m train.purify --input=images.npz --output=purified.npz
    python -m train.purify --input=photos --output=purified --classify --weights=net.npz
    python -m train.purify --dataset=shapes --split=test --output=purified.npz

Results keep the names, sizes and formats of the inputs. An image's mask depends only on
--seed and its path below --input, or its index in its array, so its result does not
depend on the other images.

The same command resumes an interrupted run and skips the images that are done. They are
recorded in `purify.jsonl` beside the pictures (`<output>.jsonl` for arrays), with the
PSNR and SSIM of each against its input. No other file is replaced without --overwrite.
A picture that cannot be read is named and skipped, and the exit code is 1.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from train import flags as shared_flags
from train.data.loading import CLASS_NAMES
from train.files.pieces import Purifier, Tally
from train.files.runner import purify_dataset, purify_files
from train.networks import flags as network_flags
from train.utils import compilation, errors
from train.utils.errors import UserError
from train.utils.files import printable

FLAGS = flags.FLAGS
# Not beside the results, which belong to the user alone.
_COMPILED = pathlib.Path(__file__).resolve().parents[1] / "out" / "compiled"
_DATA_FLAGS = ("data_dir", "resize", "num_train", "num_test", "texture_bias", "split")


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags(judged=False)
    shared_flags.define_splic_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    flags.DEFINE_multi_string(
        "input",
        [],
        "a picture, a folder of pictures, or a .npy or .npz file; pictures and folders "
        "can be several, each with its own --input",
    )
    flags.DEFINE_string("output", None, "file or folder for the results")
    flags.DEFINE_enum(
        "split", "test", ["train", "test", "cue_conflict"], "of --dataset"
    )
    flags.DEFINE_integer(
        "seed", 0, "of the masks", lower_bound=0, upper_bound=2**31 - 1
    )
    flags.DEFINE_integer(
        "batch",
        None,
        "images processed at a time; default from size and device",
        lower_bound=1,
    )
    flags.DEFINE_bool(
        "classify", False, "print what a network says of each picture, and purified"
    )
    flags.DEFINE_enum(
        "class_names",
        None,
        CLASS_NAMES,
        "for --classify, the data set whose names the network's classes have, where it "
        "has numbers alone, as published weights do",
    )
    network_flags.define_network_flags()
    flags.adopt_module_key_flags(network_flags)
    flags.DEFINE_bool("overwrite", False, "replace what is in the way")
    compilation.define_flag("out/compiled in the folder of launch.sh")
    flags.adopt_module_key_flags(compilation)


def _purify() -> Tally:
    if not FLAGS.output:
        raise UserError("give --output, the file or folder for the results")
    has_dataset = FLAGS["dataset"].present
    if has_dataset == bool(FLAGS.input):
        raise UserError("give --input or --dataset, one of them")
    for name in _DATA_FLAGS:
        if FLAGS[name].present and not has_dataset:
            raise UserError(f"--{name} needs --dataset")
    output, inputs = pathlib.Path(FLAGS.output), [pathlib.Path(x) for x in FLAGS.input]
    purifier = Purifier(shared_flags.splic_config_from_flags(), FLAGS.seed, FLAGS.batch)
    if FLAGS.classify and has_dataset:
        raise UserError("--classify is for --input; for a data set use evaluate")
    for name in (*network_flags.NAMES, "class_names"):
        if FLAGS[name].present and not FLAGS.classify:
            raise UserError(f"--{name} needs --classify")
    network = network_flags.network_from_flags() if FLAGS.classify else None
    if network and FLAGS.class_names:
        network = network.named(CLASS_NAMES[FLAGS.class_names])
    if not has_dataset:
        return purify_files(
            inputs, output, purifier, overwrite=FLAGS.overwrite, network=network
        )
    dataset = shared_flags.dataset_from_flags(FLAGS.split)
    return purify_dataset(
        dataset, FLAGS.split, output, purifier, overwrite=FLAGS.overwrite
    )


def main(argv: Sequence[str]) -> int:
    del argv
    compilation.keep(_COMPILED)
    try:
        tally = _purify()
    except UserError as error:
        raise UserError(printable(error)) from error
    return 1 if tally.failed else 0


if __name__ == "__main__":
    define_flags()
    errors.run(main)
