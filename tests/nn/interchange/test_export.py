"""An exported net is the net, for any batch, in a process that does not know it."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from frameworks import MLPS, cnns
from funcdl import nn

NETS = {**MLPS, "nnx, cnn": cnns()["nnx"], "equinox, cnn": cnns()["equinox"]}


@pytest.mark.parametrize("name", cases.often(NETS, ("linen", "equinox", "nnx, cnn")))
def test_it_computes_what_the_net_computes_for_any_batch(name, key):
    f = NETS[name]
    variables = f.model.init(key, f.x)
    exported = nn.export(f.model, variables, f.x)
    for b in (1, 3):
        x = jnp.asarray(f.x[:b])
        np.testing.assert_allclose(exported.call(x), f.model.apply(*variables, x)[0], atol=1e-6)
    assert exported.out_avals[0].str_short() == "float32[b,3]"


def test_a_process_without_the_model_calls_it(tmp_path, key):
    model = nn.from_linen(nn.models.SmallCNN(classes=3))
    x = jnp.asarray(cases.normal(0, 2, 8, 8, 1), jnp.float32)
    variables = model.init(key, x)
    nn.save_export(tmp_path / "net", nn.export(model, variables, x))
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys, numpy as np; from jax import export\n"
        "found = export.deserialize(bytearray(open('net', 'rb').read()))\n"
        "np.save('y.npy', found.call(np.load('x.npy'))); assert 'funcdl' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    expected = model.apply(*variables, x)[0]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5)
    np.testing.assert_allclose(nn.load_export(tmp_path / "net").call(x), expected, atol=1e-5)


def test_a_damaged_file_is_refused(tmp_path):
    model = nn.Model(lambda key, x: None, lambda p, s, x, key=None: (p * x, s))
    nn.save_export(tmp_path / "net", nn.export(model, (jnp.float32(2), {}), jnp.ones(2)))
    content = bytearray((tmp_path / "net").read_bytes())
    content[40] ^= 1
    (tmp_path / "net").write_bytes(content)
    with pytest.raises(ValueError, match="net is damaged"):
        nn.load_export(tmp_path / "net")


def test_inputs_are_any_pytree_and_platforms_can_be_named():
    model = nn.Model(lambda key, x: None, lambda p, s, x, key=None: (p * x["a"] + x["b"][0], s))
    x = {"a": jnp.ones(2), "b": [jnp.ones(2)]}
    exported = nn.export(model, (jnp.float32(2), {}), x, platforms=("cpu", "cuda", "tpu"))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert jax.jit(exported.call)(x).tolist() == [3.0, 3.0]
