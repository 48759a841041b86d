from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import cases
from funcdl.nn import avg_pool, max_pool

# (h, w), window, options
CASES = {
    "tiles": ((6, 4), 2, {}),
    "tiles with a rest": ((7, 8), (2, 3), {}),
    "global": ((4, 5), (4, 5), {}),
    "overlapping": ((7, 6), 3, {"strides": 2}),
    "gaps": ((8, 7), 2, {"strides": 3}),
    "same": ((7, 5), 3, {"strides": 2, "padding": "SAME"}),
    "padded tiles": ((4, 6), 2, {"padding": ((1, 1), (1, 1))}),
    "dense": ((5, 5), (2, 3), {"strides": 1}),
}


def pair(v):
    return (v, v) if isinstance(v, int) else v


def slices(size, window, options):
    """Where each window lies, clipped to the image: a list of (rows, columns) in order."""
    window = pair(window)
    strides = pair(options.get("strides", window))
    pads = options.get("padding", "VALID")
    if isinstance(pads, str):
        pads = lax.padtype_to_pads(size, window, strides, pads)
    return [
        [range(max(i, 0), min(i + k, n)) for i in range(-low, n + high - k + 1, s)]
        for n, k, s, (low, high) in zip(size, window, strides, pads)
    ]


def first_maxima(x, window, options):
    """One-hot weights of the first largest entry of every window, by counting loops."""
    rows, columns = slices(x.shape[1:3], window, options)
    chosen = np.zeros((x.shape[0], len(rows), len(columns), x.shape[3], *x.shape[1:3]))
    for b, i, j, c in np.ndindex(*chosen.shape[:4]):
        places = [(r, q) for r in rows[i] for q in columns[j]]
        r, q = max(places, key=lambda place: x[(b, *place, c)])  # max keeps the first
        chosen[b, i, j, c, r, q] = 1
    return chosen


def ties(size, b=2, c=3):
    return np.random.default_rng(0).integers(0, 3, (b, *size, c)).astype(float)


@pytest.mark.parametrize("name", ["tiles with a rest", "padded tiles", "overlapping", "same"])
def test_max_takes_the_first_largest_entry_in_every_mode(name, x64):
    size, window, options = CASES[name]
    x = ties(size)
    chosen = first_maxima(x, window, options)
    y = max_pool(jnp.asarray(x), window, **options)
    np.testing.assert_array_equal(y, np.einsum("bijcpq,bpqc->bijc", chosen, x))

    # with the choice held fixed the cube has a closed form in each mode
    rng = np.random.default_rng(1)
    x = jnp.asarray(x)
    v, weights = jnp.asarray(rng.normal(size=x.shape)), jnp.asarray(rng.normal(size=y.shape))
    pick, place = (
        partial(np.einsum, spec, chosen) for spec in ("bijcpq,bpqc->bijc", "bijcpq,bijc->bpqc")
    )

    @jax.jit
    def modes(x):
        def loss(x):
            return (weights * max_pool(x, window, **options) ** 3).sum()

        def forward(x):
            return jax.jvp(loss, (x,), (v,))[1]

        gradient, over_reverse = jax.jvp(jax.grad(loss), (x,), (v,))
        over_forward = jax.grad(forward)(x)
        reverse_twice = jax.grad(lambda x: (jax.grad(loss)(x) * v).sum())(x)
        forward_twice = jax.jvp(forward, (x,), (v,))[1]
        return gradient, forward(x), over_reverse, over_forward, reverse_twice, forward_twice

    gradient, slope, *seconds, curvature = modes(x)
    expected = place(6 * weights * pick(x) * pick(v))
    np.testing.assert_allclose(gradient, place(3 * weights * pick(x) ** 2), atol=1e-12)
    np.testing.assert_allclose(slope, (gradient * v).sum(), rtol=1e-12)
    np.testing.assert_allclose(curvature, (expected * v).sum(), rtol=1e-12)
    for second in seconds:
        np.testing.assert_allclose(second, expected, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_max_and_mean_are_those_of_reduce_window(name, x64):
    size, window, options = CASES[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)))
    window_, strides = pair(window), pair(options.get("strides", window))
    padding = options.get("padding", "VALID")
    if not isinstance(padding, str):
        padding = ((0, 0), *padding, (0, 0))

    def reduce(x, zero, f):
        return lax.reduce_window(x, zero, f, (1, *window_, 1), (1, *strides, 1), padding)

    np.testing.assert_array_equal(max_pool(x, window, **options), reduce(x, -jnp.inf, lax.max))
    mean = reduce(x, 0.0, lax.add) / (window_[0] * window_[1])
    np.testing.assert_allclose(avg_pool(x, window, **options), mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("pool", "options"), [(max_pool, {}), (avg_pool, {"strides": 1, "padding": "SAME"})]
)
def test_derivatives_to_order_two_in_both_modes(pool, options, x64):
    x = jnp.asarray(np.random.default_rng(0).permutation(16.0 - np.arange(16)).reshape(1, 4, 4, 1))
    cases.check_second(lambda x: jnp.tanh(0.1 * pool(x, 2, **options)), (x,))


@pytest.mark.parametrize("options", [{}, {"strides": 1, "padding": "SAME"}])
def test_nan_wins_and_stays_in_its_windows(options):
    x = jnp.arange(16.0).reshape(1, 4, 4, 1).at[0, 0, 0, 0].set(jnp.nan)
    y, gradient = jax.value_and_grad(lambda x: max_pool(x, 2, **options)[0, 0, 0, 0])(x)
    assert jnp.isnan(y)
    assert jnp.isnan(max_pool(x, 2, **options)).sum() == 1
    np.testing.assert_array_equal(gradient, jnp.zeros_like(x).at[0, 0, 0, 0].set(1))


def test_padding_is_never_chosen():
    x = jnp.full((1, 2, 2, 1), -jnp.inf)
    gradient = jax.grad(lambda x: max_pool(x, 2, padding=((1, 1), (1, 1))).sum())(x)
    np.testing.assert_array_equal(gradient, jnp.ones_like(x))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.uint8, jnp.int32])
def test_max_keeps_the_type(dtype):
    x = jnp.arange(16).reshape(1, 4, 4, 1).astype(dtype)
    y = max_pool(x, 3, strides=2, padding="SAME")
    assert y.dtype == dtype
    assert y.ravel().tolist() == [10, 11, 14, 15]


def test_vmap_is_a_loop(key):
    x = jax.random.normal(key, (3, 2, 4, 4, 1))
    gradient = jax.jit(jax.grad(lambda x: (max_pool(x, 2) ** 2).sum()))
    np.testing.assert_array_equal(jax.vmap(gradient)(x), jnp.stack([gradient(row) for row in x]))


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
@pytest.mark.parametrize(
    ("shape", "window", "options", "words"),
    [
        ((4, 4, 1), 2, {}, r"shape \(4, 4, 1\); expected four axes"),
        ((1, 4, 4, 1), 5, {}, r"window \(5, 5\) does not fit in images \(1, 4, 4, 1\)"),
        ((1, 4, 4, 1), 2, {"padding": "CIRCULAR"}, '"CIRCULAR" is unknown'),
        ((1, 4, 4, 1), (2, 2, 2), {}, "window is .*; expected one positive number, or two"),
        ((1, 4, 4, 1), 2, {"strides": 0}, "strides is 0; expected one positive number, or two"),
    ],
)
def test_errors_name_what_came_and_what_is_allowed(pool, shape, window, options, words):
    with pytest.raises(ValueError, match=words):
        pool(jnp.zeros(shape), window, **options)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("size", "window", "strides", "pad"),
    [((6, 4), 2, 2, 0), ((7, 8), (2, 3), (2, 3), 0), ((7, 6), 3, 2, 1), ((5, 5), 2, 1, 1)],
)
def test_ties_and_means_are_those_of_torch(size, window, strides, pad, x64):
    import torch

    options = {"strides": strides, "padding": ((pad, pad), (pad, pad))}
    functional = torch.nn.functional
    for ours, theirs in ((max_pool, functional.max_pool2d), (avg_pool, functional.avg_pool2d)):
        x = ties(size)
        loss = partial(lambda ours, x: (ours(x, window, **options) ** 3).sum(), ours)
        value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(x))
        tx = torch.tensor(x, requires_grad=True)
        tloss = (theirs(tx.permute(0, 3, 1, 2), window, strides, pad) ** 3).sum()
        tloss.backward()
        np.testing.assert_allclose(value, tloss.item(), rtol=1e-12)
        np.testing.assert_allclose(gradient, tx.grad.numpy(), rtol=1e-12, atol=1e-12)
