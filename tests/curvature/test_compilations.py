"""No public function compiles again for other arrays of the same shapes."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cases
from funcdl import curvature, losses, operators, per_example
from funcdl.data import Batches

KEY, GRID, FRACTION = jax.random.key(0), jnp.linspace(-1, 1, 3), jnp.float32(0.3)
OPTIMIZER = optax.sgd(0.1)


def f(params, batch):
    return jnp.matmul(jnp.tanh(jnp.matmul(batch[0], params["w"])), params["v"])


def head(z, batch):
    return losses.softmax_cross_entropy(z, batch[1])


def loss(params, batch):
    return head(f(params, batch), batch)


def arrays(seed):
    """Parameters, a batch and a direction: new arrays of the same shapes."""
    shapes = {"w": (2, 3), "v": (3, 3)}
    tree = lambda s: {name: np.float32(cases.normal(s, *shape)) for name, shape in shapes.items()}
    batch = np.float32(cases.normal(seed + 1, 5, 2)), np.roll(np.asarray([0, 1, 2, 1, 0]), seed)
    return jax.tree.map(jnp.asarray, (tree(seed), batch, tree(seed + 2)))


def posterior(params, batch):
    A = curvature.kfac(f, head, params, batch)
    return curvature.laplace(A, params, examples=5, prior_precision=FRACTION)


def step(transform):
    def call(params, batch, v):
        return transform.update(v, transform.init(params), params, batch=batch)

    return jax.jit(call)


WHERE = jax.ShapeDtypeStruct((5, 2), jnp.float32), jax.ShapeDtypeStruct((5,), jnp.int32)
STEPS = {
    "kfac_preconditioner": curvature.kfac_preconditioner(f, head, damping=0.1),
    "ggn_diagonal_preconditioner": curvature.ggn_diagonal_preconditioner(f, head, damping=0.1),
    "hutchinson_preconditioner": curvature.hutchinson_preconditioner(loss, key=KEY, damping=0.1),
}
LABELS, DRAW = curvature.every_label(3), curvature.draw_label(2)
OPERATORS = {
    "hessian": lambda p, b: curvature.hessian(loss, p, b),
    "hessian over batches": lambda p, b: curvature.hessian(loss, p, Batches(b, 2)),
    "block": lambda p, b: curvature.hessian(loss, p, b).block("v"),
    "ggn": lambda p, b: curvature.ggn(f, head, p, b),
    "fisher_empirical": lambda p, b: curvature.fisher_empirical(f, head, p, b),
    "fisher_exact": lambda p, b: curvature.fisher_exact(f, head, p, b, outcomes=LABELS),
    "fisher_mc": lambda p, b: curvature.fisher_mc(f, head, p, b, key=KEY, draw=DRAW),
    "jacobian": lambda p, b: curvature.jacobian(f, p, b),
    "ntk": lambda p, b: curvature.ntk(f, p, b),
    "kfac": lambda p, b: curvature.kfac(f, head, p, b),
    "ekfac": lambda p, b: curvature.ekfac(f, head, p, b),
}
CALLS = {
    **{name: lambda p, b, v, make=make: make(p, b).dense() for name, make in OPERATORS.items()},
    "sharpness": lambda p, b, v: curvature.sharpness(loss, p, b, key=KEY),
    "worst_loss": lambda p, b, v: curvature.worst_loss(loss, p, b, radius=0.1, key=KEY, steps=2),
    "noise_scale": lambda p, b, v: curvature.noise_scale(loss, p, b),
    "landscape": lambda p, b, v: curvature.loss_landscape(loss, p, [v], GRID, b),
    "filter_normalized": lambda p, b, v: curvature.filter_normalized(KEY, p),
    "mode_connectivity": lambda p, b, v: curvature.mode_connectivity(
        loss, (p, v), b, key=KEY, steps=2, optimizer=OPTIMIZER
    ),
    "bezier": lambda p, b, v: curvature.bezier((p, v), v, FRACTION),
    "barrier": lambda p, b, v: curvature.loss_barrier(b[0][0]),
    "stability_ratio": lambda p, b, v: curvature.stability_ratio(b[0][0], FRACTION),
    "overlap": lambda p, b, v: curvature.subspace_overlap(v["v"], p["v"]),
    "log_evidence": lambda p, b, v: curvature.log_evidence(posterior(p, b), FRACTION),
    "predictive": lambda p, b, v: curvature.predictive(posterior(p, b), f, b),
    "leading_eigenpair": lambda p, b, v: operators.leading_eigenpair(
        curvature.hessian(loss, p, b), v, steps=2
    ),
    "grad_norm": lambda p, b, v: per_example.grad_norm(loss)(p, b),
    "grad_second_moment": lambda p, b, v: per_example.grad_second_moment(loss)(p, b),
}
for _name, _pair in STEPS.items():
    CALLS[_name] = step(curvature.preconditioned(_pair, WHERE))


@contextlib.contextmanager
def compilations():
    """Count what the compiler is asked for."""
    names = []

    def note(event, duration, **_):
        if event.endswith("backend_compile_duration"):
            names.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


def test_a_new_function_is_counted():
    with compilations() as made:
        jax.jit(lambda x: 2 * x + 1)(GRID)
    assert len(made) == 1


@pytest.mark.parametrize("name", CALLS)
def test_a_second_call_with_other_arrays_compiles_nothing(name):
    first, second = (arrays(seed) for seed in (0, 1))
    CALLS[name](*first)
    with compilations() as made:
        CALLS[name](*second)
    assert not made
