"""Every operator on every kind of net, against dense matrices of plain jax in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import cases
from funcdl import curvature, losses
from funcdl.data import Batches
from nets import Net, nets

KEY, DRAWS = jax.random.key(3), 2


def residuals(params, batch):
    """A physics-informed net: what is left of a Poisson equation holds a Laplacian."""
    u = lambda x: jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]
    return jax.vmap(lambda x: jnp.trace(jax.hessian(u)(x)))(batch)[:, None] + 1


def physics() -> Net:
    params = {"w": cases.normal(0, 2, 3), "b": cases.normal(1, 3), "v": cases.normal(2, 3)}
    return Net(residuals, lambda z, x: (z**2).mean(), params, cases.normal(9, 4, 2))


def net_of(name, dtype=jnp.float64) -> Net:
    net = physics() if name == "physics" else nets()[name]
    return net._replace(params=cases.cast(net.params, dtype), batch=cases.cast(net.batch, dtype))


def labels(net) -> int:
    """How many the labels of a batch are, 0 where it has none."""
    x = jax.tree.leaves(net.batch)
    classes = jax.eval_shape(net.f, net.params, net.batch).shape[-1]
    return classes if len(x) == 2 and jnp.issubdtype(x[1].dtype, jnp.integer) else 0


def operators(net, params, data) -> dict:
    args = net.f, net.head, params, data
    found = {
        "hessian": curvature.hessian(net.loss, params, data),
        "ggn": curvature.ggn(*args),
        "fisher_empirical": curvature.fisher_empirical(*args),
        "jacobian": curvature.jacobian(net.f, params, data),
        "ntk": curvature.ntk(net.f, params, data),
    }
    if labels(net):
        outcomes, draw = curvature.every_label(labels(net)), curvature.draw_label(DRAWS)
        found["fisher_exact"] = curvature.fisher_exact(*args, outcomes=outcomes)
        found["fisher_mc"] = curvature.fisher_mc(*args, key=KEY, draw=draw)
    return found


def matrices(net) -> dict:
    """The definitions, in plain jax."""
    start, unravel = ravel_pytree(net.params)
    mean = lambda y: y.total / y.weight if isinstance(y, losses.Mean) else y
    weight_of = lambda y: y.weight * 1.0 if isinstance(y, losses.Mean) else jnp.ones(())

    @jax.jit
    def all_of(x):
        f = lambda x: net.f(unravel(x), net.batch)
        loss = lambda x, batch: mean(net.loss(unravel(x), batch))
        z, jacobian = f(x), jax.jacrev(lambda x: f(x).ravel())(x)
        bend = jax.hessian(lambda y: mean(net.head(y.reshape(z.shape), net.batch)))(z.ravel())
        found = {
            "hessian": jax.hessian(loss)(x, net.batch),
            "ggn": jacobian.T @ bend @ jacobian,
            "jacobian": jacobian,
            "ntk": jacobian @ jacobian.T,
        }
        single = jax.tree.map(lambda x: x[:, None], net.batch)
        g = jax.vmap(lambda one: jax.grad(loss)(x, one))(single)
        weight = jax.vmap(lambda one: weight_of(net.loss(unravel(x), one)))(single)
        found["fisher_empirical"] = jnp.einsum("i,ip,iq->pq", weight / weight.sum(), g, g)
        if c := labels(net):
            nats = jax.jacrev(lambda x: jax.nn.log_softmax(f(x)).ravel())(x).reshape(len(z), c, -1)
            share = jax.nn.softmax(z) / len(z)
            found["fisher_exact"] = jnp.einsum("il,ilp,ilq->pq", share, nats, nats)
            drawn = jax.vmap(drawn_labels)(jnp.arange(len(z)), z)
            share = jax.nn.one_hot(drawn, c).mean(axis=1) / len(z)
            found["fisher_mc"] = jnp.einsum("il,ilp,ilq->pq", share, nats, nats)
        return found

    return jax.tree.map(np.asarray, all_of(start))


def drawn_labels(place, z):
    return jax.random.categorical(jax.random.fold_in(KEY, place), z, shape=(DRAWS,))


def close(found, expected, tol):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tol * np.abs(expected).max())


NAMES = [*(name for name in nets() if name != "odd"), "physics"]  # all leaves are floats


@pytest.mark.parametrize("name", cases.often(NAMES, ("layers", "masked tokens", "physics")))
@pytest.mark.usefixtures("x64")
def test_on_every_net_it_is_the_dense_matrix(name):
    net = net_of(name)
    made = operators(net, net.params, net.batch)
    found = written_out(made)
    for kind, expected in matrices(net).items():
        close(found[kind], expected, 1e-9)
        if made[kind].symmetric:
            close(found[kind], found[kind].T, 1e-12)
        if made[kind].psd and name != "layers in a scan":  # whose loss is not convex in z
            values = np.linalg.eigvalsh(found[kind])
            assert values[0] >= -1e-12 * values[-1]


@jax.jit
def written_out(operators):
    return {name: a.dense() for name, a in operators.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("x64")
def test_on_every_net_no_split_changes_it(name):
    net = net_of(name)
    whole = written_out(operators(net, net.params, net.batch))
    for size in (1, 3):  # of 4 examples
        split = written_out(operators(net, net.params, Batches(net.batch, size)))
        for kind, expected in whole.items():
            close(split[kind], expected, 1e-12)


def small(seed) -> dict:
    return {"v": cases.normal(seed, 3, 3), "w": cases.normal(seed + 1, 2, 3)}


class TestSmall:
    """Laws of all operators, on a net that compiles quickly and whose examples have weights."""

    X, WEIGHTS = cases.normal(2, 7, 2), np.asarray([1.0, 2.0, 1.0, 0.5, 1.0, 3.0, 1.0])
    LABELS = np.asarray([0, 2, 1, 1, 0, 2, 0])

    @staticmethod
    def f(params, batch):
        return jnp.matmul(jnp.tanh(jnp.matmul(batch[0][0], params["w"])), params["v"])

    @staticmethod
    def head(z, batch):
        (_, weights), label = batch
        nats = -jnp.take_along_axis(jax.nn.log_softmax(z), label[:, None], axis=1)[:, 0]
        return losses.Mean((weights * nats).sum(), weights.sum())

    def net(self, dtype=jnp.float64, padding=0) -> Net:
        pad = lambda x: np.concatenate([x, x[:padding]])
        weights = np.concatenate([self.WEIGHTS, np.zeros(padding)])
        batch = (pad(self.X), weights), pad(self.LABELS)
        return Net(self.f, self.head, *cases.cast((small(0), batch), dtype))

    @staticmethod
    def operators(net, params, data) -> dict:
        args = net.f, net.head, params, data
        outcomes, draw = curvature.every_label(3), curvature.draw_label(DRAWS)
        return {
            "hessian": curvature.hessian(net.loss, params, data),
            "ggn": curvature.ggn(*args),
            "fisher_empirical": curvature.fisher_empirical(*args),
            "fisher_exact": curvature.fisher_exact(*args, outcomes=outcomes),
            "fisher_mc": curvature.fisher_mc(*args, key=KEY, draw=draw),
            "kfac": curvature.kfac(*args),
            "ekfac": curvature.ekfac(*args),
        }

    @pytest.mark.parametrize(
        ("dtype", "tol"),
        [(jnp.float64, 1e-12), pytest.param(jnp.float32, 1e-5, marks=pytest.mark.slow)],
    )
    @pytest.mark.usefixtures("x64")
    def test_neither_batches_nor_padding_of_weight_0_change_it(self, dtype, tol):
        net, padded = self.net(dtype), self.net(dtype, padding=3).batch
        found = []
        for data in (net.batch, Batches(padded, 4)):  # with a ragged tail
            made = self.operators(net, net.params, data)
            del made["kfac"], made["ekfac"]  # test_kfac has theirs
            found.append(written_out(made))
        for kind, expected in found[0].items():
            close(found[1][kind], expected, tol)

    @pytest.mark.usefixtures("x64")
    def test_jit_is_eager_and_vmap_the_loop(self):
        net = self.net()
        v = cases.cast(small(5), jnp.float64)
        lanes = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), net.params)
        made = lambda params: self.operators(net, params, net.batch)
        mapped = jax.jit(jax.vmap(lambda p: {name: a @ v for name, a in made(p).items()}))(lanes)
        for i in range(2):
            one = jax.tree.map(lambda x, i=i: x[i], lanes)
            for kind, a in made(one).items():
                lane = jax.tree.map(lambda x, i=i: x[i], mapped[kind])
                close(ravel_pytree(lane)[0], ravel_pytree(a @ v)[0], 1e-11)

    @pytest.mark.usefixtures("x64")
    def test_it_is_linear_its_own_transpose_and_part_of_sums_blocks_and_shifts(self):
        net = self.net()
        jacobian = curvature.jacobian(net.f, net.params, net.batch)
        made = self.operators(net, net.params, net.batch)
        v, w = cases.cast((small(5), small(7)), jnp.float64)
        both = jax.tree.map(lambda x, y: 2 * x - y, v, w)
        u = jnp.asarray(cases.normal(7, 7, 3))

        @jax.jit
        def all_of(made, jacobian, v, w, both, u):
            flat = lambda x: ravel_pytree(x)[0]
            laws = {
                name: (
                    a.dense(),
                    (2.0 * a + made["ggn"].shift(0.3)).dense(),
                    a.block("w").dense(),
                    (flat(a @ v), flat(a @ w), flat(a @ both), flat(a.T @ v)),
                )
                for name, a in made.items()
            }
            return laws, ((jacobian @ v) * u).sum(), flat(jacobian.T @ u) @ flat(v)

        laws, forward, backward = all_of(made, jacobian, v, w, both, u)
        np.testing.assert_allclose(forward, backward, rtol=1e-12)
        for dense, total, block, (of_v, of_w, of_both, transposed) in laws.values():
            close(total, 2 * dense + laws["ggn"][0] + 0.3 * np.eye(15), 1e-12)
            close(block, dense[9:, 9:], 1e-12)
            close(of_both, 2 * of_v - of_w, 1e-12)
            close(of_v, dense @ ravel_pytree(v)[0], 1e-12)
            close(transposed, of_v, 1e-12)
