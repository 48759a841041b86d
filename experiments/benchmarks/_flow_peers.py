"""Coupling flows of other libraries with the parameters of ours, as plain functions of a batch."""

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

LAYERS, WIDTH, BINS, BOUND = 8, 64, 8, 4.0


class Form(NamedTuple):
    """A density to train; ``log_prob(params, x)`` maps a batch ``(b, d)`` to ``(b,)``."""

    params: dict
    log_prob: Callable


def installed(*modules: str) -> bool:
    """Tell whether all modules are installed."""
    return all(importlib.util.find_spec(name) for name in modules)


def normal(z):
    """Evaluate the standard normal log-density of each row."""
    import jax

    return jax.scipy.stats.norm.logpdf(z).sum(axis=-1)


def flowjax_forms(key, d: int) -> dict[str, Form]:
    """Build flowjax's coupling flows, affine and spline."""
    import equinox as eqx
    import jax.numpy as jnp
    import paramax
    from flowjax import bijections, distributions, flows

    def form(transformer) -> Form:
        flow = flows.coupling_flow(
            key,
            base_dist=distributions.Normal(jnp.zeros(d)),
            transformer=transformer,
            flow_layers=LAYERS,
            nn_width=WIDTH,
            nn_depth=2,
        )
        params, static = eqx.partition(
            flow,
            eqx.is_inexact_array,
            is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable),
        )

        def log_prob(params, x):
            return paramax.unwrap(eqx.combine(params, static)).log_prob(x)

        return Form(params, log_prob)

    spline = bijections.RationalQuadraticSpline(knots=BINS, interval=BOUND)
    return {"flowjax, affine": form(None), "flowjax, spline": form(spline)}


def distrax_forms(params: dict, d: int) -> dict[str, Form]:
    """Build chains of distrax's ``SplitCoupling`` with our multilayer perceptrons."""
    import distrax
    import jax
    import jax.numpy as jnp

    def form(name: str, numbers: int, bijector) -> Form:
        def conditioner(layers):
            def apply(x):
                for layer in layers[:-1]:
                    x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
                y = x @ layers[-1]["kernel"][:, : (d - d // 2) * numbers]
                y = y + layers[-1]["bias"][: (d - d // 2) * numbers]
                return y.reshape(*x.shape[:-1], d - d // 2, numbers)

            return apply

        def log_prob(layers, x):
            total = 0.0
            for i in range(LAYERS):
                own = jax.tree.map(lambda a, i=i: a[i], layers)
                coupling = distrax.SplitCoupling(
                    split_index=d // 2,
                    event_ndims=1,
                    conditioner=conditioner(own),
                    bijector=bijector,
                    swap=bool(i % 2),
                )
                x, log_det = coupling.forward_and_log_det(x)
                total = total + log_det
            return normal(x) + total

        return Form(jax.tree.map(jnp.copy, params[name]), log_prob)

    affine = lambda raw: distrax.ScalarAffine(shift=raw[..., 0], log_scale=raw[..., 1])
    spline = lambda raw: distrax.RationalQuadraticSpline(
        jnp.concatenate([raw, jnp.zeros_like(raw[..., :2])], axis=-1),
        range_min=-BOUND,
        range_max=BOUND,
        boundary_slopes="identity",
    )
    return {
        "distrax, affine": form("affine", 2, affine),
        "distrax, spline": form("spline", 3 * BINS - 1, spline),
    }
