"""Reruns the paper: Tables 1 to 4 and figures 3 to 12, each by name.

    python -m train.reproduce --scale=smoke
    python -m train.reproduce --only=table3,figure6 --scale=small --data_dir=DIR
    python -m train.reproduce --scale=workstation --weights=resnet20.npz --data_dir=DIR
    python -m train.reproduce --list

Each item leaves `<item>.json` in --out, and Markdown or figures beside it. Networks are
trained once for all items; one of your own can stand for the network Vanilla, the one
before which Tables 3 and 4 put their defences. An interrupted run goes on with the
network and the cell at which it stopped; what is measured is not measured again.
"""

import pathlib
from collections.abc import Sequence

import jax
from absl import flags

from train import flags as shared_flags
from train.networks import flags as network_flags
from train.networks.classifier import from_one
from train.reproductions.run import DATASETS, ITEMS, chosen, planned, run
from train.reproductions.scales import SCALES
from train.reproductions.workshop import Workshop
from train.utils import compilation, errors
from train.utils.progress import Progress

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this binary."""
    flags.DEFINE_list("only", None, "items to do, by the names of --list; default all")
    flags.DEFINE_string("scale", "smoke", f"how large: {', '.join(SCALES)}")
    flags.DEFINE_string(
        "dataset",
        None,
        f"the images: {', '.join(DATASETS)}; default shapes at --scale=smoke, "
        "else cifar10",
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "folder with the data set's files as its authors publish them; without it "
        "cifar10 and svhn_cropped are downloaded (shapes needs neither)",
    )
    flags.DEFINE_string(
        "test_data_dir", None, "likewise for the test images, if they are elsewhere"
    )
    flags.DEFINE_string(
        "surrogate",
        None,
        "network that a black-box attacker attacks, as `evaluate --surrogate` takes "
        "it; by default one is trained",
    )
    shared_flags.define_note_flag()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    network_flags.define_network_flags()
    flags.adopt_module_key_flags(network_flags)
    flags.DEFINE_string("out", "out/reproduce", "folder for everything it writes")
    flags.DEFINE_integer(
        "seed",
        0,
        "of the weights, the attacks and the masks",
        lower_bound=0,
        upper_bound=2**31 - 2,
    )
    flags.DEFINE_bool("list", False, "list the items and stop")
    flags.DEFINE_bool("dry_run", False, "list the networks and the cells and stop")
    compilation.define_flag("`compiled` in --out")
    flags.adopt_module_key_flags(compilation)


def main(argv: Sequence[str]) -> None:
    del argv
    if FLAGS.list:
        for name, item in ITEMS.items():
            print(f"{name}: {item.title}")
        return
    if FLAGS.scale == "smoke":
        # With a device for each core, each would compile again what takes no time to
        # run. To be set before JAX is first used, as loading weights does.
        jax.config.update("jax_num_cpu_devices", 1)
    given = None
    if any(FLAGS[name].present for name in network_flags.NAMES):
        given = network_flags.network_from_flags()
    surrogate = FLAGS.surrogate and from_one(
        FLAGS.surrogate, f"--surrogate={FLAGS.surrogate}"
    )
    asked = FLAGS.only, FLAGS.scale, FLAGS.dataset
    names, scale, dataset = chosen(*asked, given, surrogate)
    folder = pathlib.Path(FLAGS.out)
    workshop = Workshop(
        scale,
        dataset,
        FLAGS.data_dir,
        folder,
        FLAGS.seed,
        Progress(),
        given,
        surrogate=surrogate,
        test_data_dir=FLAGS.test_data_dir,
        images_note=FLAGS.images_note,
    )
    if FLAGS.dry_run:
        print(planned(names, workshop))
        return
    compilation.keep(folder / "compiled")
    run(names, workshop)


if __name__ == "__main__":
    define_flags()
    errors.run(main)
