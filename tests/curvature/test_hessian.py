"""The Hessian of any loss, over any data, against ``jax.hessian`` in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import cases
from funcdl import _tree, losses, operators
from funcdl.curvature import hessian
from funcdl.data import Batches

BLOCKS = {
    "no data": ("a", ("b", "c")),
    "regression": ("*/kernel", "0/bias"),
    "classification": ("0", "**/kernel"),
    "masked tokens": ("embedding", "out"),
}
each_loss = pytest.mark.parametrize("name", cases.LOSSES)
WITHIN = {jnp.float32: 1e-5, jnp.float64: 1e-12}


def operator(name, dtype, size=None):
    problem = cases.LOSSES[name].cast(dtype)
    data = problem.data if size is None else Batches(problem.data, size)
    return hessian(problem.loss, problem.params, data)


@jax.jit
def dense(A):
    return A.dense()


def assert_close(a, b, dtype):
    np.testing.assert_allclose(a, b, rtol=0, atol=WITHIN[dtype] * np.abs(b).max())


@each_loss
def test_the_hessian_is_that_of_jax_in_float32(name):
    assert_close(dense(operator(name, jnp.float32)), cases.dense_hessian(name), jnp.float32)


@each_loss
@pytest.mark.usefixtures("x64")
def test_the_hessian_is_that_of_jax_to_12_digits_in_float64(name):
    assert_close(dense(operator(name, jnp.float64)), cases.dense_hessian(name), jnp.float64)


SPLITS = [("regression", 1), ("regression", 4), ("classification", 7), ("masked tokens", 3)]


@pytest.mark.parametrize(("name", "size"), SPLITS)  # of 7 examples
@pytest.mark.usefixtures("x64")
def test_any_split_into_batches_gives_the_same_operator(name, size):
    split = dense(operator(name, jnp.float64, size))
    assert_close(split, cases.dense_hessian(name), jnp.float64)


def test_batches_are_scanned_in_stored_order_and_transformed():
    problem = cases.LOSSES["regression"].cast(jnp.float32)
    x, y = problem.data
    data = Batches((2 * x, y), 3, key=jax.random.key(0), transform=_halved)
    A = hessian(problem.loss, problem.params, data)
    assert_close(dense(A), cases.dense_hessian("regression"), jnp.float32)


def _halved(batch):
    return batch[0] / 2, batch[1]


@each_loss
@pytest.mark.usefixtures("x64")
def test_blocks_are_submatrices_and_so_are_rectangular_ones_and_their_transposes(name):
    A = operator(name, jnp.float64, 3 if name == "regression" else None)
    index = jax.tree.map(
        lambda x, at: at + np.arange(x.size),
        A.shape_in,
        jax.tree.unflatten(A.space_in.treedef, _offsets(A.space_in.leaves)),
    )

    def at(where):
        return np.concatenate(jax.tree.leaves(_tree.select(index, where).chosen))

    one, other = BLOCKS[name]
    full = cases.dense_hessian(name)
    blocks = A.block(one), A.block(one, other), A.block(one, other).T
    wanted = (one, one), (one, other), (other, one)
    for block, got, (rows, columns) in zip(blocks, _dense_all(blocks), wanted):
        np.testing.assert_allclose(
            got, full[np.ix_(at(rows), at(columns))], rtol=0, atol=1e-12 * np.abs(full).max()
        )
        assert block.symmetric == (rows == columns)


def _offsets(leaves):
    return np.cumsum([0] + [np.prod(x.shape, dtype=int) for x in leaves])[:-1].tolist()


@jax.jit
def _dense_all(operators):
    return [A.dense() for A in operators]


def test_a_block_differentiates_only_the_leaves_it_names():
    def loss(params, x):
        y = jnp.tanh(x @ params["small"])
        return (jnp.tanh(y @ params["large"]) @ params["large"].T).mean()

    params = {"small": jnp.ones((2, 3)) / 9, "large": jnp.ones((3, 2000)) / 99}
    A = hessian(loss, params, jnp.ones((5, 2)))
    full, block = A.cost().flops, A.block("small").cost().flops
    padded = operators.from_function(Partial(_times, A), A.shape_in, symmetric=True).block("small")
    assert block < 0.8 * full
    assert block < 0.8 * padded.cost().flops


def _times(A, v):
    return A @ v


def test_low_precision_parameters_have_float32_vectors():
    exact = cases.LOSSES["classification"]
    rounded = exact.cast(jnp.bfloat16)
    params, data = rounded.params, cases.cast(exact.data, jnp.float32)
    A = hessian(exact.loss, params, data)
    assert {x.dtype for x in A.space_in.leaves} == {np.dtype(jnp.float32)}
    v = jax.tree.map(lambda x: jnp.ones(x.shape), A.shape_in)
    product = jax.jit(lambda A, v: A @ v)
    image = product(A, v)
    assert {x.dtype for x in jax.tree.leaves(image)} == {np.dtype(jnp.float32)}
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    reference = ravel_pytree(product(hessian(exact.loss, wide, data), v))[0]
    error = jnp.linalg.norm(ravel_pytree(image)[0] - reference)
    assert error <= 2**-7 * jnp.linalg.norm(reference)


def test_other_parameters_and_data_of_the_same_shapes_do_not_retrace():
    traces = 0

    @jax.jit
    def product(A, v):
        nonlocal traces
        traces += 1
        return A @ v

    for seed in (0, 1):
        problem = cases.moved("classification", seed).cast(jnp.float32)
        data = {name: x[:: 1 - 2 * seed] for name, x in problem.data.items()}
        for A in (
            hessian(problem.loss, problem.params, data),
            hessian(problem.loss, problem.params, Batches(data, 3)),
        ):
            product(A, problem.params)
    assert traces == 2


def test_the_loss_is_traced_no_more_often_than_now():
    traces = 0

    def loss(params, batch):
        nonlocal traces
        traces += 1
        return cases.regression(params, batch)

    problem = cases.LOSSES["regression"].cast(jnp.float32)
    A = hessian(loss, problem.params, problem.data)
    assert traces <= 4  # two for the proof that it is a mean
    product = jax.jit(lambda A, v: A @ v)
    product(A, problem.params)
    assert traces <= 5
    product(hessian(loss, problem.params, problem.data), problem.params)
    assert traces <= 6


@jax.jit
def _quadratic(A, v):
    return _tree.dot(v, A @ v)


class TestLossesThatCapture:
    """A loss that closes over traced values works under jit, grad and vmap."""

    params = jnp.asarray(cases.normal(0, 4, 3), jnp.float32)
    x = jnp.asarray(cases.normal(1, 7, 4), jnp.float32)
    labels = jnp.asarray([0, 2, 1, 1, 0, 2, 0])

    def form(self, scale, labels, size=None):
        """Return v . H v where the loss captured a float and integers."""

        def loss(w, batch=None):
            x, y = (self.x, labels) if batch is None else (batch, labels[: len(batch)])
            return losses.softmax_cross_entropy(jnp.tanh(x @ w) * scale, y)

        data = None if size is None else Batches(self.x[:4], size)
        v = jnp.ones_like(self.params)
        return _quadratic(hessian(loss, self.params, data), v)  # a jit inside, as solvers have

    def reference(self, scale, labels):
        def loss(t):
            return losses.softmax_cross_entropy(
                jnp.tanh(self.x @ (self.params + t)) * scale, labels
            )

        return jax.hessian(loss)(0.0)

    slope = jax.jit(jax.grad(reference, argnums=1), static_argnums=0)

    def test_third_derivatives_under_jit(self):
        slope = jax.jit(jax.grad(self.form))(2.0, self.labels)
        np.testing.assert_allclose(slope, self.slope(2.0, self.labels), rtol=1e-4)

    def test_mapped_over_captured_integers(self):
        many = jnp.stack([self.labels, self.labels[::-1]])
        slopes = jax.jit(jax.vmap(jax.grad(self.form), (None, 0)))(2.0, many)
        expected = [self.slope(2.0, labels) for labels in many]
        np.testing.assert_allclose(slopes, jnp.stack(expected), rtol=1e-4)

    def test_a_ragged_tail_is_computed_with_its_own_size(self):
        def form(scale, data):
            def loss(w, x):
                return (jnp.tanh(x @ w) ** 2).sum(1).mean() * scale

            v = jnp.ones_like(self.params)
            return _tree.dot(v, hessian(loss, self.params, data) @ v)

        whole = jax.jit(jax.grad(form))(2.0, self.x)
        split = jax.jit(jax.grad(form))(2.0, Batches(self.x, 3))
        np.testing.assert_allclose(split, whole, rtol=1e-5)


def test_third_derivatives_in_the_parameters():
    problem = cases.LOSSES["regression"].cast(jnp.float32)
    flat, unravel = ravel_pytree(problem.params)
    v = jnp.asarray(cases.normal(3, *flat.shape), jnp.float32)

    def form(x):
        A = hessian(problem.loss, unravel(x), problem.data)
        return _tree.dot(unravel(v), A @ unravel(v))

    def along(x):
        return jax.hessian(lambda t: cases.mean_loss(problem)(x + t * v))(0.0)

    np.testing.assert_allclose(
        jax.jit(jax.grad(form))(flat), jax.jit(jax.grad(along))(flat), rtol=1e-3, atol=1e-4
    )


def test_who_brings_only_a_loss_gets_curvature_in_five_lines():
    def loss(x):
        return jnp.cos(x["a"]).sum() + (x["a"] ** 2).sum() * x["b"] ** 2

    params, key = {"a": jnp.asarray([0.3, 1.0, 2.0]), "b": jnp.asarray(0.5)}, jax.random.key(0)

    A = hessian(loss, params)
    top = operators.eigsh(A, 2, key=key)
    trace = operators.trace(A, key=key, probes=100)
    density = operators.spectral_density(A, key=key, probes=100)
    curve = operators.smoothed_density(density, jnp.linspace(-30, 30, 301), 1.0)

    def flat(z):
        return loss({"a": z[:3], "b": z[3]})

    dense = jax.jit(jax.hessian(flat))(jnp.asarray([0.3, 1.0, 2.0, 0.5]))
    values = np.linalg.eigvalsh(np.asarray(dense, np.float64))
    expected = values[np.argsort(-np.abs(values))][:2]
    assert top.converged.all()
    np.testing.assert_allclose(top.values, expected, rtol=1e-3)
    assert abs(trace.value - values.sum()) <= 4 * trace.stderr
    mean = operators.spectral_mean(density, lambda x: x)
    assert abs(mean.value - values.mean()) <= 4 * mean.stderr
    np.testing.assert_allclose(curve.value.sum() * 0.2, 1, rtol=1e-3)


class TestErrors:
    """Each names what was wrong."""

    x = jnp.ones(2)

    def test_the_loss_must_be_a_scalar(self):
        with pytest.raises(ValueError, match=r"loss returned shape \(2,\); expected a scalar mean"):
            hessian(lambda x: x**2, self.x)
        with pytest.raises(
            ValueError, match=r"loss returned .*shape \(2,\).*Mean\(total, weight\)"
        ):
            hessian(lambda x: losses.Mean(x, x), self.x)

    def test_a_loss_with_an_auxiliary_output_is_refused(self):
        with pytest.raises(ValueError, match="expected a scalar mean"):
            hessian(lambda x: (x.sum(), x.mean()), self.x)
        with pytest.raises(ValueError, match="expected a scalar mean"):
            hessian(lambda x: {"loss": x.sum()}, self.x)

    def test_parameters_are_floats_and_there_are_some(self):
        with pytest.raises(ValueError, match="params has no leaves"):
            hessian(lambda x: 0.0, {})
        with pytest.raises(TypeError, match="params at path 'n/0' has dtype int32"):
            hessian(lambda x: 0.0, {"n": [jnp.arange(3)]})
        with pytest.raises(TypeError, match="loss returned dtype int32"):
            hessian(lambda x: jnp.int32(1), self.x)

    def test_a_direction_that_is_not_like_the_parameters_is_named(self):
        A = hessian(lambda p: (p["w"] ** 2).sum(), {"w": self.x})
        with pytest.raises(ValueError, match=r"'w': expected shape \(2,\), got shape \(3,\)"):
            A @ {"w": jnp.ones(3)}
        with pytest.raises(ValueError, match="'b' matches nothing; the nearest path is 'w'"):
            A.block("b")
