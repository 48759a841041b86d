import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import cases
from funcdl.nn import Conv, _conv, conv

# (h, w, c), (kh, kw, o), options
CASES = {
    "lecture": ((9, 9, 3), (5, 5, 6), {"padding": "VALID"}),
    "same": ((6, 7, 2), (3, 3, 4), {}),
    "many channels out": ((5, 5, 3), (3, 3, 20), {}),
    "unequal strides": ((11, 9, 2), (5, 3, 4), {"strides": (3, 1), "padding": "VALID"}),
    "patches": ((8, 8, 3), (4, 4, 5), {"strides": 4, "padding": "VALID"}),
    "pointwise strides": ((5, 5, 3), (1, 1, 2), {"strides": 2}),
    "pairs": ((5, 6, 2), (3, 4, 3), {"padding": ((2, 0), (1, 3))}),
    "dilated groups": ((9, 8, 4), (3, 2, 6), {"dilation": (2, 3), "groups": 2}),
    "whole image": ((4, 3, 2), (4, 3, 5), {"padding": "VALID"}),
}


def draw(image, window, b=3, groups=1, dtype=None):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(b, *image))
    kernel = rng.normal(size=(*window[:2], image[2] // groups, window[2]))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def lax_conv(x, kernel, *, strides=1, padding="SAME", dilation=1, groups=1):
    def pair(v):
        return (v, v) if isinstance(v, int) else v

    return lax.conv_general_dilated(
        x,
        kernel,
        pair(strides),
        padding,
        rhs_dilation=pair(dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def derivatives(f):
    """Values, both gradients and a Hessian-vector product of a cubic loss."""

    @jax.jit
    def all_of_them(x, kernel):
        gradient = jax.grad(lambda x, kernel: (f(x, kernel) ** 3).mean(), (0, 1))
        direction = (jnp.cos(x), jnp.sin(kernel))
        return f(x, kernel), *jax.jvp(gradient, (x, kernel), direction)

    return all_of_them


def assert_same(actual, expected, rtol=1e-11):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, e, rtol=0, atol=rtol * float(jnp.abs(e).max()))


@pytest.mark.parametrize("name", CASES)
def test_values_gradients_and_hessian_products_are_those_of_lax(name, x64):
    image, window, options = CASES[name]
    x, kernel = draw(image, window, groups=options.get("groups", 1))
    ours = derivatives(lambda x, kernel: conv(x, kernel, **options))(x, kernel)
    assert_same(ours, derivatives(lambda x, kernel: lax_conv(x, kernel, **options))(x, kernel))


def test_blocks_with_a_rest_change_nothing(x64, monkeypatch):
    x, kernel = draw((6, 6, 2), (3, 3, 4), b=5)
    whole = derivatives(conv)(x, kernel)
    monkeypatch.setattr(_conv, "_BLOCK_BYTES", 6000)  # two of the five images
    assert "scan" in str(jax.make_jaxpr(lambda *a: conv(*a))(x, kernel))
    assert_same(derivatives(conv)(x, kernel), whole)


def test_vmap_over_kernels_and_per_example_gradients(x64, monkeypatch):
    monkeypatch.setattr(_conv, "_BLOCK_BYTES", 6000)

    def gradient(f):
        return jax.grad(lambda kernel, x: (f(x[None], kernel) ** 2).sum())

    @jax.jit
    def both(x, kernels):
        ensemble = jax.vmap(conv, (None, 0))(x, kernels)
        return ensemble, jax.vmap(gradient(conv), (None, 0))(kernels[0], x)

    x, kernel = draw((6, 6, 2), (3, 3, 4), b=5)
    kernels = jnp.stack([kernel, 2 * kernel, kernel**2])
    ensemble = jnp.stack([lax_conv(x, k) for k in kernels])
    one_gradient = jax.jit(gradient(lax_conv))
    per_example = jnp.stack([one_gradient(kernel, row) for row in x])
    assert_same(both(x, kernels), (ensemble, per_example))


def test_derivatives_to_order_two_in_both_modes(x64):
    x, kernel = draw((3, 4, 1), (2, 2, 2), b=2)
    cases.check_second(lambda x, kernel: jnp.tanh(conv(x, kernel)), (x, kernel))


def test_bfloat16_stays_and_is_rounded_once():
    x, kernel = draw((6, 6, 8), (3, 3, 4), dtype=jnp.bfloat16)
    y = jax.jit(conv)(x, kernel)
    assert y.dtype == jnp.bfloat16
    exact = lax_conv(x.astype(jnp.float32), kernel.astype(jnp.float32))
    assert_same(y.astype(jnp.float32), exact, rtol=2**-8)


def test_types_are_promoted():
    kernel = jnp.ones((2, 2, 1, 1))
    for dtype in (jnp.uint8, jnp.bfloat16):
        assert jax.eval_shape(conv, jnp.ones((1, 4, 4, 1), dtype), kernel).dtype == jnp.float32


def test_an_empty_batch_has_empty_responses():
    y = jax.eval_shape(conv, jnp.zeros((0, 5, 5, 2)), jnp.zeros((3, 3, 2, 4)))
    assert y.shape == (0, 5, 5, 4)


def test_accelerators_get_the_convolution_of_lax(monkeypatch):
    x, kernel = draw((6, 6, 2), (3, 3, 4))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(conv)(x, kernel))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "conv_general_dilated" in str(jax.make_jaxpr(lambda *a: conv(*a))(x, kernel))


@pytest.mark.parametrize(
    ("matrix", "fields"),
    [
        (True, {"kernel_size": (3, 2), "strides": (2, 1), "padding": ((1, 1), (0, 2))}),
        (True, {"kernel_size": (5, 5), "use_bias": False, "dtype": jnp.bfloat16}),
        (False, {"kernel_size": (3, 3), "kernel_dilation": 2, "feature_group_count": 2}),
    ],
)
def test_parameters_interchange_with_flax(matrix, fields, key, monkeypatch):
    monkeypatch.setattr(_conv, "_prefers_matrix", lambda: matrix)
    x = jax.random.normal(key, (2, 8, 7, 4))

    @jax.jit
    def both(key, x):
        ours, theirs = Conv(6, **fields), nn.Conv(6, **fields)
        variables = theirs.init(key, x)
        outputs = ours.apply(variables, x), theirs.apply(variables, x)
        return ours.init(key, x), variables, *outputs

    variables, expected, y, reference = both(key, x)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert y.dtype == reference.dtype
    rtol = 2e-2 if y.dtype == jnp.bfloat16 else 1e-5
    assert_same(y.astype(jnp.float32), reference.astype(jnp.float32), rtol)


def test_the_layer_keeps_leading_axes(key):
    layer = Conv(3, 3)
    x = jax.random.normal(key, (2, 4, 6, 6, 2))

    @jax.jit
    def many_and_one(x):
        variables = layer.init(key, x[0])
        return layer.apply(variables, x), layer.apply(variables, x[1, 2])

    many, one = many_and_one(x)
    assert many.shape == (2, 4, 6, 6, 3)
    np.testing.assert_allclose(one, many[1, 2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "kernel", "options", "words"),
    [
        ((2, 8, 8, 3), (3, 3, 4, 6), {}, r"\(2, 8, 8, 3\) have 3 channels.*\(3, 3, 4, 6\) reads 4"),
        ((2, 8, 8, 4), (3, 3, 2, 5), {"groups": 2}, r"\(3, 3, 2, 5\) reads 2 in each of 2 group"),
        ((8, 8, 3), (3, 3, 3, 6), {}, r"\(8, 8, 3\).*\(3, 3, 3, 6\); expected four axes"),
        ((2, 8, 8, 3), (3, 3, 3), {}, r"\(3, 3, 3\); expected four axes"),
        ((2, 8, 8, 3), (3, 3, 3, 6), {"padding": "FULL"}, 'padding "FULL" is unknown'),
        ((2, 8, 8, 3), (3, 3, 3, 6), {"padding": ((1, 1),)}, "padding is"),
        ((2, 8, 8, 3), (3, 3, 3, 6), {"strides": (1, 1, 1)}, "strides is .* one positive number"),
        ((2, 8, 8, 3), (3, 3, 3, 6), {"dilation": 0}, "dilation is 0.* one positive number"),
        ((2, 4, 4, 3), (5, 5, 3, 6), {"padding": "VALID"}, r"window \(5, 5\) does not fit"),
    ],
)
def test_errors_name_shapes_and_what_is_allowed(x, kernel, options, words):
    with pytest.raises(ValueError, match=words):
        conv(jnp.zeros(x), jnp.zeros(kernel), **options)


def test_the_layer_refuses_groups_that_do_not_divide(key):
    with pytest.raises(ValueError, match="feature_group_count is 3"):
        Conv(6, 3, feature_group_count=3).init(key, jnp.zeros((1, 5, 5, 4)))


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["lecture", "patches", "strides", "dilated groups"])
def test_values_and_gradients_are_those_of_torch(name, x64):
    import torch

    image, window, options = CASES.get(name, ((5, 6, 2), (3, 5, 3), {"strides": 2}))
    options = {**options, "padding": ((1, 1), (2, 2))}
    x, kernel = draw(image, window, groups=options.get("groups", 1))
    loss = jax.jit(lambda x, kernel: (conv(x, kernel, **options) ** 3).mean())
    ours = (loss(x, kernel), *jax.jit(jax.grad(loss, (0, 1)))(x, kernel))

    tx = torch.tensor(np.asarray(x), requires_grad=True)
    tk = torch.tensor(np.asarray(kernel), requires_grad=True)
    y = torch.nn.functional.conv2d(
        tx.permute(0, 3, 1, 2),
        tk.permute(3, 2, 0, 1),
        stride=options.get("strides", 1),
        padding=(1, 2),
        dilation=options.get("dilation", 1),
        groups=options.get("groups", 1),
    )
    (y**3).mean().backward()
    expected = ((y**3).mean().item(), tx.grad.numpy(), tk.grad.numpy())
    assert_same(ours, jax.tree.map(jnp.asarray, expected))
