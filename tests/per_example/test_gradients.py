"""Per-example derivatives of nets of every kind, against ``vmap(grad)`` in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import cases
from funcdl import _mean, _tree, losses, per_example
from nets import nets

NAMES = list(nets())


def each(name, dtype=jnp.float64):
    """Return a net in float64 with the gradient, flat, and the weight of each example."""
    net = nets()[name]
    net = net._replace(params=cases.cast(net.params, dtype), batch=cases.cast(net.batch, dtype))
    floats = [jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(net.params)]
    leaves, treedef = jax.tree.flatten(net.params)
    chosen = [x for x, real in zip(leaves, floats) if real]

    def one(chosen, example):
        new = iter(chosen)
        params = treedef.unflatten([next(new) if r else x for x, r in zip(leaves, floats)])
        batch = jax.tree.map(lambda x: x[None], example)
        mean = _mean.weighted(net.loss(params, batch), batch)
        return mean.total / mean.weight, mean.weight

    grads, weight = jax.jit(jax.vmap(jax.grad(one, has_aux=True), (None, 0)))(chosen, net.batch)
    return net, np.asarray(jax.vmap(lambda g: ravel_pytree(g)[0])(grads)), np.asarray(weight)


def flat(tree, lead=0):
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return np.concatenate([x.reshape(*x.shape[:lead], -1) for x in leaves], axis=-1)


@pytest.mark.parametrize(
    "name", cases.often(NAMES, ("layers", "convolutions", "odd", "masked tokens"))
)
@pytest.mark.usefixtures("x64")
def test_all_of_them_are_what_the_gradient_of_each_example_says(name):
    net, g, weight = each(name)
    w = np.asarray(weight / weight.sum())
    norm = np.linalg.norm(g, axis=1)
    bound = float(np.median(norm))

    @jax.jit
    def found(params, batch):
        return (
            per_example.grad(net.loss)(params, batch),
            per_example.grad_norm(net.loss)(params, batch),
            per_example.grad_second_moment(net.loss)(params, batch),
            per_example.clipped_grad(net.loss, bound)(params, batch),
            per_example.gram(net.loss)(params, batch),
        )

    grads, norms, moment, clipped, gram = found(net.params, net.batch)
    scale = np.abs(g).max()
    np.testing.assert_allclose(flat(grads, 1), g, atol=1e-12 * scale)
    np.testing.assert_allclose(norms, norm, rtol=1e-12)
    np.testing.assert_allclose(flat(moment), w @ g**2, atol=1e-12 * scale**2)
    cut = np.minimum(1, bound / norm)
    np.testing.assert_allclose(flat(clipped), (w * cut) @ g, atol=1e-12 * scale)
    np.testing.assert_allclose(gram, g @ g.T, atol=1e-12 * scale**2 * g.shape[1])


@pytest.mark.parametrize("name", cases.often(["layers", "convolutions"], ("layers",)))
def test_float32_is_right_to_its_rounding(name):
    net = nets()[name]
    with jax.enable_x64(True):
        _, g, _ = each(name)
    norms = per_example.grad_norm(net.loss)(net.params, net.batch)
    np.testing.assert_allclose(norms, np.linalg.norm(g, axis=1), rtol=2e-6)
    moment = per_example.grad_second_moment(net.loss)(net.params, net.batch)
    np.testing.assert_allclose(flat(moment), (g**2).mean(axis=0), atol=1e-5 * (g**2).max())


MODES = {
    "forward over reverse": lambda f, v: jax.jvp(jax.grad(f), v[:1], v[1:])[1],
    "reverse over reverse": lambda f, v: jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), v[1]))(v[0]),
    "reverse over forward": lambda f, v: jax.grad(lambda x: jax.jvp(f, (x,), v[1:])[1])(v[0]),
}


@pytest.mark.parametrize(
    "mode", cases.often(MODES, ("forward over reverse", "reverse over reverse"))
)
@pytest.mark.usefixtures("x64")
def test_they_are_differentiable_twice_in_every_mode(mode):
    net, _, _ = each("layers in a scan")
    flat, unravel = ravel_pytree(net.params)

    def ours(x):
        norms = per_example.grad_norm(net.loss)(unravel(x), net.batch)
        moment = per_example.grad_second_moment(net.loss)(unravel(x), net.batch)
        return (norms**2).sum() + (ravel_pytree(moment)[0] ** 2).sum()

    def plain(x):
        g = jax.vmap(lambda e: jax.grad(lambda x: net.loss(unravel(x), e))(x))(
            jax.tree.map(lambda x: x[:, None], net.batch)
        )
        return (g**2).sum() + ((g**2).mean(axis=0) ** 2).sum()

    v = flat, jnp.cos(jnp.arange(flat.size) * 1.0)
    got, true = (jax.jit(lambda v, f=f: MODES[mode](f, v))(v) for f in (ours, plain))
    np.testing.assert_allclose(got, true, rtol=1e-9, atol=1e-9)


def test_blocks_of_examples_change_nothing(monkeypatch):
    net = nets()["masked tokens"]
    moment = per_example.grad_second_moment(net.loss)
    norms = per_example.grad_norm(net.loss)
    one = moment(net.params, net.batch), norms(net.params, net.batch)
    monkeypatch.setattr("funcdl.per_example._blocks._BLOCK_BYTES", 2000)
    jax.clear_caches()
    many = moment(net.params, net.batch), norms(net.params, net.batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), one, many)
    text = str(jax.make_jaxpr(norms)(net.params, net.batch))
    assert "scan" in text


def test_a_second_call_does_not_trace_again():
    traces = 0

    def loss(params, batch):
        nonlocal traces
        traces += 1
        return losses.squared_error(jnp.matmul(batch[0], params), batch[1])

    batch = jnp.ones((4, 3)), jnp.ones(4)
    per_example.grad_norm(loss)(jnp.ones(3), batch)
    before = traces
    per_example.grad_norm(loss)(jnp.zeros(3), batch)
    assert traces == before


def test_mapped_over_parameters_each_lane_is_its_own():
    net = nets()["layers in a scan"]
    norms = per_example.grad_norm(net.loss)
    two = jax.tree.map(lambda x: jnp.stack([x, x / 2]), net.params)
    lanes = jax.jit(jax.vmap(norms, (0, None)))(two, net.batch)
    halved = jax.tree.map(lambda x: x / 2, net.params)
    np.testing.assert_allclose(lanes[1], norms(halved, net.batch), rtol=1e-5)


def test_padding_of_weight_zero_counts_for_nothing():
    def loss(params, batch):
        x, mask = batch
        return losses.Mean((mask * jnp.tanh(jnp.matmul(x, params))).sum(), mask.sum())

    w, x = jnp.ones(2), jnp.asarray([[1.0, 2.0], [0.5, 1.0], [9.0, 9.0]])
    padded = per_example.grad_second_moment(loss)(w, (x, jnp.asarray([1.0, 1.0, 0.0])))
    np.testing.assert_allclose(
        padded, per_example.grad_second_moment(loss)(w, (x[:2], jnp.ones(2))), rtol=1e-6
    )


def test_leaves_that_are_no_floats_come_back_untouched():
    net = nets()["odd"]
    grads = per_example.grad(net.loss)(net.params, net.batch)
    np.testing.assert_array_equal(grads["count"], net.params["count"])
    assert not np.any(grads["unused"])


@pytest.mark.parametrize(
    ("name", "rules"),
    {
        "layers": {"matmul", "elementwise"},
        "convolutions": {"matmul", "convolution", "elementwise", "broadcast"},
        "attention": {"matmul", "rows", "elementwise"},
        "recurrent": {"matmul", "elementwise"},
        "layers in a scan": {"matmul", "elementwise"},
        "masked tokens": {"matmul", "rows"},
    }.items(),
)
def test_every_use_is_recognised_in_nets_as_people_write_them(name, rules):
    net = nets()[name]
    uses = per_example.uses(net.loss)(net.params, net.batch)
    assert {use.rule for use in uses} == rules
    assert {use.path for use in uses} >= set(_tree.paths(net.params))


def test_a_use_of_which_no_factors_are_known_is_named_with_its_line():
    net = nets()["odd"]
    uses = {(u.path, u.rule): u.where for u in per_example.uses(net.loss)(net.params, net.batch)}
    assert ("w", "matmul") in uses
    assert ("unused", "unused") in uses
    assert any(rule.startswith("fallback") for path, rule in uses if path == "a"), uses
    assert "nets.py" in uses["scale", "elementwise"]


@pytest.mark.parametrize("mode", ["fill", "clip"])
@pytest.mark.usefixtures("x64")
def test_rows_outside_a_table_count_as_they_do_for_a_plain_gradient(mode):
    def loss(table, rows):
        found = table.at[rows].get(mode=mode, fill_value=0.0, wrap_negative_indices=False)
        return losses.Mean(jnp.tanh(found + 1).sum(), jnp.ones(()) * rows.size)

    table = jnp.arange(6.0).reshape(3, 2) / 6
    for rows in (jnp.asarray([-4, -1, 0, 2, 3]), jnp.asarray([[-1, -1], [0, 3], [2, 2]])):
        g = jnp.stack(
            [jax.grad(lambda t, r=r: loss(t, r[None]).total / r.size)(table) for r in rows]
        )
        np.testing.assert_allclose(per_example.grad(loss)(table, rows), g, rtol=1e-12)
        square = jnp.einsum("nij,mij->nm", g, g)
        np.testing.assert_allclose(per_example.gram(loss)(table, rows), square, rtol=1e-12)
        norms = per_example.grad_norm(loss)(table, rows)
        np.testing.assert_allclose(norms**2, jnp.diagonal(square), rtol=1e-12)
        moment = per_example.grad_second_moment(loss)(table, rows)
        np.testing.assert_allclose(moment, (g**2).mean(axis=0), rtol=1e-12)


CAST = {
    "padded": lambda w: jax.lax.pad(w, 0.0, ((1, 0, 0), (0, 2, 1))),
    "cut and padded": lambda w: jax.lax.pad(w, 0.0, ((-1, 2, 0), (0, 1, 0))),
    "complex": lambda w: jnp.abs(w.astype(complex) + 1j * jnp.sin(w).astype(complex)),
    "rounded": lambda w: w * w.astype(int) + w.astype(bool),
}


@pytest.mark.parametrize("name", CAST)
def test_parameters_that_are_padded_or_cast_have_the_norms_of_plain_gradients(name):
    def loss(w, x):
        kernel = CAST[name](w)
        return jnp.tanh(jnp.matmul(x[:, : len(kernel)], kernel)).mean()

    w = 1.5 + jnp.cos(jnp.arange(6.0)).reshape(3, 2)
    x = 0.2 * jnp.cos(jnp.arange(8.0)).reshape(2, 4)
    g = jnp.stack([jax.grad(loss)(w, row[None]) for row in x])
    norms = per_example.grad_norm(loss)(w, x)
    np.testing.assert_allclose(norms**2, jnp.einsum("nij,nij->n", g, g), rtol=1e-5)
    moment = per_example.grad_second_moment(loss)(w, x)
    np.testing.assert_allclose(moment, (g**2).mean(axis=0), rtol=1e-5, atol=1e-9)
