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


from funcdl.density._invert import invert


def inverse(f, like=None):
    def transformed(y, *args):
        x = like if like is not None else y
        x = jax.tree.map(lambda l: jax.ShapeDtypeStruct(l.shape, l.dtype), x)
        closed, out = jax.make_jaxpr(f, return_shape=True)(x, *args)
        n = len(jax.tree.leaves(x))
        a = analyse(closed, range(n), range(len(jax.tree.leaves(out))))
        xs, reached = invert(a, jax.tree.leaves(y), [None] * n + jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(x), xs)

    return transformed
