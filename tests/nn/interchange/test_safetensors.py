"""What is written comes back bit for bit, or is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from funcdl import nn

TREE = {
    "a": [jnp.arange(6.0).reshape(2, 3), jnp.asarray(2.5)],
    "b": {"bf16": jnp.arange(3, dtype=jnp.bfloat16), "none": jnp.zeros((0, 2))},
    "n": jnp.int8([-1, 2]),
}


@pytest.fixture
def file(tmp_path):
    nn.save_safetensors(tmp_path / "net.safetensors", TREE)
    return tmp_path / "net.safetensors"


def test_a_tree_comes_back_as_it_was(file):
    form = jax.eval_shape(lambda: TREE)
    found = nn.load_safetensors(file, form)
    assert jax.tree.structure(found) == jax.tree.structure(TREE)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(TREE)):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_array_equal(ours, theirs)


def test_other_programs_read_it_by_path(file):
    found = safetensors.numpy.load_file(file)
    assert sorted(found) == ["a/0", "a/1", "b/bf16", "b/none", "n"]
    np.testing.assert_array_equal(found["a/0"], TREE["a"][0])


def test_a_file_of_another_program_is_read(tmp_path):
    safetensors.numpy.save_file({"w": np.float32([1, 2])}, tmp_path / "w")
    found = nn.load_safetensors(tmp_path / "w", {"w": jnp.zeros(2)})
    assert found["w"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("change", ["flip", "cut", "empty", "text"])
def test_a_damaged_file_is_refused(file, change):
    content = file.read_bytes()
    changed = {
        "flip": content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
        "cut": content[:-1],
        "empty": b"",
        "text": b"{}" * 40,
    }
    file.write_bytes(changed[change])
    with pytest.raises(ValueError, match=r"net.safetensors is damaged"):
        nn.load_safetensors(file, TREE)


def test_a_file_is_replaced_or_stays(file, monkeypatch):
    before = file.read_bytes()

    def full(*_):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="no space"):
            nn.save_safetensors(file, {"w": jnp.ones(2)})
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["net.safetensors"]
    old = file.with_name("link")
    old.hardlink_to(file)
    nn.save_safetensors(file, {"w": jnp.ones(2)})
    assert old.read_bytes() == before  # nothing was written into it
    assert nn.load_safetensors(file, {"w": jnp.ones(2)})["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dtype", ["int64", "uint64", "float64"])
@pytest.mark.parametrize("value", [7, 2**40 + 7])
def test_nothing_is_cast_from_64_bits(tmp_path, dtype, value):
    safetensors.numpy.save_file({"a": np.asarray([value], dtype)}, tmp_path / "w")
    like = {"a": jax.ShapeDtypeStruct((1,), np.dtype(dtype))}
    with pytest.raises(ValueError, match=rf"leaf 'a' is {dtype}, which JAX would cast .*x64"):
        nn.load_safetensors(tmp_path / "w", like)
    with jax.enable_x64(True):
        found = nn.load_safetensors(tmp_path / "w", like)["a"]
        assert found.dtype == dtype
        assert found.tolist() == [value]


def test_nothing_is_cast_from_a_state_dict():
    like = {"Dense_0": {"kernel": jax.ShapeDtypeStruct((1, 2), np.dtype("float64"))}}, {}
    arrays = {"fc.weight": np.asarray([[1.0], [1e300]])}
    with pytest.raises(ValueError, match=r"'fc\.weight' in state_dict is float64, which JAX would"):
        nn.from_torch(arrays, like, names={"Dense_0": "fc"})
    with jax.enable_x64(True):
        found = nn.from_torch(arrays, like, names={"Dense_0": "fc"})
        assert found.params["Dense_0"]["kernel"].tolist() == [[1.0, 1e300]]
