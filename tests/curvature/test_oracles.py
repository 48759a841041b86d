"""What independent libraries compute of the same weights and the same batch."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import cases
from funcdl import _tree, curvature, losses, operators, per_example

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.usefixtures("x64"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Full backward hook"),
]
KEY = jax.random.key(0)
# two dense layers as torch has them: (out, in), then the bias
SHAPES = (4, 5), (4,), (3, 4), (3,)
PARAMS = [cases.normal(i, *shape) for i, shape in enumerate(SHAPES)]
X, LABELS = cases.normal(9, 12, 5), np.arange(12) % 3
PROBES = cases.normal(10, 39, 3)


def f(params, batch):
    w, b, v, c = params
    hidden = jnp.tanh(jnp.matmul(batch[0], w.T) + b[None])
    return jnp.matmul(hidden, v.T) + c[None]


def head(z, batch):
    return losses.softmax_cross_entropy(z, batch[1])


def loss(params, batch):
    return head(f(params, batch), batch)


def arguments():
    return cases.cast((PARAMS, (X, LABELS)), jnp.float64)


@functools.cache
def ours() -> dict:
    @jax.jit
    def numbers(params, batch):
        args = f, head, params, batch
        return {
            "hessian": curvature.hessian(loss, params, batch).dense(),
            "ggn": curvature.ggn(*args).dense(),
            "empirical": curvature.fisher_empirical(*args).dense(),
            "kfac": curvature.kfac(*args).dense(),
            "gradients": per_example.grad(loss)(params, batch),
            "norms": per_example.grad_norm(loss)(params, batch),
            "moment": ravel_pytree(per_example.grad_second_moment(loss)(params, batch))[0],
            "ggn diagonal": ravel_pytree(per_example.ggn_diagonal(f, head)(params, batch))[0],
        }

    return jax.tree.map(np.asarray, numbers(*arguments()))


def close(found, expected, tol=1e-10):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tol * np.abs(expected).max())


def torch_net():
    import torch

    nn = torch.nn
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for p, value in zip(net.parameters(), PARAMS):
            p.copy_(torch.tensor(value))
    return net, nn.CrossEntropyLoss(), torch.tensor(X), torch.tensor(LABELS)


def test_curvlinops_has_the_same_products():
    import torch
    from curvlinops import EFLinearOperator, GGNLinearOperator, HessianLinearOperator

    net, entropy, x, y = torch_net()
    data = [(x[:7], y[:7]), (x[7:], y[7:])]
    theirs = {
        "hessian": HessianLinearOperator,
        "ggn": GGNLinearOperator,
        "empirical": EFLinearOperator,
    }
    for name, build in theirs.items():
        operator = build(net, entropy, list(net.parameters()), data)
        product = (operator @ torch.tensor(PROBES)).detach().numpy()
        close(ours()[name] @ PROBES, product)


def test_backpack_has_the_same_moments_norms_and_diagonal():
    import torch
    from backpack import backpack, extend
    from backpack.extensions import BatchGrad, BatchL2Grad, DiagGGNExact, SumGradSquared

    net, entropy, x, y = torch_net()
    net, entropy = extend(net), extend(entropy)
    with backpack(BatchGrad(), BatchL2Grad(), SumGradSquared(), DiagGGNExact()):
        entropy(net(x), y).backward()
    n, params = len(x), list(net.parameters())
    flat = lambda name: torch.cat([getattr(p, name).reshape(-1) for p in params]).numpy()
    # a mean over examples there divides each of their gradients
    squares = sum(p.batch_l2 for p in params).numpy()
    close(ours()["norms"], n * np.sqrt(squares))
    for found, p in zip(ours()["gradients"], params):
        close(found, n * p.grad_batch.numpy())
    close(ours()["moment"], n * flat("sum_grad_squared"))
    close(ours()["ggn diagonal"], flat("diag_ggn_exact"))


def bind(eqn, values):
    """Evaluate an operation; kfac-jax 0.0.8 expects of it what jax had before 0.10."""
    out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return out if isinstance(out, list) else [out]


def test_kfac_jax_has_the_same_blocks(monkeypatch):
    import kfac_jax

    monkeypatch.setattr(sys.modules["kfac_jax._src.tag_graph_matcher"], "eval_jaxpr_eqn", bind)
    model = lambda params, batch: jnp.matmul(jnp.tanh(jnp.matmul(batch[0], params[0])), params[1])
    weights, (_, batch) = (jnp.asarray(PARAMS[0].T), jnp.asarray(PARAMS[2].T)), arguments()

    def tagged(params, batch):
        z = model(params, batch)
        kfac_jax.register_softmax_cross_entropy_loss(z, batch[1])
        return -jnp.take_along_axis(jax.nn.log_softmax(z), batch[1][:, None], axis=1).mean()

    with jax.numpy_rank_promotion("allow"):
        estimator = kfac_jax.BlockDiagonalCurvature(
            tagged, params_index=0, default_estimation_mode="ggn_exact"
        )
        estimator.finalize((weights, batch))
        state = estimator.init(
            KEY,
            (weights, batch),
            exact_powers_to_cache=None,
            approx_powers_to_cache=None,
            cache_eigenvalues=False,
        )
        state = estimator.update_curvature_matrix_estimate(
            state, 0.0, 1.0, 0.0, len(X), KEY, (weights, batch)
        )
        theirs = estimator.to_diagonal_block_dense_matrix(state)
    ours = curvature.kfac(model, head, weights, batch)
    assert len(theirs) == 2
    for leaf, block in zip("01", theirs):
        close(ours.block(leaf).dense(), block)


def test_lineax_solves_the_same_equations():
    import lineax as lx

    params, batch = arguments()
    A = curvature.ggn(f, head, params, batch).shift(0.1)
    b = jax.tree.map(jnp.cos, params)
    with jax.numpy_rank_promotion("allow"):
        theirs = lx.linear_solve(A.as_lineax(), b, lx.CG(rtol=1e-12, atol=1e-12)).value
    found = operators.cg(A, b, tol=1e-11).x
    close(ravel_pytree(found)[0], ravel_pytree(theirs)[0], 1e-9)


def test_matfree_has_the_same_eigenvalues_and_with_the_same_signs_the_same_estimates():
    from matfree import decomp, eig, funm, stochtrace

    n, probes, steps = 39, 20, 15
    matrix = jnp.asarray(cases.symmetric(np.geomspace(0.1, 10, n)))
    A = operators.from_dense(matrix, psd=True)
    product = lambda v: matrix @ v
    form = jax.ShapeDtypeStruct((n,), jnp.float64)
    signs = jax.vmap(lambda key: _tree.random(key, form, jax.random.rademacher))(
        jax.random.split(KEY, probes)
    )
    many = jax.random.rademacher(KEY, (probes, n), jnp.float64)  # as logdet draws them
    mean = lambda f, z=signs: stochtrace.estimator_monte_carlo(f, lambda key: z)(product, KEY)
    tridiagonal = decomp.tridiag_sym(steps)
    with jax.numpy_rank_promotion("allow"):
        values = eig.eigh_partial(decomp.tridiag_sym(n))(product, jnp.cos(jnp.arange(n)))[0]
        theirs = {
            operators.trace: mean(stochtrace.monte_carlo_trace()),
            operators.diagonal: mean(stochtrace.monte_carlo_diagonal()),
            operators.frobenius: mean(stochtrace.monte_carlo_frobeniusnorm_squared()) ** 0.5,
            operators.logdet: mean(funm.monte_carlo_funm_sym_logdet(tridiagonal), many),
        }
    close(operators.eigsh(A, 3, key=KEY, tol=1e-9).values, np.sort(values)[::-1][:3], 1e-9)
    options = {operators.logdet: {"steps": steps}}
    for estimate, expected in theirs.items():
        found = estimate(A, key=KEY, probes=probes, **options.get(estimate, {}))
        close(found.value, expected)
