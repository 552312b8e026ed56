"""How large a reproduction is: everything that differs between the scales is here."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from train.threats.attackers import PRESETS, AttackSettings


@dataclasses.dataclass(frozen=True)
class Scale:
    """The size of a reproduction.

    Attributes:
        name: what --scale calls it.
        about: what a reader has to know of it, in a sentence.
        model: the network, one of `train.models.NAMES`.
        surrogate: the network of the black-box attacker, of another seed and, but for
            smoke, architecture.
        num_train, num_test: images; None for all.
        num_costly: test images of the attacks that ask a defence thousands of times;
            None for all.
        epochs: passes over the training images, for every network.
        batch_size: images in a training step.
        learning_rate: of the training, at its first step.
        epochs_in_step: of networks whose images are attacked or transformed in each
            step; None for `epochs`.
        several_masks: whether SPLIC, too, trains on `masks_per_image` versions.
        starts_from_given: whether networks start from the weights of the one that
            stands for Vanilla, which then has to be given.
        rows: of Tables 1 and 2, by their names in `networks.ROWS`; the paper's where
            there are none.
        compute_dtype: of the training, as `TrainSettings` has it.
        masks_per_image: of ME-Net: versions of each training image.
        training_steps, training_step_size: of PGD in adversarial training; the size in
            pixel values.
        pgd_steps, cw_steps, eot_steps, eot_samples: of the attacks.
        sweep_eot_samples: masks of the adaptive attack in the sweep of `choice`.
        adaptive: rows of Table 2 that meet the adaptive attacks; None for all that
            have a random defence.
        long_pgd: whether networks without a defence meet PGD of 100 steps in Table 2.
        smoothers: columns of figure 7.
        ranks, tv_weights, keep_probabilities: of the sweeps of figures 6, 9 and 11.
        photograph_ranks: of figure 5, on 112 x 112 pixels.
        retrains: whether figure 9 trains a network for each weight, or takes the one
            trained at the default.
        chosen_on: of the test images, how many, from the first on, settings are chosen
            on; tables and figures show the others.
        variants: of the sweep of `choice`, by name; all where there are none.
    """

    name: str
    about: str
    model: str
    surrogate: str
    num_train: int | None
    num_test: int | None
    num_costly: int | None
    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    epochs_in_step: int | None = None
    several_masks: bool = False
    starts_from_given: bool = False
    rows: tuple[str, ...] = ()
    compute_dtype: str = "float32"
    masks_per_image: int = 10
    training_steps: int = 7
    training_step_size: float = 2 / 255
    pgd_steps: int = PRESETS["pgd"].steps
    cw_steps: int = PRESETS["cw"].steps
    eot_steps: int = PRESETS["eot"].steps
    eot_samples: int = PRESETS["eot"].eot_samples
    sweep_eot_samples: int = 5
    adaptive: tuple[str, ...] | None = None
    long_pgd: bool = True
    smoothers: tuple[str, ...] = ("Clean", "FGSM", "PGD", "CW")
    ranks: tuple[int, ...] = (2, 4, 6, 8, 12, 16, 32)
    tv_weights: tuple[float, ...] = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.5)
    keep_probabilities: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    photograph_ranks: tuple[int, ...] = (112, 56, 28, 14, 7)
    retrains: bool = False
    chosen_on: int = 0
    variants: tuple[str, ...] = ()

    def attacks(self) -> Mapping[str, AttackSettings]:
        """The attacks by their preset's name, with this scale's numbers of steps."""
        eot = {"steps": self.eot_steps, "eot_samples": self.eot_samples}
        changed = {
            "fgsm": {},
            "pgd": {"steps": self.pgd_steps},
            "cw": {"steps": self.cw_steps},
            "eot": eot,
            "gradient-eot": eot,
        }
        attacks = {
            name: dataclasses.replace(PRESETS[name], **values)
            for name, values in changed.items()
        }
        eot = dataclasses.replace(attacks["eot"], eot_samples=self.sweep_eot_samples)
        # What an average over draws is to a defence without any.
        bpda = dataclasses.replace(PRESETS["pgd"], steps=self.eot_steps)
        return attacks | {
            "pgd-100": PRESETS["pgd-100"],
            "sweep-eot": eot,
            "bpda": bpda,
        }


def _networks(model: str, surrogate: str) -> dict[str, str]:
    return {"model": model, "surrogate": surrogate}


def _images(train: int | None, test: int | None, costly: int | None) -> dict[str, Any]:
    return {"num_train": train, "num_test": test, "num_costly": costly}


SCALES: Mapping[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale(
            "smoke",
            "a test that everything runs: a few images, two steps of training and of "
            "the attacks; its numbers say nothing about the paper",
            # Compiling takes most of the time: programs that others use as well.
            **_networks("small", "small"),
            **_images(128, 16, 16),
            epochs=1,
            batch_size=64,
            masks_per_image=2,
            training_steps=2,
            pgd_steps=2,
            cw_steps=5,
            eot_steps=2,
            eot_samples=2,
            adaptive=("SPLIC",),
            long_pgd=False,
            smoothers=("Clean", "PGD"),
            ranks=(2, 8),
            tv_weights=(0.0, 0.15),
            keep_probabilities=(0.5, 0.9),
            photograph_ranks=(56, 7),
            chosen_on=4,
            variants=("none", "separate, lambda 0.02", "separate, lambda 0.15"),
        ),
        Scale(
            "workstation",
            "what two CPU cores do in hours: networks fine-tuned from the one that is "
            "given, adversarial training with one step, the test images after the "
            "first 200, on which settings were chosen, 100 of them where an attack "
            "asks a defence thousands of times, 50 steps of C&W, and adaptive attacks "
            "of 20 steps over 20 masks",
            **_networks("resnet20", "resnet56"),
            **_images(None, 600, 100),
            epochs=4,
            learning_rate=0.05,
            epochs_in_step=2,
            several_masks=True,
            starts_from_given=True,
            rows=(
                "Vanilla",
                "SPLIC",
                "Fast AT",
                "ME-Net, USVT",
                "SPLIC + Fast AT",
                "ME-Net",
            ),
            masks_per_image=2,
            cw_steps=50,
            eot_steps=20,
            eot_samples=20,
            # C&W through SPLIC asks it too often.
            smoothers=("Clean", "FGSM", "PGD"),
            chosen_on=200,
        ),
        Scale(
            "small",
            "not the paper's setting: 6 epochs, 1,000 test images, 100 of them where "
            "an attack asks a defence thousands of times, and 100 steps of C&W",
            **_networks("resnet18", "resnet18_denoise"),
            **_images(None, 1000, 100),
            epochs=6,
            compute_dtype="bfloat16",
            masks_per_image=2,
            cw_steps=100,
        ),
        Scale(
            "paper",
            "the paper's network, images and attacks; it does not print its number of "
            "epochs, which is 100 here",
            **_networks("resnet18", "resnet18_denoise"),
            **_images(None, None, None),
            epochs=100,
            retrains=True,
        ),
    )
}
