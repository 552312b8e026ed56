"""A few images for the report: clean, attacked, purified, and under other settings.

    python -m train.samples --out=results     # with the quickstart's networks

The first test images are attacked on the network trained on images as they are, by
someone who does not know the defence (gray-box), and purified. Some of them are then
purified under a grid of ranks, weights of the total variation and keep probabilities,
each of which is compiled anew: seconds each. Writes into --out:

    samples.json    labels, what each network answers, PSNR, and where it comes from
    samples.png     a tile for each image: a row clean, a row attacked, a row purified
    explorer.png    a tile for each setting: `rows_an_image` rows for each image

An interrupted run goes on with the first setting that is missing.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from train import flags as shared_flags
from train.demonstrations import samples
from train.training.checkpoints import load_checkpoint, require_classes
from train.utils import compilation, errors
from train.utils.progress import Progress

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    FLAGS.set_default("num_test", 8)
    flags.DEFINE_string(
        "bare", "out/quickstart/bare", "run of a network trained on images as they are"
    )
    flags.DEFINE_string(
        "splic", "out/quickstart/splic", "run of one trained on purified images"
    )
    flags.DEFINE_integer(
        "num_explored", 3, "images purified under every setting", lower_bound=1
    )
    flags.DEFINE_integer("seed", 0, "of attack and masks", lower_bound=0)
    flags.DEFINE_string("out", "out/samples", "folder for what it writes")
    compilation.define_flag("`compiled` in the folder of --bare")
    flags.adopt_module_key_flags(compilation)


def main(argv: Sequence[str]) -> None:
    del argv
    folders = {name: pathlib.Path(FLAGS[name].value) for name in ("bare", "splic")}
    compilation.keep(folders["bare"].parent / "compiled")
    loaded = {name: load_checkpoint(folder) for name, folder in folders.items()}
    dataset = shared_flags.dataset_from_flags("test")
    for name, network in loaded.items():
        require_classes(folders[name], network, dataset)
        samples.require_trained(folders[name], network)
    samples.require_pair(loaded, dataset)
    samples.make_samples(
        pathlib.Path(FLAGS.out),
        loaded,
        dataset,
        explored=min(FLAGS.num_explored, len(dataset.images)),
        seed=FLAGS.seed,
        progress=Progress(),
    )


if __name__ == "__main__":
    define_flags()
    errors.run(main)
