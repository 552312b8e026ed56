import pytest

from train.present.sentences import dataset_name

ORIGINALS = "9e9779c195eaddc45bca10b383af91b289d6124f6a53b03c698114928feaed37"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "shapes", "images": None}, "`shapes`"),
        ({"name": "npz", "images": "scans"}, "`npz`, scans"),
        ({"name": "cifar10", "images": "as published"}, "CIFAR-10, as published"),
        # Nobody said which, and nothing is made up.
        ({"name": "cifar10", "images": None, "sha256": "0"}, "CIFAR-10"),
        ({"name": "cifar10", "sha256": "0"}, "CIFAR-10, JPEG export"),  # as all once
        (
            {"name": "cifar10", "sha256": ORIGINALS},
            "CIFAR-10, 600 original test images",
        ),
    ],
)
def test_images_are_called_what_the_record_says(entry, words):
    assert dataset_name({"dataset": {"split": "test", "count": 9, **entry}}) == words
