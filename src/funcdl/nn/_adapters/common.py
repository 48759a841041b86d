"""The common part of the adapters: the pair ``Model(init, apply)`` around a framework's module."""

import functools
import inspect
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

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
_VARIADIC = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


class Form(NamedTuple):
    """The conversion between a framework's tree and nested dicts.

    Attributes:
        treedef: The structure of the framework's tree, a ``PyTreeDef``.
        names: The path of each leaf in the dicts.
    """

    treedef: Any
    names: tuple[tuple[str, ...], ...]

    def dicts(self, tree: PyTree) -> dict:
        """Convert a tree to nested dicts."""
        return nested(zip(self.names, jax.tree.leaves(tree)))

    def tree(self, dicts: dict) -> PyTree:
        """Convert nested dicts to the tree."""
        leaves = [functools.reduce(operator.getitem, name, dicts) for name in self.names]
        return jax.tree.unflatten(self.treedef, leaves)


def nested(items: Iterable[tuple]) -> dict:
    """Build nested dicts from pairs ``(path, leaf)``."""
    root = {}
    for (*branches, last), leaf in items:
        functools.reduce(lambda branch, name: branch.setdefault(name, {}), branches, root)[last] = (
            leaf
        )
    return root


def parts(path: Iterable[Any]) -> tuple[str, ...]:
    """Convert the keys of a JAX key path, including integers, to strings that sort and save."""
    return tuple(_tree.path_text((key,)) for key in path)


def adapted(
    init: Callable[..., Variables], run: Callable[..., tuple], like: Variables | None = None
) -> Model:
    """Build the pair, with errors that name the path of variables that do not fit.

    Args:
        init: ``init(key, x) -> Variables``.
        run: ``run(params, state, x, key, training) -> (y, state)``; without training, ``key`` is
            ``None``, except to find out whether a key is all that an evaluation lacks.
        like: The shapes of the variables, if they do not depend on ``x``.

    Returns:
        The pair.
    """

    def apply(params: PyTree, state: PyTree, x: PyTree, key=None):
        if key is not None:
            check_key(key)
        if like is not None:
            _check_variables(params, state, like, "the module's")
        try:
            y, new = run(params, state, x, key, key is not None)
        except Exception as error:
            explain(error, params, state, x, key)
            raise
        if key is None:
            return y, state
        _tree.check_like(new, state, "the state that the module returned", "the given state")
        return y, new

    def explain(error: Exception, params, state, x, key) -> None:
        """Raise a clearer error if a variable does not fit, or a key is needed."""
        fresh = _shapes(init, jax.random.key(0), x)
        if fresh is not None:
            _check_variables(params, state, fresh, "the variables that init makes for x")
        evaluation = functools.partial(run, training=False)
        if key is None and _shapes(evaluation, params, state, x, jax.random.key(0)) is not None:
            raise ValueError(
                "key is None, which means evaluation, but the module only works with a key, since "
                f"it draws random numbers in evaluation too: {error}"
            ) from error

    return Model(init, apply)


def _check_variables(params: PyTree, state: PyTree, like: Variables, expected: str) -> None:
    _tree.check_like(params, like.params, "params", expected)
    _tree.check_like(state, like.state, "state", expected)


def _shapes(f: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """Return the shapes of the results of a function, or ``None`` if it raises."""
    try:
        return jax.eval_shape(f, *args)
    except Exception:
        return None


def drawn(draw: Callable[..., tuple]) -> Callable[..., Variables]:
    """Turn a function that draws parameters and state into an ``init(key, x)``.

    Args:
        draw: ``draw(key, x) -> (params, state)``; the leaves of ``x`` are
            ``jax.ShapeDtypeStruct``.

    Returns:
        The function ``init``, which compiles once for each form of ``x``.
    """

    @functools.cache
    def compiled(treedef, forms) -> Callable:
        x = jax.tree.unflatten(treedef, forms)
        return once(lambda key: _tree.strong(draw(key, x)))

    def init(key, x: PyTree) -> Variables:
        check_key(key)
        forms, treedef = jax.tree.flatten(jax.eval_shape(lambda x: x, x))
        variables = Variables(*compiled(treedef, tuple(forms))(key))
        _tree.check_floating(variables.params, "params")
        return variables

    return init


def owned(variables: Variables) -> Callable[..., Variables]:
    """Return an ``init(key, x)`` that returns copies of these variables for every key."""
    _tree.check_floating(variables.params, "params")

    def init(key, x: PyTree) -> Variables:
        del x
        check_key(key)
        return jax.tree.map(jnp.copy, variables)

    return init


def build(constructor: Callable[..., Any], name: str, value: Any) -> Any:
    """Call a constructor with its one argument, by name if possible, as in ``Net(key=key)``."""
    f = constructor.__init__ if isinstance(constructor, type) else constructor
    parameters = list(inspect.signature(f).parameters.values())[isinstance(constructor, type) :]
    is_named = any(
        p.kind is p.VAR_KEYWORD or (p.name == name and p.kind is not p.POSITIONAL_ONLY)
        for p in parameters
    )
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in _VARIADIC]
    others = [other for other in needed if other != name] if is_named else needed[1:]
    if others:
        net = getattr(constructor, "__name__", "Net")
        raise TypeError(
            f"{net} needs {others} in addition to {name}; expected constructor({name}), such as "
            f"lambda {name}: {net}(..., {name}={name})"
        )
    return constructor(**{name: value}) if is_named else constructor(value)


def arguments(
    f: Callable,
    name: str,
    *,
    given: int = 1,
    known: Collection[str] = TRAINING,
    switches: Mapping[str, bool | None] | None = None,
) -> dict[str, bool | None]:
    """Return the known arguments that a function takes in addition to its inputs.

    Args:
        f: The function that each ``apply`` calls.
        name: The name of the function in the message.
        given: The number of leading arguments that are always passed.
        known: The names of further arguments that can be passed.
        switches: The values of more arguments in training, as the user gave them.

    Returns:
        The arguments that the function takes and their values in training; ``None`` for those that
        are not switches.

    Raises:
        TypeError: If the function requires other arguments, or has a boolean argument of which
            nobody knows whether it distinguishes training from evaluation.
        ValueError: If the function does not have an argument in ``switches``.
    """
    others = list(inspect.signature(f).parameters.values())[given:]
    values = checked_switches(switches, [p.name for p in others], name)
    needed = [
        p.name
        for p in others
        if p.name not in {*known, *values} and p.default is p.empty and p.kind not in _VARIADIC
    ]
    if needed:
        raise TypeError(
            f"{name} needs {needed} in addition to its input; expected one input (which may be a "
            f"pytree) and any of {list(known)}; an argument that is True in training is passed by "
            f"switches={{{needed[0]!r}: True}}"
        )
    unknown = [p.name for p in others if p.name not in {*known, *values} and _is_flag(p)]
    if unknown:
        raise TypeError(
            f"{name} has the boolean argument {unknown[0]!r}, which may switch between training "
            f"and evaluation; pass switches={{{unknown[0]!r}: True}} if it is True in training, "
            f"False if it is False there, or None to leave it at its default"
        )
    own = {p.name: TRAINING.get(p.name) for p in others if p.name in known}
    return own | {k: v for k, v in values.items() if v is not None}


def checked_switches(
    switches: Mapping[str, bool | None] | None, names: Collection[str], owner: str
) -> dict[str, bool | None]:
    """Check that switches have values True, False or None, and that their owner has them."""
    if switches is not None and not isinstance(switches, Mapping):
        raise TypeError(
            f"switches is a {type(switches).__name__}; expected a dict from names of arguments to "
            "their values in training, such as {'is_train': True}"
        )
    for name, value in (switches or {}).items():
        if value is not None and not isinstance(value, bool):
            raise TypeError(
                f"switches has {value!r} for {name!r}; expected its value in training, True or "
                "False, or None to leave it at its default"
            )
        if name not in names:
            raise ValueError(f"switches has {name!r}, but {owner} has only {list(names)}")
    return dict(switches or {})


def _is_flag(parameter: inspect.Parameter) -> bool:
    """Tell whether an optional argument is a boolean."""
    is_boolean = re.search(r"\bbool\b", str(parameter.annotation)) is not None
    return isinstance(parameter.default, bool) or (parameter.default is None and is_boolean)


def switched(values: Mapping[str, bool | None], training: bool) -> dict[str, Any]:
    """Return the values of the arguments that distinguish training from evaluation."""
    return {name: value == training for name, value in values.items() if value is not None}
