"""The bijections of flowjax, each with random constants."""

import numpy as np

from _bijectors import SIZE, SLOPES, Case


def of_flowjax(rng: np.random.Generator) -> list[Case]:
    """Return every bijection of flowjax, and the flows that it builds from them."""
    import jax
    import jax.numpy as jnp

    conditions = {}
    made = _elements(rng) | _networks(rng, conditions) | _flows(rng)
    slopes = {"Tanh": "tanh", "Sigmoid": "sigmoid", "SoftPlus": "softplus", "Exp": "exp"}
    domains = dict.fromkeys(("Power", "Invert of Exp", "Sandwich"), "positive")
    domains["Invert of Tanh"] = "ball"

    def case(name, b):
        c = conditions.get(name)
        claim = jax.jit(lambda x: b.transform_and_log_det(x, c)[1])
        slope = SLOPES[slopes[name]] if name in slopes else None
        back = lambda y: b.inverse(y, c)
        domain = domains.get(name, "real")
        return Case(name, lambda x: b.transform(x, c), claim, back, domain, b.shape, slope)

    return [case(name, _shaken(b, jnp.asarray(rng.integers(1 << 30)))) for name, b in made.items()]


def _shaken(bijection, seed):
    """Add normal numbers to the parameters, which start near the identity."""
    import equinox as eqx
    import jax
    import paramax

    frozen = lambda leaf: isinstance(leaf, paramax.NonTrainable)
    free, fixed = eqx.partition(bijection, eqx.is_inexact_array, is_leaf=frozen)
    leaves, structure = jax.tree.flatten(free)
    keys = jax.random.split(jax.random.key(seed), max(len(leaves), 1))
    leaves = [x + 0.3 * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves)]
    return eqx.combine(jax.tree.unflatten(structure, leaves), fixed, is_leaf=frozen)


def _elements(rng: np.random.Generator) -> dict:
    import equinox as eqx
    import jax.numpy as jnp
    from flowjax import bijections as fb

    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    vector, shape, half = draw(SIZE), (SIZE,), SIZE // 2
    positive = jnp.exp(vector)
    affine = fb.Affine(vector, positive)
    layers = eqx.filter_vmap(fb.Affine)(draw(3, SIZE), jnp.exp(0.3 * draw(3, SIZE)))
    spline = fb.RationalQuadraticSpline(knots=5, interval=3)
    return {
        "Affine": affine,
        "Chain": fb.Chain([affine, fb.Tanh(shape), fb.Flip(shape)]),
        "Concatenate": fb.Concatenate([fb.Exp((half,)), fb.Affine(vector[half:])]),
        "DiscreteCosine": fb.DiscreteCosine(shape),
        "Exp": fb.Exp(shape),
        "Flip": fb.Flip(shape),
        "Householder": fb.Householder(vector),
        "Identity": fb.Identity(shape),
        "Indexed": fb.Indexed(fb.Tanh((half,)), slice(0, half), shape),
        "Invert of Exp": fb.Invert(fb.Exp(shape)),
        "Invert of Tanh": fb.Invert(fb.Tanh(shape)),
        "LeakyTanh": fb.LeakyTanh(3, shape),
        "Loc": fb.Loc(vector),
        "Permute": fb.Permute(jnp.asarray(rng.permutation(SIZE))),
        "Power": fb.Power(3, shape),
        "RationalQuadraticSpline": fb.Vmap(spline, axis_size=SIZE),
        "Reshape": fb.Reshape(affine, (2, half)),
        "Sandwich": fb.Sandwich(affine, fb.Invert(fb.Exp(shape))),
        "Scale": fb.Scale(positive),
        "Scan": fb.Scan(layers),
        "Sigmoid": fb.Sigmoid(shape),
        "SoftPlus": fb.SoftPlus(shape),
        "Stack": fb.Stack([fb.Exp((half,)), fb.Affine(vector[half:])]),
        "Tanh": fb.Tanh(shape),
        "TriangularAffine": fb.TriangularAffine(vector, draw(SIZE, SIZE) + 3 * jnp.eye(SIZE)),
        "Vmap": fb.Vmap(fb.LeakyTanh(2), axis_size=SIZE),
    }


def _networks(rng: np.random.Generator, conditions: dict) -> dict:
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    from flowjax import bijections as fb

    keys = iter(jax.random.split(jax.random.key(rng.integers(1 << 30)), 20))
    dim, net = {"dim": SIZE}, {"nn_width": 10, "nn_depth": 1}
    spline = fb.RationalQuadraticSpline(knots=5, interval=3)
    coupled = {"untransformed_dim": SIZE // 2, **dim, **net}
    mlp = {"width_size": 8, "depth": 1}
    condition = jnp.asarray(rng.normal(size=2), jnp.float32)
    conditional = fb.Coupling(next(keys), transformer=fb.Affine(), cond_dim=2, **coupled)
    autoregressive = fb.MaskedAutoregressive(next(keys), transformer=fb.Affine(), **dim, **net)
    conditions |= dict.fromkeys(
        ("AdditiveCondition", "EmbedCondition", "Coupling, conditional", "Planar, conditional"),
        condition,
    )
    return {
        "AdditiveCondition": fb.AdditiveCondition(
            eqx.nn.Linear(2, SIZE, key=next(keys)), (SIZE,), (2,)
        ),
        "BlockAutoregressiveNetwork": fb.BlockAutoregressiveNetwork(
            next(keys), **dim, depth=1, block_dim=3
        ),
        "Coupling": fb.Coupling(next(keys), transformer=fb.Affine(), **coupled),
        "Coupling, conditional": conditional,
        "Coupling of splines": fb.Coupling(next(keys), transformer=spline, **coupled),
        "EmbedCondition": fb.EmbedCondition(conditional, eqx.nn.Linear(2, 2, key=next(keys)), (2,)),
        "Invert of MaskedAutoregressive": fb.Invert(autoregressive),
        "MaskedAutoregressive": autoregressive,
        "MaskedAutoregressive of splines": fb.MaskedAutoregressive(
            next(keys), transformer=spline, **dim, **net
        ),
        "NumericalInverse": fb.NumericalInverse(fb.LeakyTanh(3, (SIZE,)), _bisected),
        "Planar": fb.Planar(next(keys), **dim),
        "Planar, conditional": fb.Planar(next(keys), **dim, cond_dim=2, **mlp),
        "Planar, leaky": fb.Planar(next(keys), **dim, negative_slope=0.2),
    }


def _bisected(bijection, y, condition=None):
    """Invert an increasing function of single numbers by bisection."""
    import jax
    import jax.numpy as jnp

    def step(_, ends):
        low, high = ends
        middle = (low + high) / 2
        above = bijection.transform(middle, condition) > y
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    ends = jnp.full_like(y, -1e3), jnp.full_like(y, 1e3)
    return jax.lax.fori_loop(0, 60, step, ends)[0]


def _flows(rng: np.random.Generator) -> dict:
    import jax
    from flowjax import distributions, flows

    keys = iter(jax.random.split(jax.random.key(rng.integers(1 << 30)), 5))
    base = {"base_dist": distributions.StandardNormal((SIZE,)), "flow_layers": 2}
    return {
        build.__name__: build(next(keys), **base, invert=False).bijection
        for build in (
            flows.block_neural_autoregressive_flow,
            flows.coupling_flow,
            flows.masked_autoregressive_flow,
            flows.planar_flow,
            flows.triangular_spline_flow,
        )
    }
