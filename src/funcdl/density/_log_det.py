import jax, jax.numpy as jnp
from jax.extend import core as jex
from funcdl.density._analysis import analyse, run


def value_and_log_det(f):
    def transformed(x, *args):
        closed, out = jax.make_jaxpr(f, return_shape=True)(x, *args)
        n = len(jax.tree.leaves(x))
        a = analyse(closed, range(n), range(len(jax.tree.leaves(out))))
        ys, ld = run(a, jax.tree.leaves((x, *args)))
        return jax.tree.unflatten(jax.tree.structure(out), ys), ld

    return transformed
