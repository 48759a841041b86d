"""A gather at positions that depend on x reads its own lane only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from funcdl import density
from funcdl.density._analysis import analyze

N = 4
TABLE = 1 + np.abs(cases.normal(0, N, 5))
WIDE = 1 + np.abs(cases.normal(1, 2, 2, 5))


def place(x):
    return jnp.clip((2 * x).astype(int), 0, 4)


LANES = {
    "lanes of a table": lambda x: jax.vmap(lambda x, t: x * t[place(x)])(x, jnp.asarray(TABLE)),
    "one table": lambda x: jax.vmap(lambda x: x * jnp.asarray(TABLE[0])[place(x)])(x),
    "along an axis": lambda x: (
        x * jnp.take_along_axis(jnp.asarray(TABLE), place(x)[:, None], axis=1)[:, 0]
    ),
    "fill": lambda x: jax.vmap(
        lambda x, t: x * t.at[place(x) + 3].get(mode="fill", fill_value=2.0)
    )(x, jnp.asarray(TABLE)),
    "lanes of lanes": lambda x: jax.vmap(jax.vmap(lambda x, t: x * t[place(x)]))(
        x.reshape(2, 2), jnp.asarray(WIDE)
    ).ravel(),
    "a table of x": lambda x: jax.vmap(lambda x: (x * jnp.arange(1.0, 6.0))[place(x)])(x),
    "a row of x": lambda x: jax.vmap(
        lambda x: (x[:, None] * jnp.asarray([[1.0, 2.0]]))[:, (x.sum() > 0).astype(int)]
    )(x.reshape(2, 2)).ravel(),
    "counted": lambda x: jax.vmap(lambda x, t: x * t[(x > jnp.linspace(-1, 1, 4)).sum()])(
        x, jnp.asarray(TABLE)
    ),
}


@pytest.mark.parametrize("name", LANES)
def test_the_jacobian_has_no_entries_between_lanes(name, x64):
    f, x = LANES[name], jnp.asarray(cases.normal(2, N))
    value, found = density.value_and_log_det(f)(x)
    np.testing.assert_allclose(value, f(x))
    np.testing.assert_allclose(found, np.linalg.slogdet(jax.jacfwd(f)(x))[1], rtol=1e-12)
    plans = analyze(jax.make_jaxpr(f)(x), [0], [0]).plans
    pattern = sum(plan.jacobian.astype(int) for plan in plans)
    lanes = np.kron(np.eye(2), np.ones((2, 2))) if name == "a row of x" else np.eye(N)
    assert not (pattern.toarray() * (1 - lanes)).any()
    read = lambda x: sum(jnp.sin(f(x)))
    slope = jax.grad(read)(x)
    np.testing.assert_allclose(slope, jnp.cos(f(x)) @ jax.jacfwd(f)(x), rtol=1e-12)
