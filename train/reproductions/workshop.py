"""Trains networks and measures cells, each once however many tables want it."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from splic_jax import method_of
from splic_jax.transforms import TransformConfig, as_dict, fitted
from train import models
from train.data import loading
from train.evaluation.cells import Cell, measure
from train.networks.classifier import Classifier
from train.reproductions.cells import Wanted
from train.reproductions.networks import SURROGATE, VANILLA, training_settings
from train.reproductions.scales import Scale
from train.threats.attackers import AttackSettings, knows_defense
from train.threats.defended import Network
from train.training.checkpoints import LoadedModel, weights_checksum
from train.training.loop import train
from train.training.settings import TrainSettings
from train.utils.progress import Progress


@dataclasses.dataclass
class Workshop:
    """What the items of one reproduction share.

    Attributes:
        scale: how large it is.
        dataset_name, data_dir: of the images.
        folder: --out; networks lie in `networks` in it.
        seed: of the weights, the attacks and the masks.
        progress: where to show how far it is.
        given: what stands for the network `networks.VANILLA`, which is else trained.
        surrogate: what stands for the surrogate, which is else trained.
        test_data_dir: of the test images, where they are not in `data_dir`.
        images_note: which test images these are, in words.
        known: summaries measured before, by what `identity` says of them.
    """

    scale: Scale
    dataset_name: str
    data_dir: str | None
    folder: pathlib.Path
    seed: int
    progress: Progress
    given: Classifier | None = None
    test_data_dir: str | None = None
    surrogate: Classifier | None = None
    images_note: str | None = None
    known: dict[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    _fitted: dict[str, TransformConfig] = dataclasses.field(default_factory=dict)
    _networks: dict[str, LoadedModel] = dataclasses.field(default_factory=dict)
    # By what is attacked and how many images: the same for all that stands before it.
    _attacked: dict[tuple[str, bool, int], dict] = dataclasses.field(
        default_factory=dict
    )

    @functools.cached_property
    def training(self) -> loading.Dataset:
        return self._load("train", self.scale.num_train)

    @functools.cached_property
    def whole_test(self) -> loading.Dataset:
        return self._load("test", self.scale.num_test)

    @functools.cached_property
    def test(self) -> loading.Dataset:
        """The test images that no setting was chosen on."""
        return _part(self.whole_test, slice(self.scale.chosen_on, None))

    def _load(self, split: str, count: int | None) -> loading.Dataset:
        given = self.test_data_dir if split == "test" else None
        return loading.load(
            self.dataset_name,
            split,
            data_dir=given or self.data_dir,
            num_examples=count,
        )

    def fitted(self, config: TransformConfig) -> TransformConfig:
        """The settings with what the transform needs of the training images."""
        if not method_of(config).fit:
            return config
        name = repr(config)
        if name not in self._fitted:
            key = jax.random.key(self.seed)
            self._fitted[name] = fitted(config, self.training.images, key)
        return self._fitted[name]

    @functools.cached_property
    def clean_accuracy(self) -> dict[str, Any] | None:
        """What the check of the network that was given found, if it had one.

        Raises:
            UserError: if it is not for these images.
        """
        return self.given and self.given.fit(self.test)

    def given_as(self, name: str) -> Classifier | None:
        """What was given to stand for a network."""
        return {VANILLA: self.given, SURROGATE: self.surrogate}.get(name)

    def training_settings(self, name: str) -> TrainSettings:
        """How a network is trained."""
        settings = training_settings(name, self.scale, self.seed)
        initial = self.initial(name)
        if initial is None:
            return settings
        return dataclasses.replace(settings, initial_weights=weights_checksum(initial))

    def initial(self, name: str) -> nnx.State | None:
        """The weights that a network starts from; None where they are drawn."""
        if not self.scale.starts_from_given or name == SURROGATE:
            return None
        return self.given.split[1]

    def network_record(self, name: str) -> dict[str, Any]:
        """How a network is trained, or what the one is that was given."""
        given = self.given_as(name)
        return dict(given.record) if given else self.training_settings(name).as_dict()

    def network(self, name: str) -> LoadedModel:
        """A trained network; trains it, or goes on with its training, where needed."""
        if name not in self._networks:
            self.progress.line(f"network '{name}'")
            self._networks[name] = train(
                self.training_settings(name),
                self.training,
                self.test,
                self.folder / "networks" / name,
                initial=self.initial(name),
                cache_dir=self.folder / "purified",
                progress=self.progress,
            )
        return self._networks[name]

    def logits(self, name: str) -> Network:
        """A trained network as images -> logits."""
        if given := self.given_as(name):
            return given.logits
        loaded = self.network(name)
        return models.logits_function(loaded.graphdef, loaded.variables)

    def images(self, wanted: Wanted) -> loading.Dataset:
        """The test images of a cell: fewer where a defence is asked very often."""
        costly = wanted.costly
        if costly is None:
            costly = wanted.threat == "adaptive" or (
                wanted.attack == "cw" and wanted.threat == "white-box" and wanted.config
            )
        test = self.whole_test if wanted.whole else self.test
        return _part(test, slice(self.scale.num_costly if costly else None))

    def attack(self, wanted: Wanted) -> AttackSettings:
        """The settings of a cell's attack."""
        if wanted.attack is None:
            return AttackSettings()
        return self.scale.attacks()[wanted.attack]

    def identity(self, wanted: Wanted) -> dict[str, Any]:
        """What a cell's number depends on, within one reproduction."""
        attack = self.attack(wanted) if wanted.attack else None
        values = {
            "network": wanted.network,
            "defense_settings": wanted.config and as_dict(wanted.config),
            "threat": wanted.threat,
            "attack_settings": attack and dataclasses.asdict(attack),
            "count": len(self.images(wanted).images),
            **({"whole": True} if wanted.whole else {}),
        }
        return json.loads(json.dumps(values))

    def remember(self, cell: Mapping[str, Any]) -> None:
        """Keeps a cell that was measured earlier."""
        self.known[json.dumps(cell["identity"], sort_keys=True)] = cell

    def measure(self, wanted: Wanted) -> tuple[dict[str, Any], bool]:
        """A cell's summary, and whether it is a new one."""
        identity = self.identity(wanted)
        found = self.known.get(json.dumps(identity, sort_keys=True))
        new = found is None
        if new:
            found = {"identity": identity, **self._measure(wanted).summary()}
            self.remember(found)
        place = {"row": wanted.row, "column": wanted.column}
        return {**found, **place, "defense": wanted.defense}, new

    def _measure(self, wanted: Wanted) -> Cell:
        images = self.images(wanted)
        transfers = wanted.threat == "black-box"
        target = SURROGATE if transfers else wanted.network
        config = wanted.config and self.fitted(wanted.config)
        kept = self._attacked.setdefault((target, wanted.whole, len(images.images)), {})
        if wanted.config is not None and knows_defense(wanted.threat):
            kept = {}
        name = f"{wanted.row}, {wanted.column}"
        with self.progress.stage(name, len(images.images), lines=False) as advance:
            return measure(
                self.logits(wanted.network),
                images,
                wanted.threat,
                wanted.defense,
                config,
                attack=self.attack(wanted),
                seed=self.seed,
                surrogate=self.logits(SURROGATE) if transfers else None,
                attacked=kept,
                advance=advance,
            )

    def keys(self) -> tuple[jax.Array, jax.Array]:
        """The keys of attacks and masks, those of the cells."""
        return tuple(jax.random.split(jax.random.key(self.seed)))


def _part(dataset: loading.Dataset, which: slice) -> loading.Dataset:
    return dataclasses.replace(
        dataset, images=dataset.images[which], labels=dataset.labels[which]
    )
