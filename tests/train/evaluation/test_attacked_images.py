"""Attacked images on disk: what was judged is what is read."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from toys import LOGITS, brightness

from train.data.loading import Dataset
from train.evaluation.attacked_images import AttackedImages
from train.evaluation.cells import evaluate
from train.evaluation.plan import cell_name
from train.threats.attackers import AttackSettings
from train.utils.errors import UserError

COUNT = 70  # two batches, the second filled up
# Not a multiple of 1/255, and one step: images end between two levels.
ATTACK = AttackSettings(name="fgsm", epsilon=2.6 / 255)
STEM = "none/white-box/fgsm-l-inf-2.6-255-rounded-to-8-bits"


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    means = rng.uniform(0.47, 0.53, COUNT)
    images = rng.normal(means[:, None, None, None], 0.05, (COUNT, 6, 6, 3))
    images = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
    labels = (images.mean(axis=(1, 2, 3)) > 127.5).astype(np.int32)
    return Dataset("toy", images, labels, ("dark", "light"))


def saver(folder, seed=0):
    return AttackedImages(folder, {"seed": seed}, {"none": None})


def measured(dataset, save, **options):
    return evaluate(
        LOGITS,
        dataset,
        {"none": None},
        threats=("clean", "white-box"),
        attacks={"fgsm": ATTACK},
        save=save,
        **options,
    )


def right(pixels, labels):
    """Which of uint8 images the network gets right."""
    answers = brightness(jnp.asarray(pixels).astype(jnp.float32) / 255)
    return np.asarray(answers.argmax(axis=1)) == labels


def test_what_is_read_back_gives_the_accuracy(dataset, tmp_path):
    clean, cell = measured(dataset, saver(tmp_path))
    assert "saved" not in clean and clean["attack"] == "none"
    assert cell["attack"] == "FGSM, L-inf 2.6/255, rounded to 8 bits"
    assert cell["saved"]["file"] == f"{STEM}.npz"
    with np.load(tmp_path / cell["saved"]["file"]) as arrays:
        images, labels, correct = (arrays[x] for x in ("images", "labels", "correct"))
        about = json.loads(str(arrays["about"]))
    assert about["seed"] == 0 and about["attack"] == cell["attack"]
    pictures = sorted((tmp_path / STEM).iterdir())
    assert [path.name for path in pictures] == [f"{i:05d}.png" for i in range(COUNT)]
    read = np.stack([np.array(Image.open(path)) for path in pictures])
    np.testing.assert_array_equal(read, images)
    np.testing.assert_array_equal(labels, dataset.labels)
    np.testing.assert_array_equal(correct, right(read, labels))
    said = [answer == "1" for answer in cell["correct_by_image"]]
    np.testing.assert_array_equal(said, right(read, dataset.labels))
    assert 0 < cell["accuracy"] < clean["accuracy"] == 1
    assert cell["accuracy"] == right(read, dataset.labels).mean()
    # In the ball, and as far as levels go in it.
    assert np.abs(read.astype(int) - dataset.images).max() == 2
    _, floats = measured(dataset, None)
    assert floats["attack"] == "FGSM, L-inf 2.6/255" and "saved" not in floats
    assert floats["accuracy"] < cell["accuracy"]  # the ball's edge was more
    assert floats["queries_per_image"] < cell["queries_per_image"]


def test_images_are_known_again(dataset, tmp_path):
    save = saver(tmp_path)
    cells = measured(dataset, save)
    name = cell_name(cells[1])
    save.require_free([name])
    assert save.holds(cells[1])
    assert measured(dataset, save, done={name: cells[1]})[1] is cells[1]
    (tmp_path / STEM / "00003.png").unlink()
    assert not save.holds(cells[1])
    assert measured(dataset, save)[1] == cells[1]
    assert save.holds(cells[1])
    (tmp_path / f"{STEM}.npz").write_bytes(b"something else")
    assert not save.holds(cells[1])
    with pytest.raises(UserError, match=r"8-bits.npz is not of this evaluation"):
        save.require_free([name])


def test_a_folder_of_another_run_is_refused(dataset, tmp_path):
    name = cell_name(measured(dataset, saver(tmp_path))[1])
    with pytest.raises(UserError, match="give another --save_attacked"):
        saver(tmp_path, seed=1).require_free([name])
    other = tmp_path / "mine"
    (other / STEM).mkdir(parents=True)
    saver(other).require_free([name])
    (other / STEM / "holiday.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"8-bits is not of this evaluation"):
        saver(other).require_free([name])


def test_a_folder_that_cannot_be_written_is_named(dataset, tmp_path):
    (tmp_path / "none").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write .*give another --save_attacked"):
        measured(dataset, saver(tmp_path))
