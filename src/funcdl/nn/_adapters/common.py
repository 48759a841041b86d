"""What the adapters share: the pair ``Model(init, apply)`` around what a framework computes."""

import functools
import inspect
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcdl import _tree
from funcdl._check import check_key
from funcdl._closure import once
from funcdl._typing import PyTree
from funcdl.nn._model import Model, Variables

TRAINING = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


class Form(NamedTuple):
    """A framework's tree as nested dicts, and the way back.

    Attributes:
        treedef: Its structure.
        names: The path of each leaf in the dicts.
    """

    treedef: jax.tree_util.PyTreeDef
    names: tuple[tuple[str, ...], ...]

    def dicts(self, tree: PyTree) -> dict:
        """Write the leaves of a tree into nested dicts."""
        return nested(zip(self.names, jax.tree.leaves(tree)))

    def tree(self, dicts: dict) -> PyTree:
        """Read the tree from nested dicts."""
        leaves = [functools.reduce(operator.getitem, name, dicts) for name in self.names]
        return jax.tree.unflatten(self.treedef, leaves)


def nested(items) -> dict:
    """Make nested dicts of pairs ``(path, leaf)``."""
    root = {}
    for (*branches, last), leaf in items:
        functools.reduce(lambda branch, name: branch.setdefault(name, {}), branches, root)[last] = (
            leaf
        )
    return root


def parts(path) -> tuple[str, ...]:
    """Write the keys of one path of jax as strings, integers too: they sort and can be saved."""
    return tuple(_tree.path_text((key,)) for key in path)


def adapted(init: Callable, run: Callable, like: Variables | None = None) -> Model:
    """Put a pair together that refuses, with the path, what does not fit.

    Args:
        init: ``init(key, x) -> Variables``.
        run: ``run(params, state, x, key) -> (y, state)``; ``key`` is None in evaluation.
        like: Shapes of the variables, where they do not depend on ``x``.

    Returns:
        The pair.
    """

    def apply(params: PyTree, state: PyTree, x: PyTree, key=None):
        if key is not None:
            check_key(key)
        if like is not None:
            _check_variables(params, state, like, "the module's")
        try:
            y, new = run(params, state, x, key)
        except Exception as error:
            explain(error, params, state, x, key)
            raise
        if key is None:
            return y, state
        _tree.check_like(new, state, "the state that the module returned", "the one it got")
        return y, new

    def explain(error: Exception, params, state, x, key) -> None:
        """Raise what the framework did not say: which variable is wrong, or that a key is due."""
        made = _succeeds(init, jax.random.key(0), x)
        if made is not None:
            _check_variables(params, state, made, "what the module makes for x")
        if key is None and _succeeds(run, params, state, x, jax.random.key(0)) is not None:
            raise ValueError(
                "key is None, which means evaluation, but the module works with a key only: "
                f"{error}"
            ) from error

    return Model(init, apply)


def _check_variables(params, state, like: Variables, what: str) -> None:
    _tree.check_like(params, like.params, "params", what)
    _tree.check_like(state, like.state, "state", what)


def _succeeds(f: Callable, *args) -> PyTree:
    """Return the shapes that a function gives, or None where it raises."""
    try:
        return jax.eval_shape(f, *args)
    except Exception:
        return None


def drawn(draw: Callable) -> Callable:
    """Make ``init(key, x)`` of a function that draws parameters and state.

    Args:
        draw: ``draw(key, x) -> (params, state)``; ``x`` holds ``jax.ShapeDtypeStruct``.

    Returns:
        ``init``, which compiles once for each form of ``x``.
    """

    @functools.cache
    def compiled(treedef, forms) -> Callable:
        x = jax.tree.unflatten(treedef, forms)
        return once(lambda key: jax.tree.map(_strong, draw(key, x)))

    def init(key, x: PyTree) -> Variables:
        check_key(key)
        forms, treedef = jax.tree.flatten(jax.eval_shape(lambda x: x, x))
        variables = Variables(*compiled(treedef, tuple(forms))(key))
        _tree.check_floating(variables.params, "params")
        return variables

    return init


def _strong(x):
    """Drop a weak type: a step would drop it too, and its second call would compile again."""
    x = jnp.asarray(x)
    return x.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.number) else x


def owned(variables: Variables) -> Callable:
    """Make an ``init(key, x)`` that returns copies of these numbers, whatever the key."""
    _tree.check_floating(variables.params, "params")

    def init(key, x: PyTree) -> Variables:
        del x
        check_key(key)
        return jax.tree.map(jnp.copy, variables)

    return init


def build(constructor: Callable, name: str, value):
    """Call a constructor with its one argument, by name where it can, as ``Net(key=key)``."""
    f = constructor.__init__ if isinstance(constructor, type) else constructor
    found = list(inspect.signature(f).parameters.values())[isinstance(constructor, type) :]
    named = any(
        p.kind is p.VAR_KEYWORD or (p.name == name and p.kind is not p.POSITIONAL_ONLY)
        for p in found
    )
    several = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    needed = [p.name for p in found if p.default is p.empty and p.kind not in several]
    others = [other for other in needed if other != name] if named else needed[1:]
    if others:
        made = getattr(constructor, "__name__", "Net")
        raise TypeError(
            f"{made} needs {others} besides {name}; expected constructor({name}), as "
            f"lambda {name}: {made}(..., {name}={name})"
        )
    return constructor(**{name: value}) if named else constructor(value)


def arguments(f: Callable, name: str, *, given: int = 1, known=TRAINING) -> list[str]:
    """Return which known arguments a function takes besides its inputs.

    Args:
        f: What is called in each ``apply``.
        name: How the message calls it.
        given: How many leading arguments it gets in any case.
        known: Names of the others that it can get.

    Returns:
        Those of ``known`` that it takes.

    Raises:
        TypeError: If it needs others.
    """
    others = list(inspect.signature(f).parameters.values())[given:]
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    needed = [
        p.name
        for p in others
        if p.name not in known and p.default is p.empty and p.kind not in kinds
    ]
    if needed:
        raise TypeError(
            f"{name} needs {needed} besides its input; expected one input (a pytree holds "
            f"several), and of {list(known)} what it likes"
        )
    return [p.name for p in others if p.name in known]


def switched(names: list[str], training: bool) -> dict[str, bool]:
    """Return the arguments that say whether this is training."""
    return {name: TRAINING[name] == training for name in names if name in TRAINING}
