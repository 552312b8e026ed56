"""Measures a classifier, bare and behind defences, clean and under attack.

    python -m train.evaluate --checkpoint=out/train --out=out/evaluation.json
    python -m train.evaluate --network=net.py:load --weights=net.npz --dataset=cifar10
    python -m train.evaluate --list      # lists the defences

Prints a table and writes the same as JSON, cell by cell: an interrupted run resumes at
the first missing cell. Results of other settings are never overwritten. See
`train.evaluation.cells` for who knows what.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

from absl import flags

from splic_jax import METHODS, SPLICConfig
from splic_jax.transforms import TransformConfig, as_dict, returns_images
from train import flags as shared_flags
from train.evaluation.run import Evaluation, fitting_defenses, run
from train.networks import flags as network_flags
from train.networks.classifier import from_one
from train.threats.attackers import ATTACKS_OF, PRESETS, THREATS, AttackSettings
from train.threats.defended import list_defenses
from train.utils import compilation, errors
from train.utils.errors import UserError

FLAGS = flags.FLAGS
DEFENSES = ("none", *METHODS)


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    shared_flags.define_splic_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    flags.DEFINE_bool("list", False, "list the defences and stop")
    network_flags.define_network_flags()
    flags.adopt_module_key_flags(network_flags)
    flags.DEFINE_list(
        "defenses",
        None,
        "what stands before the network: none, names that --list prints, or all that "
        "fit the network; "
        "default none and what the network was trained with, or else splic",
    )
    shared_flags.define_option_flag()
    flags.DEFINE_integer(
        "votes",
        1,
        "draws of a random defence that vote on an image",
        lower_bound=1,
    )
    flags.DEFINE_enum(
        "vote",
        "logits",
        ["logits", "majority"],
        "how they vote: by the mean of their logits, or one draw one vote",
    )
    flags.DEFINE_list(
        "threats",
        list(THREATS),
        f"of {', '.join(THREATS)}; black-box needs --surrogate",
    )
    flags.DEFINE_string(
        "surrogate",
        None,
        "the network that a black-box attacker attacks instead: the folder of a "
        "training run, a file as --weights alone takes it, or FILE_OR_MODULE:NAME, and "
        "after a comma the file of its weights",
    )
    flags.DEFINE_list(
        "attacks",
        ["pgd"],
        f"of {', '.join(PRESETS)}; each threat runs those that apply to it: "
        + "; ".join(f"{t} {', '.join(a)}" for t, a in ATTACKS_OF.items() if a),
    )
    default = AttackSettings()
    flags.DEFINE_float("epsilon", default.epsilon * 255, "radius, in 1/255")
    flags.DEFINE_float("attack_step", default.step_size * 255, "step of pgd, in 1/255")
    flags.DEFINE_integer(
        "attack_steps", default.steps, "gradient steps of pgd", lower_bound=0
    )
    flags.DEFINE_integer(
        "seed",
        0,
        "of the attack's start and the masks",
        lower_bound=0,
        upper_bound=2**31 - 1,
    )
    flags.DEFINE_enum(
        "split", "test", ["test", "cue_conflict"], "which images (shapes has both)"
    )
    flags.DEFINE_bool(
        "soundness", True, "look for signs of overestimated accuracy (docs/protocol.md)"
    )
    flags.DEFINE_string(
        "save_attacked",
        None,
        "folder for the attacked images, as PNG files and .npz; they are rounded to "
        "8 bits first, and judged as they are written (docs/attacks.md)",
    )
    flags.DEFINE_bool("dry_run", False, "list the cells and their time, and stop")
    flags.DEFINE_string("out", "out/evaluation.json", "JSON file for the results")
    compilation.define_flag("`compiled` beside --out")
    flags.adopt_module_key_flags(compilation)


def defenses_from_flags(
    names: Sequence[str] | None, trained_with: TransformConfig | None
) -> dict[str, TransformConfig | None]:
    """Name to settings, in the order asked for; None for "none".

    Settings without a flag are those of the network's training if it used the method,
    else the defaults.

    Args:
        names: as --defenses has them.
        trained_with: settings of the transform the network was trained with, or None.

    Raises:
        UserError: for an unknown name, or settings that make no sense.
    """
    if names is None:
        trained = as_dict(trained_with)["method"] if trained_with else "splic"
        # A network that takes a defence's codes takes no images without it.
        bare = trained_with is None or returns_images(trained_with)
        names = ["none", trained] if bare else [trained]
    elif list(names) == ["all"]:
        names = DEFENSES
    shared_flags.require_known("--defenses", names, DEFENSES)
    known = {name: method.config for name, method in METHODS.items()}
    splic = SPLICConfig()
    if isinstance(trained_with, SPLICConfig):
        weight = trained_with.tv_weight or splic.tv_weight  # "splic" has one
        splic = dataclasses.replace(trained_with, tv_weight=weight)
    elif trained_with is not None:
        known[as_dict(trained_with)["method"]] = trained_with
    known["splic"] = shared_flags.splic_config_from_flags(splic)
    known = shared_flags.with_options(known)
    # "splic_no_tv" is "splic" but for the total variation, and what options say of it.
    known["splic_no_tv"] = dataclasses.replace(known["splic"], tv_weight=0.0)
    known["splic_no_tv"] = shared_flags.with_options(known)["splic_no_tv"]
    return {name: known.get(name) for name in names}


def attacks_from_flags() -> dict[str, AttackSettings]:
    """Name to settings of the attacks asked for.

    Raises:
        UserError: for an unknown name or an invalid number.
    """
    if not (0 <= FLAGS.epsilon < math.inf and 0 < FLAGS.attack_step < math.inf):
        raise UserError("--epsilon must be 0 or more, and --attack_step above 0")
    shared_flags.require_known("--attacks", FLAGS.attacks, tuple(PRESETS))
    attacks = {
        name: dataclasses.replace(PRESETS[name], epsilon=FLAGS.epsilon / 255)
        for name in FLAGS.attacks
    }
    if "pgd" in attacks:
        attacks["pgd"] = dataclasses.replace(
            attacks["pgd"], step_size=FLAGS.attack_step / 255, steps=FLAGS.attack_steps
        )
    return attacks


def evaluation_from_flags() -> Evaluation:
    """What the flags ask for.

    Raises:
        UserError: for what makes no sense, naming the flag.
    """
    network = network_flags.network_from_flags()
    defenses = defenses_from_flags(FLAGS.defenses, network.defense)
    shared_flags.require_known("--threats", FLAGS.threats, THREATS)
    surrogate = None
    if FLAGS.surrogate:
        surrogate = from_one(FLAGS.surrogate, f"--surrogate={FLAGS.surrogate}")
    if "black-box" in FLAGS.threats and FLAGS["threats"].present and not surrogate:
        raise UserError("--threats=black-box needs --surrogate, the network to attack")
    attacks = attacks_from_flags()
    dataset = shared_flags.dataset_from_flags(FLAGS.split)
    shape = dataset.images.shape[1:]
    found = network.fit(dataset)
    if surrogate:
        surrogate.fit(dataset)
    if surrogate and surrogate.input_channels(shape[-1]) != shape[-1]:
        raise UserError(
            f"--surrogate={FLAGS.surrogate} takes codes, not images; give another"
        )
    return Evaluation(
        network=network,
        clean_accuracy=found,
        dataset=dataset,
        split=FLAGS.split,
        defenses=fitting_defenses(
            defenses,
            network,
            shape,
            lambda: shared_flags.dataset_from_flags("train"),
            drop=FLAGS.defenses == ["all"],
        ),
        threats=tuple(FLAGS.threats),
        attacks=attacks,
        surrogate=surrogate,
        save_attacked=FLAGS.save_attacked and pathlib.Path(FLAGS.save_attacked),
        **shared_flags.values_of("votes", "vote", "seed", "soundness"),
    )


def main(argv: Sequence[str]) -> None:
    del argv
    if FLAGS.list:
        print(list_defenses())
        return
    compilation.keep(pathlib.Path(FLAGS.out).parent / "compiled")
    run(evaluation_from_flags(), pathlib.Path(FLAGS.out), dry_run=FLAGS.dry_run)


if __name__ == "__main__":
    define_flags()
    errors.run(main)
