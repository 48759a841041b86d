"""K-FAC and EK-FAC: where they are exact, what they are elsewhere, and what is done with them."""

import itertools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import cases
from funcdl import curvature, losses, nn, per_example
from funcdl.data import Batches
from nets import nets

BUILDERS = curvature.kfac, curvature.ekfac
NETS = nets()
NAMES = [name for name in NETS if name != "odd"]  # its leaves are not all floats


def written_out(builders, f, head, *args):
    """Build operators and write them out, all in one program."""
    return jax.jit(lambda *args: [b(f, head, *args).dense() for b in builders])(*args)


def net_of(name):
    net = NETS[name]
    return net._replace(
        params=cases.cast(net.params, jnp.float64), batch=cases.cast(net.batch, jnp.float64)
    )


def blocks(matrix, params) -> dict:
    """Return the diagonal blocks of a matrix by the paths of the leaves."""
    ends = np.cumsum([x.size for x in jax.tree.leaves(params)])
    paths = [
        jax.tree_util.keystr(p, simple=True, separator="/")
        for p, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    return {
        p: matrix[e - x.size : e, e - x.size : e]
        for p, e, x in zip(paths, ends, jax.tree.leaves(params))
    }


def close(found, expected, tol=1e-12):
    np.testing.assert_allclose(found, expected, atol=tol * np.abs(expected).max())


@pytest.mark.parametrize("name", cases.often(NAMES, ("layers", "masked tokens")))
@pytest.mark.usefixtures("x64")
def test_ekfac_has_the_exact_diagonal_and_is_nearer_than_kfac(name):
    net = net_of(name)

    found = written_out((*BUILDERS, curvature.ggn), *net)
    k, e, exact = (blocks(x, net.params) for x in found)
    noise = 1e-12 * np.abs(found[2]).max()
    for path in exact:
        np.testing.assert_allclose(e[path].trace(), exact[path].trace(), rtol=1e-9, atol=noise)
        far, near = (np.linalg.norm(x[path] - exact[path]) for x in (k, e))
        assert near <= far + noise
        assert np.abs(k[path]).sum() > 0 or np.abs(exact[path]).max() < noise


@pytest.mark.parametrize(
    ("dtype", "tol"),
    [(jnp.float64, 1e-12), pytest.param(jnp.float32, 1e-5, marks=pytest.mark.slow)],
)
@pytest.mark.usefixtures("x64")
def test_any_split_gives_the_same_operator(dtype, tol):
    """Examples that weigh differently, in ragged batches; some of them have no weight at all."""
    problem = cases.LOSSES["masked tokens"].cast(dtype)
    data = {**problem.data, "mask": problem.data["mask"].at[2].set(False)}

    def f(params, batch):
        x = params["embedding"][batch["tokens"]]
        return jnp.matmul(jax.nn.softplus(x), params["out"]["kernel"])

    def head(z, batch):
        return losses.masked_softmax_cross_entropy(z, batch["next"] % 3, batch["mask"])

    without = jax.tree.map(lambda x: jnp.delete(x, 2, axis=0), data)

    @jax.jit
    def dense(params, *many):
        return [build(f, head, params, data).dense() for build in BUILDERS for data in many]

    found = dense(problem.params, data, Batches(data, 3), without)
    for whole, *others in (found[:3], found[3:]):
        for other in others:
            close(other, whole, tol)


@pytest.mark.usefixtures("x64")
def test_of_one_example_and_one_position_they_are_the_blocks_of_ggn():
    net = net_of("layers")
    one = jax.tree.map(lambda x: x[1:2], net.batch)
    *found, ggn = written_out((*BUILDERS, curvature.ggn), net.f, net.head, net.params, one)
    exact = blocks(ggn, net.params)
    for matrix in found:
        for path, block in blocks(matrix, net.params).items():
            close(block, exact[path])


@pytest.mark.usefixtures("x64")
def test_of_a_deep_linear_net_with_squared_error_they_are_the_blocks_of_ggn():
    params = [
        jnp.asarray(cases.normal(i, *shape)) for i, shape in enumerate([(3, 4), (4, 5), (5, 2)])
    ]
    batch = jnp.asarray(cases.normal(5, 6, 3)), jnp.asarray(cases.normal(6, 6, 2))

    def f(params, batch):
        x = batch[0]
        for w in params:
            x = jnp.matmul(x, w)
        return x

    def loss(z, batch):
        return 0.5 * ((z - batch[1]) ** 2).sum(axis=1).mean()

    *found, ggn = written_out((*BUILDERS, curvature.ggn), f, loss, params, batch)
    for matrix in found:
        for path, block in blocks(matrix, params).items():
            close(block, blocks(ggn, params)[path])


X, LABEL = cases.normal(30, 6, 4, 3), np.arange(6) % 3
WEIGHTS = np.asarray([1.0, 0.0, 2.0, 1.0, 0.5, 3.0])
P = {"w": cases.normal(31, 3, 5), "v": cases.normal(32, 5, 3)}


def weighted_entropy(z, batch):
    nats = -jnp.take_along_axis(jax.nn.log_softmax(z), batch[1][:, None], axis=1)[:, 0]
    return losses.Mean((batch[2] * nats).sum(), batch[2].sum())


@pytest.mark.usefixtures("x64")
def test_factors_over_positions_are_what_their_formulas_say():
    """A layer that every one of four positions passes, written out position by position."""

    def f(params, batch):
        return jnp.matmul(jnp.tanh(jnp.matmul(batch[0], params["w"])).mean(axis=1), params["v"])

    params, batch = cases.cast((P, (X, LABEL, WEIGHTS)), jnp.float64)
    sums = per_example.ggn_factors(f, weighted_entropy)(params, batch)
    h = np.tanh(X @ P["w"])
    z = h.mean(axis=1) @ P["v"]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    bend = WEIGHTS[:, None, None] * (np.eye(3) * p[:, :, None] - p[:, :, None] * p[:, None])
    g = (1 - h**2)[:, :, None] * P["v"].T[None, None] / 4  # (n, t, class, out)
    a = np.einsum("n,nti,ntj->ij", WEIGHTS, X, X) / 4
    b = np.einsum("nrs,ntro,ntsp->op", bend, g, g)
    assert sums.weight == WEIGHTS.sum()
    close(sums.total["w"].a[0], a)
    close(sums.total["w"].b[0], b)
    k = curvature.kfac(f, weighted_entropy, params, batch).block("w").dense()
    close(k, np.kron(a, b) / WEIGHTS.sum() ** 2)


def tokens(table, ids):
    return table[ids]


def one_hot(table, ids):
    return jnp.matmul(jax.nn.one_hot(ids, len(table), dtype=table.dtype), table)


def product(w, x):
    return jnp.matmul(x, w)


def loop(w, x):
    return jax.lax.scan(lambda c, x: (c, jnp.matmul(x, w)), 0.0, x.swapaxes(0, 1))[1].swapaxes(0, 1)


def twice(w, x):
    return jnp.concatenate([jnp.matmul(x[:, :1], w), jnp.matmul(x[:, 1:], w)], axis=1)


def transposed(w, x):
    return jnp.einsum("bti,oi->bto", x, w.T.reshape(w.shape[1], w.shape[0]))


IDS = np.random.default_rng(33).integers(0, 3, size=(6, 4))
TWINS = {
    "a look-up is a product with unit vectors": (tokens, one_hot, IDS),
    "steps of a loop are positions": (loop, product, X),
    "two products with one parameter are positions of one": (twice, product, X),
    "the order of axes does not matter": (transposed, product, X),
}


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.usefixtures("x64")
def test_the_same_net_written_in_two_ways(name):
    *ways, x = TWINS[name]
    args = cases.cast((P, (x, LABEL, WEIGHTS)), jnp.float64)
    builders = BUILDERS if name.startswith("a look-up") else BUILDERS[:1]

    def model(way):
        return lambda p, b: jnp.matmul(jnp.tanh(way(p["w"], b[0])).sum(axis=1), p["v"])

    @jax.jit
    def dense(params, batch):
        pairs = itertools.product(builders, ways)
        return [b(model(way), weighted_entropy, params, batch).dense() for b, way in pairs]

    found = dense(*args)
    for one, other in zip(found[::2], found[1::2]):
        close(one, other)


@pytest.mark.usefixtures("x64")
def test_groups_of_a_convolution_and_layers_of_a_scan_are_blocks():
    x, w = (jnp.asarray(cases.normal(*s)) for s in ((40, 4, 6, 4), (41, 3, 2, 6)))

    def grouped(w, batch):
        y = jax.lax.conv_general_dilated(
            batch[0],
            w,
            (1,),
            "VALID",
            feature_group_count=2,
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        return jnp.tanh(y).mean(axis=1)

    def parted(pair, batch):
        halves = zip(pair, jnp.split(batch[0], 2, axis=2))
        y = [
            jax.lax.conv_general_dilated(
                x, w, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
            )
            for w, x in halves
        ]
        return jnp.tanh(jnp.concatenate(y, axis=2)).mean(axis=1)

    def head(z, batch):
        return losses.softmax_cross_entropy(z, batch[1])

    def scanned(w, batch):
        return jax.lax.scan(lambda x, w: (jnp.tanh(jnp.matmul(x, w)), None), batch[0][:, 0], w)[0]

    def unrolled(layers, batch):
        x = batch[0][:, 0]
        for w in layers:
            x = jnp.tanh(jnp.matmul(x, w))
        return x

    batch, square = (x, jnp.arange(4) % 3), jnp.asarray(cases.normal(42, 2, 4, 4))
    v, u = jnp.asarray(cases.normal(43, *w.shape)), jnp.asarray(cases.normal(44, *square.shape))
    halves = lambda x: jnp.split(x, 2, axis=2)

    @jax.jit
    def products():
        one, other, first, second = (
            curvature.kfac(f, head, params, batch) @ along
            for f, params, along in (
                (grouped, w, v),
                (parted, halves(w), halves(v)),
                (scanned, square, u),
                (unrolled, list(square), list(u)),
            )
        )
        return one, jnp.concatenate(other, axis=2), first, jnp.stack(second)

    one, other, first, second = products()
    close(one, other)
    close(first, second)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.usefixtures("x64")
def test_the_lowering_of_a_convolution_does_not_matter(strides):
    batch = jnp.asarray(cases.normal(45, 3, 5, 5, 2)), jnp.arange(3)
    params = cases.cast(
        {"kernel": cases.normal(46, 3, 3, 2, 20), "bias": np.zeros(20)}, jnp.float64
    )
    head = lambda z, batch: losses.softmax_cross_entropy(z[:, :3], batch[1])
    v = jax.tree.map(jnp.cos, params)
    found = []
    for module in (nn.Conv, linen.Conv):
        conv = module(20, (3, 3), strides=strides)
        f = lambda p, b, conv=conv: jnp.tanh(conv.apply({"params": p}, b[0])).mean(axis=(1, 2))
        found.append(jax.jit(lambda p, f=f: curvature.kfac(f, head, p, batch) @ v)(params))
    close(found[0]["kernel"], found[1]["kernel"])
    close(found[0]["bias"], found[1]["bias"])


class TestOracle:
    """curvlinops, torch: a strided convolution, a dense layer, six examples in two batches."""

    SHAPES = (3, 2, 3, 3), (3,), (3, 27), (3,)
    SCALES = 1 / 3, 1 / 3, 1 / 5, 1.0
    PARAMS = tuple(cases.normal(20 + i, *s) * c for i, (s, c) in enumerate(zip(SHAPES, SCALES)))
    IMAGES, LABELS = cases.normal(24, 6, 2, 5, 5), np.arange(6) % 3
    PROBES = cases.normal(25, 141, 3)
    STORED = Path(__file__).parent / "curvlinops.npz"

    def ours(self) -> dict:
        def f(params, batch):
            y = jax.lax.conv_general_dilated(
                batch[0],
                params[0],
                (2, 2),
                ((1, 1), (1, 1)),
                dimension_numbers=("NCHW", "OIHW", "NCHW"),
            )
            y = jnp.tanh(y + params[1][None, :, None, None]).reshape(len(y), -1)
            return jnp.matmul(y, params[2].T) + params[3][None]

        head = lambda z, batch: losses.softmax_cross_entropy(z, batch[1])
        args = cases.cast((self.PARAMS, (self.IMAGES, self.LABELS)), jnp.float64)
        k, e = written_out(BUILDERS, f, head, *args)
        return {"kfac": k @ self.PROBES, "ekfac": e @ self.PROBES}

    def theirs(self) -> dict:
        import torch
        from curvlinops import EKFACLinearOperator, KFACLinearOperator

        tensor = lambda x: torch.tensor(np.asarray(x))
        nn = torch.nn
        layers = nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3)
        net = nn.Sequential(*layers).double()
        with torch.no_grad():
            for p, value in zip(net.parameters(), self.PARAMS):
                p.copy_(tensor(value))
        rows = slice(0, 4), slice(4, 6)
        data = [(tensor(self.IMAGES[r]), tensor(self.LABELS[r])) for r in rows]
        options = {
            "fisher_type": "type-2",
            "kfac_approx": "expand",
            "separate_weight_and_bias": True,
        }
        made = {
            name: build(net, nn.CrossEntropyLoss(), list(net.parameters()), data, **options)
            for name, build in (("kfac", KFACLinearOperator), ("ekfac", EKFACLinearOperator))
        }
        return {name: (k @ tensor(self.PROBES)).detach().numpy() for name, k in made.items()}

    def agree(self, found, expected):
        for name, product in expected.items():
            rows = np.r_[:54, 57:141]  # of the bias of a convolution theirs is not the exact block
            close(found[name][rows], product[rows])

    @pytest.mark.usefixtures("x64")
    def test_the_stored_products_of_curvlinops_are_ours(self):
        self.agree(self.ours(), np.load(self.STORED))

    @pytest.mark.oracle
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
    @pytest.mark.usefixtures("x64")
    def test_the_products_of_curvlinops_are_the_stored_ones(self):
        self.agree(self.theirs(), np.load(self.STORED))


@pytest.mark.usefixtures("x64")
def test_the_empirical_factors_of_one_example_make_its_gradient_squared():
    net = net_of("layers")
    one = jax.tree.map(lambda x: x[:1], net.batch)
    transforms = lambda *args: (
        per_example.fisher_factors(net.loss)(*args),
        jax.grad(net.loss)(*args),
    )
    (total, weight), gradient = jax.jit(transforms)(net.params, one)
    for name in ("Dense_0", "Dense_1"):
        for leaf in ("kernel", "bias"):
            factors, g = total[name][leaf], np.asarray(gradient[name][leaf])
            found = np.kron(factors.a[0], factors.b[0]) / weight**2
            close(found, np.outer(g, g))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("build", BUILDERS)
def test_factors_of_low_rank_stay_positive_in_float32(build):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 60))  # 10 examples, 60 inputs
    f = lambda w, batch: jnp.matmul(batch[0], w)
    loss = lambda z, batch: losses.softmax_cross_entropy(z, batch[1])
    labels, damping, inverses, logdets = jnp.arange(10) % 4, 1e-2, [], []
    for dtype in (jnp.float32, jnp.float64):
        w = jnp.asarray(0.001 * cases.normal(1, 60, 4), dtype)
        K = build(f, loss, w, (jnp.asarray(pixels, dtype), labels))
        inverses.append(np.float64(K.inv(damping).dense()))
        logdets.append(K.shift(damping).logdet())
    values = np.linalg.eigvalsh((inverses[0] + inverses[0].T) / 2)
    assert values.min() > 0
    assert values.max() < 1.001 / damping
    np.testing.assert_allclose(logdets[0], logdets[1], atol=1)


def test_stacked_layers_do_not_wait_for_each_other():
    """Batched decompositions in one program can wait for ever on a CPU: the child is killed."""
    child = Path(__file__).with_name("stacked_child.py")
    subprocess.run([sys.executable, str(child)], check=True, timeout=240)
