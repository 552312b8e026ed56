import re

import given_networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.data.loading import Dataset
from train.networks.checking import CHECKED, check
from train.utils.errors import UserError

CLASSES = tuple("0123456789")
right = given_networks.logits


def dataset(count=40, size=8):
    return Dataset("greys", *given_networks.greys(count, size), CLASSES)


def checked(function, data=None):
    return check("net", function, __file__, data or dataset())


def test_the_accuracy_on_the_first_images():
    assert checked(right) == {"count": 40, "correct": 40, "accuracy": 1.0}
    assert checked(right, dataset(CHECKED + 10))["count"] == CHECKED

    def half(images):
        return right(jnp.where(images.mean((1, 2, 3), keepdims=True) < 0.5, images, 0))

    assert checked(half)["correct"] == 20


def nchw(images):
    """Knows the left half of an image from the right one, and colour from place."""
    kernel = jnp.zeros((1, 3, 1, 1)).at[0, 0].set(1)
    x = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW")
    )
    return right(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (nchw, "takes images in the order NCHW"),
        (lambda x: right(x / 255), "100.0% given pixels from 0 to 255"),
        (lambda x: right((x + 1) / 2), "100.0% given pixels from -1 to 1"),
        (
            lambda x: right(x * jnp.array((0.229, 0.224, 0.225)) + 0.45),
            "given pixels normalised as",
        ),
        (lambda x: right(x)[:, ::-1], "right on 0.0% of 40 clean images, which is"),
        (lambda x: jnp.zeros((len(x), 10)), "right on 10.0% of 40 .*, which is chance"),
        (lambda x: right(x)[:, :7], "returns 7 logits an image; greys has 10 classes"),
        (lambda x: right(x).argmax(1), r"returns int32 \[40\] for 40 images; it must"),
        (lambda x: right(x).mean(), r"returns float32 \[\] for 40 images"),
        (lambda x: (right(x), x), "returns tuple for 40 images"),
        (lambda x: right(x).astype(int), "returns int32; logits are floats"),
        (lambda x: right(x) / jnp.where(x[:, :1, 0, 0] < 0.1, 0, 1), "for 4 of 40"),
        (lambda x: jax.nn.softmax(right(x)), "returns probabilities"),
        (lambda x: right(x - x.mean() + 0.5), "depend on the others in its batch"),
        (lambda x: right(np.asarray(x)), r"TracerArrayConversionError: .*line \d+ of"),
        (lambda x: right(x.reshape(-1, 7)), r"fails on images float32 \[40, 8, 8, 3\]"),
        (lambda x: right, "names a factory"),
    ],
)
def test_other_conventions_are_found_out(function, message):
    with pytest.raises(UserError) as caught:
        checked(function)
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_few_images_tell_nothing():
    data = dataset(1)
    assert checked(lambda x: right(x)[:, ::-1], data)["correct"] == 0
