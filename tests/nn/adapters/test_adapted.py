"""What jax does with a function, it does with the net of every framework."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import cases
from frameworks import MLPS, NnxMLP, by_path, close, doubled, given
from funcdl import _tree, curvature, data, losses, nn, per_example, train

# linen has its own tests, haiku's trace is as plain as linen's: these run in the slow session
every = pytest.mark.parametrize("name", cases.often(MLPS, ("nnx", "equinox")))


def square(f, state):
    return lambda params, x: (f.model.apply(params, state, x)[0] ** 2).mean()


@every
def test_members_of_a_vmap_are_those_of_their_keys(name, key):
    f = MLPS[name]

    def both(keys):
        members = jax.vmap(f.model.init, in_axes=(0, None))(keys, f.x)
        y, _ = jax.vmap(f.model.apply, in_axes=(0, 0, None, 0))(*members, f.x, keys)
        alone = f.model.init(keys[2], f.x)
        one = jax.tree.map(lambda a: a[2], (members, y))
        return one, (alone, f.model.apply(*alone, f.x, keys[2])[0])

    one, alone = jax.jit(both)(jax.random.split(key, 3))
    close(by_path(one), by_path(alone), atol=2e-6)


@every
def test_an_ensemble_trains_as_its_members_do_alone(name, key):
    f = MLPS[name]
    objective = train.supervised(f.model, losses.squared_error)
    program = train.program(objective, optax.sgd(0.1))
    ensemble, batch = train.ensemble(program, 2), (f.x, jnp.ones((6, 3)))

    def three(program, run):
        return jax.lax.scan(lambda run, _: program.step(run, batch), run, length=3)

    def both():
        run = ensemble.init(key, batch)
        many, metrics = three(ensemble, run)
        one = jax.tree.map(lambda a: a[1], run._replace(step=None))._replace(step=run.step)
        alone, expected = three(program, one)
        ours = jax.tree.map(lambda a: a[1], many.params), metrics["loss"][:, 1]
        return ours, (alone.params, expected["loss"])

    ours, alone = jax.jit(both)()
    close(by_path(ours), by_path(alone), atol=1e-5)
    assert ours[1][2] < ours[1][0]


@every
def test_steps_in_a_scan_are_those_of_a_loop_which_is_traced_once(name, key):
    f = MLPS[name]
    chex.clear_trace_counter()
    apply = jax.jit(chex.assert_max_traces(f.model.apply, 1))
    _, (params, start) = given(f)
    keys, state = jax.random.split(key, 4), start
    for now in keys:
        y, state = apply(params, state, f.x, now)

    def body(state, now):
        y, state = f.model.apply(params, state, f.x, now)
        return state, y

    after, ys = jax.jit(lambda state: jax.lax.scan(body, state, keys))(start)
    close(by_path(after), by_path(state), atol=1e-6)
    np.testing.assert_allclose(ys[-1], y, atol=1e-6)


@every
def test_hessian_times_vector_is_the_difference_of_gradients(name, x64):
    f = MLPS[name]
    params, state = doubled(given(f)[1])
    x = f.x.astype(jnp.float64)
    # away from the zeros of a fresh bias, where the norm before it has none to show
    params = jax.tree.map(lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
    state = jax.tree.map(lambda s: s + 0.3 if s.dtype == jnp.float64 else s, state)
    v = jax.tree.map(lambda p: jnp.sin(1.0 + jnp.arange(p.size)).reshape(p.shape), params)
    loss = square(f, state)

    def both(params):
        product = curvature.hessian(loss, params, x) @ v
        at = lambda t: jax.grad(loss)(_tree.axpy(t, v, params), x)
        difference = _tree.scale(1 / 2e-5, _tree.subtract(at(1e-5), at(-1e-5)))
        return product, difference

    product, difference = jax.jit(both)(params)
    close(by_path(product), by_path(difference), atol=1e-7)


@every
def test_gradients_of_single_examples_are_those_of_batches_of_one(name):
    f = MLPS[name]
    _, (params, state) = given(f)
    loss = square(f, state)

    def both(params, x):
        each = jax.lax.map(lambda one: jax.grad(loss)(params, one[None]), x)
        return per_example.grad(loss)(params, x), each

    ours, expected = jax.jit(both)(params, f.x)
    close(by_path(ours), by_path(expected), atol=1e-5)


def test_the_program_of_an_adapter_is_that_of_the_framework():
    """The same layers cost the same operations, forward and backward, whatever made them."""
    sizes, x = (4, 4, 3), jnp.ones((6, 4))
    net = nn.models.MLP(sizes)

    class Layers(nnx.Module):
        def __init__(self, rngs):
            dense = [nnx.Linear(4, size, rngs=rngs) for size in sizes]
            self.layers = nnx.List(dense)

        def __call__(self, x):
            for layer in self.layers[:-1]:
                x = jax.nn.relu(layer(x))
            return self.layers[-1](x)

    def native(params, state, x, key=None):
        return net.apply({"params": params}, x), state

    def operations(model):
        params, state = jax.eval_shape(model.init, jax.random.key(0), x)
        loss = lambda params: model.apply(params, state, x, jax.random.key(0))[0].sum()
        compiled = jax.jit(jax.value_and_grad(loss)).lower(params).compile()
        return compiled.cost_analysis()["flops"]

    linen = nn.from_linen(net)
    expected = operations(nn.Model(linen.init, native))
    assert operations(linen) == expected
    assert operations(nn.from_nnx(Layers)) == expected
    haiku = nn.from_haiku(lambda x: hk.nets.MLP(sizes)(x))
    assert operations(haiku) == expected


def test_a_process_that_only_restored_can_apply(tmp_path):
    for name, f in MLPS.items():
        _, variables = given(f)
        nn.save_safetensors(tmp_path / name, variables)
        np.save(tmp_path / f"{name}.npy", jax.jit(f.model.apply)(*variables, f.x)[0])
    code = f"""
    import sys
    sys.path.insert(0, {str(__file__).rsplit("/", 3)[0]!r})
    import jax, numpy as np
    from frameworks import MLPS, nn
    for name, f in MLPS.items():
        form = jax.eval_shape(f.model.init, jax.random.key(0), f.x)
        y, _ = jax.jit(f.model.apply)(*nn.load_safetensors(name, form), f.x)
        np.testing.assert_array_equal(y, np.load(name + ".npy"))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, check=True)


def test_the_example_of_the_page_trains_a_split_net_and_returns_it():
    page = (Path(__file__).parents[3] / "docs" / "nn.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    x, key = jnp.asarray(MLPS["nnx"].x, jnp.float32), jax.random.key(0)
    batches = data.Batches((x, jnp.asarray([0, 1, 2, 0, 1, 2])), 3, key=key)
    names = {
        **{"nn": nn, "train": train, "losses": losses, "curvature": curvature, "optax": optax},
        **{"nnx": nnx, "Net": NnxMLP, "key": key, "batches": batches, "steps": 4},
        "data": (x, jnp.asarray([0, 1, 2, 0, 1, 2])),
    }
    exec(compile(code, "docs/nn.md", "exec"), names)
    net, run = names["net"], names["run"]
    net.eval()
    ours, _ = names["model"].apply(*run.variables, x)
    np.testing.assert_allclose(net(x), ours, atol=1e-6)
    assert names["hessian"].symmetric
    assert run.step == 4
