"""Torch's layouts: there and back is the identity, and torch computes the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import cases
from frameworks import by_path, close
from funcdl import nn

NAMES = {"Conv_0": "0", "BatchNorm_0": "1", "Dense_0": "4", "LayerNorm_0": "5", "Dense_1": "6"}
IMAGES = {"Dense_0": (5, 4, 3)}


class Net(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Conv(3, (3, 2), padding="VALID")(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train)(x))
        x = linen.LayerNorm(epsilon=1e-5)(linen.Dense(4)(x.reshape(len(x), -1)))
        return linen.Dense(2, use_bias=False)(x)


MODEL = nn.from_linen(Net())
X = jnp.asarray(cases.normal(0, 2, 7, 5, 2), jnp.float32)


def numbers():
    """Numbers that no initializer would give, running means among them."""
    form = jax.eval_shape(MODEL.init, jax.random.key(0), X)
    leaves, treedef = jax.tree.flatten(form)
    draws = [cases.normal(i, *leaf.shape).astype(np.float32) for i, leaf in enumerate(leaves)]
    params, state = jax.tree.unflatten(treedef, draws)
    return nn.Variables(params, jax.tree.map(lambda a: np.abs(a) + np.float32(0.5), state))


def test_each_layer_is_laid_out_as_torch_does():
    variables = numbers()
    found = nn.to_torch(variables, names=NAMES, images=IMAGES)
    conv = variables.params["Conv_0"]["kernel"]
    np.testing.assert_array_equal(found["0.weight"], np.einsum("hwio->oihw", conv))
    np.testing.assert_array_equal(found["1.weight"], variables.params["BatchNorm_0"]["scale"])
    means = variables.state["batch_stats"]["BatchNorm_0"]
    np.testing.assert_array_equal(found["1.running_mean"], means["mean"])
    np.testing.assert_array_equal(found["1.running_var"], means["var"])
    dense = variables.params["Dense_0"]["kernel"].reshape(5, 4, 3, 4)
    np.testing.assert_array_equal(found["4.weight"], np.einsum("hwco->ochw", dense).reshape(4, 60))
    np.testing.assert_array_equal(found["6.weight"], variables.params["Dense_1"]["kernel"].T)


def test_there_and_back_is_the_identity():
    variables = numbers()
    there = nn.to_torch(variables, names=NAMES, images=IMAGES)
    there["1.num_batches_tracked"] = np.int64(3)
    back = nn.from_torch(there, variables, names=NAMES, images=IMAGES)
    close(by_path(back), by_path(variables), atol=0)


def test_a_net_of_nnx_goes_there_and_back(key):
    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.embed, self.norm = nnx.Embed(5, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)
            self.out = nnx.Conv(3, 2, (3,), rngs=rngs)

        def __call__(self, x):
            return self.out(self.norm(self.embed(x)))

    variables = nn.from_nnx(Nnx).init(key, None)
    there = nn.to_torch(variables)
    assert there["out.weight"].shape == (2, 3, 3)
    assert there["norm.running_var"].shape == (3,)
    np.testing.assert_array_equal(there["embed.weight"], variables.params["embed"]["embedding"])
    close(by_path(nn.from_torch(there, variables)), by_path(variables), atol=0)


@pytest.mark.oracle
def test_torch_computes_the_same_of_it_and_back():
    import torch

    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, (3, 2)),
        torch.nn.BatchNorm2d(3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(60, 4),
        torch.nn.LayerNorm(4),
        torch.nn.Linear(4, 2, bias=False),
    ).eval()
    variables, images = numbers(), torch.from_numpy(np.moveaxis(np.asarray(X), -1, 1).copy())
    found = nn.to_torch(variables, names=NAMES, images=IMAGES)
    net.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in found.items()})
    theirs = net(images).detach().numpy()
    np.testing.assert_allclose(MODEL.apply(*variables, X)[0], theirs, atol=1e-5)
    theirs = {k: v.numpy() for k, v in net.state_dict().items()}
    back = nn.from_torch(theirs, variables, names=NAMES, images=IMAGES)
    close(by_path(back), by_path(variables), atol=0)
