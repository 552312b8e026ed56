"""A training run on disk: its description, and checkpoints that are whole or absent.

    out/train/run.json            the settings, the data set, the classes, the versions
    out/train/checkpoints/12/     after epoch 12: `model` and `optimizer` (Orbax), and
                                  `sha256`, the checksum of both

A checkpoint is written under another name and renamed when it is complete. `Saver`
does that while the training goes on.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import logging
import os
import pathlib
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from train import models
from train.data.loading import Dataset
from train.flags import SPLIC_FLAGS
from train.training.settings import TrainSettings
from train.utils.errors import UserError
from train.utils.files import write_whole

FORMAT = 1
KEPT = 2  # the newest checkpoint, and one to go back to should it be damaged


class LoadedModel(NamedTuple):
    """A trained classifier.

    Attributes:
        graphdef: the structure; see `train.models.split`.
        variables: the parameters and the batch statistics.
        settings: how it was trained; `settings.defense` holds the settings of the
            transform of its training images, not fitted, or is None.
        class_names: one name for each logit.
        dataset: the name ("name"), size ("num_train"), shape of an image
            ("image_shape") and checksum ("sha256") of its training set.
    """

    graphdef: nnx.GraphDef
    variables: nnx.State
    settings: TrainSettings
    class_names: tuple[str, ...]
    dataset: Mapping[str, Any]


def load_checkpoint(path: str | os.PathLike[str]) -> LoadedModel:
    """Loads the newest checkpoint of the run in the folder `path`.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    folder = pathlib.Path(path)
    run = _read_run(folder)
    if run is None:
        raise UserError(
            f"{folder} holds no training run (no run.json in it); give the folder that "
            "was --out of a training"
        )
    epoch = latest_epoch(folder)
    if epoch is None:
        raise UserError(
            f"{folder} holds no checkpoint yet; repeat its training command to go on"
        )
    try:
        settings = TrainSettings.from_dict(run["settings"])
        class_names = tuple(run["class_names"])
        dataset = dict(run["dataset"])
        channels = settings.input_channels(dataset["image_shape"][-1])
        model = models.outline(settings.model, len(class_names), channels=channels)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _damaged(folder / "run.json") from error
    graphdef, variables = models.split(model)
    variables = restore(folder, epoch, model=variables)["model"]
    return LoadedModel(graphdef, variables, settings, class_names, dataset)


def require_classes(
    path: str | os.PathLike[str], network: LoadedModel, dataset: Dataset
) -> None:
    """Raises a `UserError` if the network in `path` has other classes."""
    if network.class_names != dataset.class_names:
        raise UserError(
            f"{path} was trained on {network.dataset['name']}, not {dataset.name}; "
            f"give --dataset={network.dataset['name']}"
        )


def latest_epoch(folder: pathlib.Path) -> int | None:
    """Returns the number of the newest checkpoint, None where there is none."""
    return max(_epochs(folder), default=None)


def save(folder: pathlib.Path, epoch: int, **trees: Any) -> None:
    """Writes the pytrees as the checkpoint of `epoch`, and drops the oldest ones.

    Raises:
        UserError: if it cannot be written.
    """
    checkpoints = folder.resolve() / "checkpoints"
    temporary = checkpoints / "unfinished"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        with _quiet_orbax(), ocp.StandardCheckpointer() as checkpointer:
            for name, tree in trees.items():
                checkpointer.save(temporary / name, tree)
                checkpointer.wait_until_finished()
        (temporary / "sha256").write_text(_checksum(temporary))
        os.replace(temporary, checkpoints / str(epoch))
        for old in sorted(_epochs(folder))[:-KEPT]:
            shutil.rmtree(checkpoints / str(old))
    except (OSError, ValueError) as error:  # ValueError from Orbax, for a full disk
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(
            f"cannot write checkpoint {epoch} to {folder}: {reason}; mend that, then "
            "repeat the command to go on"
        ) from error


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Keeps Orbax's threads from logging errors that it also raises."""

    def keep(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


class Saver:
    """Calls a function that saves in another thread, for one checkpoint at a time.

        with Saver(save) as saver:
            saver.start(folder, epoch, state)    # the arrays may be donated from here

    Leaving waits for the running save. An error of a save is raised by the next call,
    or on leaving, in place of an error of the training.

    Args:
        save: ``(folder, epoch, tree)``, given a copy of the tree's arrays in NumPy.
    """

    def __init__(self, save: Callable[[pathlib.Path, int, Any], None]):
        self._save = save
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._under_way: concurrent.futures.Future[None] | None = None

    def start(self, folder: pathlib.Path, epoch: int, tree: Any) -> None:
        """Waits for the previous save, copies the arrays and begins to save them."""
        self.wait()
        # On a CPU `jax.device_get` may be a view of memory that a step reuses.
        copied = jax.tree.map(lambda leaf: np.array(leaf, copy=True), tree)
        self._under_way = self._thread.submit(self._save, folder, epoch, copied)

    def check(self) -> None:
        """Raises the error of a finished save; does not wait for a running one."""
        if self._under_way is not None and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Waits for the running save, if there is one, and raises its error."""
        if self._under_way is not None:
            concurrent.futures.wait([self._under_way])  # Ctrl-C may interrupt this
            done, self._under_way = self._under_way, None
            done.result()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()


def restore(folder: pathlib.Path, epoch: int, **likes: Any) -> dict[str, Any]:
    """Reads pytrees of the checkpoint of `epoch`.

    Args:
        folder: of the run.
        epoch: the checkpoint.
        **likes: for each tree to read, one of its structure, shapes and dtypes.

    Raises:
        UserError: if it is damaged, or is not of this structure.
    """
    checkpoint = folder.resolve() / "checkpoints" / str(epoch)
    # Checked beforehand, because Orbax takes some damage for a change of structure and
    # reports the rest from its threads, in many lines.
    try:
        intact = (checkpoint / "sha256").read_text() == _checksum(checkpoint)
    except (OSError, UnicodeDecodeError):
        intact = False
    if not intact:
        raise _damaged(checkpoint)
    # On this device, whichever it was saved from.
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    trees = {}
    with ocp.StandardCheckpointer() as checkpointer:
        for name, like in likes.items():
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), like
            )
            try:
                trees[name] = checkpointer.restore(checkpoint / name, abstract)
            except (ValueError, KeyError, OSError) as error:
                raise UserError(
                    f"{checkpoint} does not fit this version of the program; train "
                    "again in another folder"
                ) from error
    return trees


def start_run(
    folder: pathlib.Path,
    settings: TrainSettings,
    dataset: Dataset,
    ensemble: Sequence[nnx.State] = (),
) -> None:
    """Describes a new run in `folder`/run.json, or checks that this one resumes it.

    Args:
        folder: of the run.
        settings: how to train.
        dataset: the training images.
        ensemble: variables of networks that the run uses and does not change.

    Raises:
        UserError: if the folder holds a run with other settings, images or networks,
            naming the first flag that differs, or cannot be written.
    """
    run = {
        "format": FORMAT,
        "settings": settings.as_dict(),
        "dataset": {
            "name": dataset.name,
            "num_train": len(dataset.images),
            "image_shape": list(dataset.images.shape[1:]),
            "sha256": dataset_checksum(dataset),
        },
        "class_names": list(dataset.class_names),
        "ensemble": [weights_checksum(variables) for variables in ensemble],
        "versions": _versions(),
    }
    run = json.loads(json.dumps(run))
    found = _read_run(folder)
    if found is not None:
        try:
            _require_same(folder, found, run)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(folder / "run.json") from error
        return
    try:
        write_whole(folder / "run.json", (json.dumps(run, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; choose another --out"
        ) from error


def _require_same(folder: pathlib.Path, found: dict, run: dict) -> None:
    found, run = _flags(found), _flags(run)
    for flag, new in run.items():
        old = found.get(flag)
        if old != new:
            raise UserError(
                f"{folder} holds a run with {flag}={old}, not {new}; choose another "
                "--out, or delete that folder to start over"
            )


def _flags(run: dict) -> dict[str, Any]:
    """The settings of a run by the flags that set them, the most telling first."""
    # A run is older than some settings: it had what is the default now.
    settings = TrainSettings.from_dict(run["settings"]).as_dict()
    settings = json.loads(json.dumps(settings))
    dataset = dict(run["dataset"])
    defense = settings.pop("defense") or {"method": "none"}
    method = defense.pop("method", "splic")
    adversarial = settings.pop("adversarial")
    recipe = adversarial.pop("recipe")
    first, last = settings.pop("keep_range") or (None, None)
    values = {
        "--dataset": dataset["name"],
        "--num_train": dataset["num_train"],
        "--defense": method,
        "--adversarial": recipe,
        "--mask_start": first,
        "--mask_end": last,
    }
    start = settings.pop("initial_weights")
    values["--init"] = start and f"weights of checksum {start[:8]}"
    values |= {f"--{name}": value for name, value in settings.items()}
    for field, value in defense.items():
        flag = f"option={method}.{field}"
        if method == "splic" and field in SPLIC_FLAGS:
            flag = SPLIC_FLAGS[field][0]
        values[f"--{flag}"] = value
    for field, value in adversarial.items():
        values[f"--option={recipe}.{field}"] = value
    # Same names, same numbers, other contents: only the files can differ.
    values["--data_dir"] = f"images of checksum {dataset['sha256'][:8]}"
    found = ", ".join(checksum[:8] for checksum in run.get("ensemble", []))
    values["--ensemble"] = f"networks of checksums {found or 'none'}"
    return values


def _read_run(folder: pathlib.Path) -> dict | None:
    path = folder / "run.json"
    try:
        run = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path) from error
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        raise _damaged(path)
    return run


def _epochs(folder: pathlib.Path) -> list[int]:
    checkpoints = folder / "checkpoints"
    if not checkpoints.is_dir():
        return []
    return [int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal()]


def _checksum(checkpoint: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(checkpoint.glob("*/**/*")):
        if path.is_file():
            data = path.read_bytes()
            name = path.relative_to(checkpoint).as_posix()
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def weights_checksum(variables: nnx.State) -> str:
    """Returns the SHA-256 of a network's parameters and batch statistics."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(variables):
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()


def network_record(loaded: LoadedModel) -> dict[str, Any]:
    """What a network was trained with and on, for a record of results."""
    return {
        "settings": loaded.settings.as_dict(),
        "training_set": dict(loaded.dataset),
        "weights_sha256": weights_checksum(loaded.variables),
    }


def dataset_checksum(dataset: Dataset) -> str:
    """Returns the SHA-256 of a data set's images and labels."""
    digest = hashlib.sha256(np.ascontiguousarray(dataset.images))
    digest.update(np.ascontiguousarray(dataset.labels, np.int32))
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: metadata.version(name) for name in packages}
    return {
        "python": platform.python_version(),
        "platform": jax.default_backend(),
        **versions,
    }


def _damaged(path: pathlib.Path) -> UserError:
    if path.name == "run.json":
        return UserError(f"{path} is damaged; train again in another folder")
    return UserError(
        f"{path} is damaged; delete it to go back to the checkpoint before it"
    )
