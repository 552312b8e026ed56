import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from train.networks.weights import read_weights
from train.utils.errors import UserError
from train.utils.files import digest_of

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b.c": np.int32([7])}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_arrays_and_the_checksum_of_the_file(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **ARRAYS)
    else:
        save_file(ARRAYS, path, {"made by": "a test"})
    arrays, metadata, sha256 = read_weights(path)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
    assert metadata == ({} if suffix == ".npz" else {"made by": "a test"})
    assert sha256 == digest_of(path)


def executed(*_):
    raise AssertionError("a pickle was loaded")


class Trap:
    def __reduce__(self):
        return executed, ()


def test_no_pickle_is_loaded(tmp_path):
    (tmp_path / "model.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match=r"must end in \.npz or \.safetensors"):
        read_weights(tmp_path / "model.pt")
    np.savez(tmp_path / "objects.npz", a=np.array([Trap()], object))
    with pytest.raises(UserError, match="Python objects, which are pickles"):
        read_weights(tmp_path / "objects.npz")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match="is no .npz file"):
        read_weights(tmp_path / "pickle.npz")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_other_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(UserError, match="No such file"):
        read_weights(path)
    for content in (b"", b"no weights", b"PK\3\4" + bytes(40)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"is no {suffix} file"):
            read_weights(path)
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(UserError, match="holds no arrays"):
        read_weights(tmp_path / "empty.npz")
