"""The whole story in minutes: train, attack, purify, measure, and show it.

    ./launch.sh

Makes the `shapes` pictures, trains a small network on them as they are and one on
purified ones, attacks both, and writes `out/quickstart/`: `quickstart.json` with every
number and `quickstart.png`, the first test pictures clean, attacked and purified. What
an interrupted run finished is not done again.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from train.demonstrations import quickstart
from train.utils import compilation, errors

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this binary."""
    flags.DEFINE_string("out", "out/quickstart", "folder for everything it writes")
    flags.DEFINE_integer("num_train", 2000, "training pictures", lower_bound=1)
    flags.DEFINE_integer("num_test", 128, "pictures to attack", lower_bound=1)
    flags.DEFINE_integer("epochs", 15, "passes over the training set", lower_bound=1)
    flags.DEFINE_integer(
        "seed",
        0,
        "of the weights, the attacks and the masks",
        lower_bound=0,
        upper_bound=2**31 - 1,
    )
    compilation.define_flag("`compiled` in --out")
    flags.adopt_module_key_flags(compilation)  # list it under --help too


def main(argv: Sequence[str]) -> None:
    del argv
    folder = pathlib.Path(FLAGS.out)
    compilation.keep(folder / "compiled")
    quickstart.run(
        folder,
        num_train=FLAGS.num_train,
        num_test=FLAGS.num_test,
        epochs=FLAGS.epochs,
        seed=FLAGS.seed,
    )


if __name__ == "__main__":
    define_flags()
    errors.run(main)
