"""What a user writes, checked by pyright in ``nox -s lint`` and run by ``test_user_script``."""

import jax
import jax.numpy as jnp
import optax

from funcdl import (
    autodiff,
    curvature,
    data,
    density,
    flows,
    linalg,
    losses,
    nn,
    operators,
    per_example,
    stats,
    train,
)


def main(steps: int = 4) -> dict[str, float]:
    """Call at least one function of every room and return a number of each."""
    key = jax.random.key(0)
    x, labels = jnp.ones((8, 3)), jnp.zeros(8, jnp.int32)
    batches = data.Batches((x, labels), 4, key=key)
    model = nn.from_linen(nn.models.MLP((4, 2)))
    objective = train.supervised(model, losses.softmax_cross_entropy)
    program = train.program(objective, optax.sgd(0.1))
    run, history = train.fit(program, program.init(key, batches.form), batches, steps=steps)
    loss = train.eval_loss(objective, run.state)

    hessian = curvature.hessian(loss, run.params, (x, labels))
    pairs = operators.eigsh(hessian, 1, key=key)
    estimate = operators.trace(hessian, key=key)
    norms = per_example.grad_norm(loss)(run.params, (x, labels))
    product = autodiff.hvp(lambda v: (v**3).sum())(jnp.ones(2), jnp.ones(2))
    u, s, v, gap = linalg.svd(jnp.eye(3))
    y, log_det = density.value_and_log_det(jnp.tanh)(jnp.zeros(2))
    flow = flows.real_nvp(2, flows.mlp(4))
    z = flow.forward(flow.init(key, jnp.zeros(2)), jnp.zeros(2))
    normal = stats.gaussian.Gaussian(jnp.zeros(2), jnp.eye(2))
    return {
        "loss": float(history.metrics["loss"][-1]),
        "eigenvalue": float(pairs.values[0]),
        "trace": float(estimate.value),
        "norm": float(norms.mean()),
        "product": float(product.sum()),
        "singular value": float(s[0] * gap * u[0, 0] * v[0, 0]),
        "log_det": float(log_det + y.sum()),
        "flow": float(z.sum()),
        "log_prob": float(stats.gaussian.log_prob(normal, jnp.zeros(2))),
    }


if __name__ == "__main__":
    print(main())
