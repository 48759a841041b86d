"""One backward pass over a batch, from which the derivatives of single examples are computed."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _jaxpr
from funcdl._typing import Array, PyTree
from funcdl.per_example._recording.interpreter import Recorder
from funcdl.per_example._recording.sites import Alias, Site


class Recording(NamedTuple):
    """The results of one example at the sites.

    Attributes:
        value: ``f(params, example)``.
        pullback: ``pullback(cotangent) -> [(a, g), ...]``, the two factors of each site.
    """

    value: PyTree
    pullback: Callable


@dataclasses.dataclass(frozen=True)
class Traced:
    """A function of parameters and one example, with the sites where parameters are used.

    Attributes:
        sites: Static descriptions, in the order of the jaxpr.
        run: ``run(leaves, taps, example) -> (value, inputs)``.
    """

    sites: list[Site]
    run: Callable

    def record(self, leaves: list[Array], example: PyTree) -> Recording:
        """Run forward; the pullback runs backward each time it is called."""
        taps = [jnp.zeros(site.form.shape, site.form.dtype) for site in self.sites]
        value, back, inputs = jax.vjp(
            lambda taps: self.run(leaves, taps, example), taps, has_aux=True
        )

        def pullback(cotangent):
            (g,) = back(cotangent)
            return [site.factors(x, y) for site, x, y in zip(self.sites, inputs, g)]

        return Recording(value, pullback)


def traced(f: Callable, params: PyTree, example: PyTree) -> Traced:
    """Trace a function and find where it uses its parameters.

    Args:
        f: ``f(params, example) -> tree of float arrays``.
        params: Any pytree; its float leaves are differentiated.
        example: Arrays or ``jax.ShapeDtypeStruct``.

    Returns:
        The traced function with its sites.
    """
    form = lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
    leaves = jax.tree.leaves(params)
    closed, out = jax.make_jaxpr(f, return_shape=True)(
        jax.tree.map(form, params), jax.tree.map(form, example)
    )
    result = jax.tree.structure(out)
    floats = [jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in leaves]

    def walk(leaves, taps, example) -> tuple[list, Recorder]:
        recorder = Recorder(taps)
        args = [
            Alias(x, i, lambda leaf: leaf, True) if is_float else x
            for i, (x, is_float) in enumerate(zip(leaves, floats))
        ]
        out = _jaxpr.interpret(closed, [*args, *jax.tree.leaves(example)], recorder.rule)
        out = [recorder.whole(x, None, "elementwise") for x in out]
        used = {site.leaf for site in recorder.sites}
        for x in args:
            if isinstance(x, Alias) and x.leaf not in used:
                recorder.whole(x, None, "unused")
        return out, recorder

    def run(leaves, taps, example):
        out, recorder = walk(leaves, taps, example)
        return jax.tree.unflatten(result, out), recorder.inputs

    def find_sites(leaves, example):
        nonlocal sites
        out, recorder = walk(leaves, None, example)
        sites = recorder.sites
        return out

    sites = []
    jax.eval_shape(find_sites, leaves, example)
    return Traced(sites, run)
