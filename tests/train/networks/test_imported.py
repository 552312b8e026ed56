import sys

import numpy as np
import pytest

from train.networks.imported import import_function
from train.utils.errors import UserError
from train.utils.files import digest_of

SOURCE = """
import jax.numpy as jnp

SIZE = 3


class Group:
    @staticmethod
    def double(images):
        return 2 * images


def load(weights):
    return lambda images: images * weights["factor"]


def nothing():
    return lambda images: images


def loss(images, labels):
    return images


def fails(weights):
    return weights["missing"]


def no_function(weights):
    return 1
"""


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return path


def test_a_function_or_what_a_factory_makes(net):
    found = import_function(f"{net}:load", {"factor": np.float32(3)})
    assert found.name == "net.py:load"
    assert found.sha256 == digest_of(net)
    assert found.function(np.float32(2)) == 6
    assert import_function(f"{net}:Group.double", None).function(2) == 4
    assert import_function(f"{net}:nothing", None).function(2) == 2


def test_a_module_of_the_current_folder(net, monkeypatch):
    (net.parent / "given_package").mkdir()
    net.rename(net.parent / "given_package" / "nets.py")
    monkeypatch.chdir(net.parent)
    found = import_function("given_package.nets:load", {"factor": 5})
    assert found.name == "given_package.nets:load"
    assert found.function(2) == 10


@pytest.mark.parametrize(
    ("spec", "weights", "message"),
    [
        ("net.py", None, "is not FILE_OR_MODULE:NAME"),
        ("other.py:load", None, "no file other.py"),
        ("no_such_module:load", None, "cannot import no_such_module: ModuleNotFound"),
        ("net.py:other", None, "net.py has no 'other'"),
        ("net.py:SIZE", None, "SIZE is no function"),
        ("net.py:loss", None, r"takes 2 arguments; .*neither labels nor a loss"),
        ("net.py:fails", {}, r"fails\(weights\) fails: KeyError: 'missing' \(line 26 "),
        ("net.py:no_function", {}, "returns int, not a function of images; with w"),
        ("net.py:nothing", {}, "fails: TypeError"),
    ],
)
def test_mistakes_are_one_line(net, monkeypatch, spec, weights, message):
    monkeypatch.chdir(net.parent)
    with pytest.raises(UserError, match=message) as caught:
        import_function(spec, weights)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["def load(:", "import no_such_package", "1 / 0"])
def test_a_file_that_fails_is_named(net, source):
    net.write_text(source)
    with pytest.raises(UserError, match=r"net.py fails: \w+Error") as caught:
        import_function(f"{net}:load", None)
    assert "\n" not in str(caught.value)
