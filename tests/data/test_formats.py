"""Readers give back what was written, and name what is damaged."""

import gzip
import struct

import numpy as np
import pytest

from funcdl import data


def write_idx(path, array, code):
    raw = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    raw += array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


@pytest.mark.parametrize(
    ("dtype", "code"), [("u1", 8), ("i1", 9), ("i2", 11), ("i4", 12), ("f4", 13), ("f8", 14)]
)
@pytest.mark.parametrize("name", ["a.idx", "a.gz"])
def test_idx_comes_back(tmp_path, dtype, code, name):
    array = np.arange(-12, 12).reshape(2, 3, 4).astype(dtype)
    write_idx(tmp_path / name, array, code)
    found = data.idx(tmp_path / name)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.dtype(dtype)
    assert found.dtype.isnative


def test_npy_and_npz_come_back(tmp_path):
    x = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x, y=x + 1)
    np.testing.assert_array_equal(data.npy(tmp_path / "x.npy"), x)
    (y,) = data.npz(tmp_path / "x.npz", "y")
    np.testing.assert_array_equal(y, x + 1)
    assert sorted(data.npz(tmp_path / "x.npz")) == ["x", "y"]


@pytest.mark.parametrize("place", range(0, 1200, 61))
def test_a_flipped_byte_of_an_npz_never_gives_wrong_numbers(tmp_path, place):
    x = np.random.default_rng(0).normal(size=(10, 13))
    path = tmp_path / "x.npz"
    np.savez(path, x=x)
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] ^= 0x10
    path.write_bytes(raw)
    try:
        (found,) = data.npz(path, "x")
    except ValueError:  # DataError, or no array of that name
        return
    np.testing.assert_array_equal(found, x)


def test_digits_are_the_ones_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    (x, y), (x_test, y_test) = data.digits()
    ours = np.concatenate([x, x_test]).reshape(1797, 64) * 16
    theirs = datasets.load_digits()
    order = lambda rows, labels: np.lexsort((*rows.T, labels))
    labels = np.concatenate([y, y_test])
    a, b = order(ours, labels), order(theirs.data, theirs.target)
    np.testing.assert_array_equal(ours[a], theirs.data[b])
    np.testing.assert_array_equal(labels[a], theirs.target[b])
    assert np.bincount(y_test).min() >= 35


def test_mnist_is_read_from_a_folder(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, n, suffix in [("train", 6, ""), ("t10k", 3, ".gz")]:
        images = rng.integers(0, 256, (n, 28, 28)).astype("u1")
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte{suffix}", images, 8)
        labels = rng.integers(0, 10, n).astype("u1")
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte{suffix}", labels, 8)
    train, test = data.mnist(tmp_path)
    assert train[0].shape == (6, 28, 28, 1)
    assert test[0].dtype == np.uint8
    batch = data.Batches(train, 2, transform=data.unit_range).at(0)
    np.testing.assert_allclose(batch[0], train[0][:2] / np.float32(255), rtol=1e-6)


def test_a_file_of_one_array_and_a_file_of_several_are_not_confused(tmp_path):
    np.save(tmp_path / "one.npy", np.arange(3))
    np.savez(tmp_path / "two.npz", a=np.arange(3), b=np.ones(2))
    (tmp_path / "renamed.npy").write_bytes((tmp_path / "two.npz").read_bytes())
    for name in ("two.npz", "renamed.npy"):
        with pytest.raises(data.DataError, match=r"arrays \['a', 'b'\]; use data\.npz"):
            data.npy(tmp_path / name)
    for names in ((), ("a",)):
        with pytest.raises(data.DataError, match=r"one array of shape \(3,\); use data\.npy"):
            data.npz(tmp_path / "one.npy", *names)
    assert data.npy(tmp_path / "one.npy").tolist() == [0, 1, 2]
