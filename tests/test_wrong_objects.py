"""A wrong object for any public argument is accepted or refused by name, never by an accident."""

import functools
import traceback
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

import funcdl
from valid_calls import ROOMS, SPD, Call, valid_calls

SRC = str(Path(funcdl.__file__).parent)
# what funcdl raises on purpose for a wrong argument; ImportError is a missing extra
PERMITTED = (TypeError, ValueError, ImportError, OSError, NotImplementedError)
PERMITTED += (funcdl.train.NonFiniteError, funcdl.train.CheckpointError)


class Bare:
    """A class of the user that nobody knows."""


OBJECTS = {
    "None": lambda: None,
    "a string": lambda: "loss",
    "bytes": lambda: b"loss",
    "0": lambda: 0,
    "-1": lambda: -1,
    "3": lambda: 3,
    "True": lambda: True,
    "2.5": lambda: 2.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "1j": lambda: 1j,
    "empty array": lambda: jnp.zeros((0,)),
    "empty matrix": lambda: jnp.zeros((0, 3)),
    "scalar array": lambda: jnp.float32(1),
    "vector": lambda: jnp.ones(5),
    "numpy vector": lambda: np.ones(4),
    "matrix": lambda: jnp.ones((2, 5)),
    "four axes": lambda: np.ones((1, 2, 1, 2), np.float32),
    "int array": lambda: jnp.arange(3),
    "bool array": lambda: np.asarray([True, False, True]),
    "complex array": lambda: jnp.ones(3, jnp.complex64),
    "array of objects": lambda: np.asarray([None, "a"], dtype=object),
    "array of strings": lambda: np.asarray(["a", "b"]),
    "nan array": lambda: jnp.full(3, jnp.nan),
    "empty list": list,
    "list": lambda: [1.0, 2.0, 3.0],
    "ragged list": lambda: [[1.0], [2.0, 3.0]],
    "empty tuple": tuple,
    "tuple of a string": lambda: (jnp.ones(3), "a"),
    "empty dict": dict,
    "dict with a string": lambda: {"kernel": jnp.ones((2, 3)), "bias": "zeros"},
    "dict of None": lambda: {"kernel": None},
    "dict of floats": lambda: {"kernel": 1.0, "bias": 2.0},
    "nested tree": lambda: {"a": [jnp.ones(2), {"b": Bare()}]},
    "set": lambda: {1, 2},
    "generator": lambda: (i for i in range(3)),
    "class": lambda: Bare,
    "instance": Bare,
    "module": lambda: np,
    "method": lambda: "a".join,
    "no arguments": lambda: lambda: None,
    "returns None": lambda: lambda *args, **kwargs: None,
    "returns a tuple": lambda: lambda *args, **kwargs: (jnp.ones(3), jnp.ones(2)),
    "returns a string": lambda: lambda *args, **kwargs: "loss",
    "returns a tree with a string": lambda: lambda *args, **kwargs: {"a": jnp.ones(3), "b": "c"},
    "returns a float": lambda: lambda *args, **kwargs: 1.0,
    "returns its arguments": lambda: lambda *args, **kwargs: args,
    "raw key": lambda: jax.random.key_data(jax.random.key(0)),
    "several keys": lambda: jax.random.split(jax.random.key(0), 3),
    "key": lambda: jax.random.key(0),
    "operator": lambda: SPD,
    "optimizer": lambda: optax.sgd(0.1),
    "optimizer without parentheses": lambda: optax.sgd,
    "program": lambda: valid_calls("train")["fit"].arguments["program"],
    "run": lambda: valid_calls("train")["fit"].arguments["run"],
    "model": lambda: valid_calls("train")["predict"].arguments["model"],
    "objective": lambda: valid_calls("train")["evaluate"].arguments["objective"],
    "batches": lambda: valid_calls("train")["fit"].arguments["data"],
    "shape": lambda: jax.ShapeDtypeStruct((3,), jnp.float32),
    "path": lambda: Path("nowhere"),
}


@functools.cache
def places() -> list[tuple[str, str, str]]:
    """Every argument of every public function: room, function, argument."""
    return [
        (room, name, argument)
        for room in ROOMS
        for name, call in valid_calls(room).items()
        for argument in (*call.arguments, *(f"then {x}" for x, _ in call.then))
    ]


pytestmark = pytest.mark.usefixtures("free_memory_after_test")


def perform(room: str, name: str, call: Call) -> Any:
    function = functools.reduce(getattr, name.split("."), getattr(funcdl, room))
    arguments = dict(call.arguments)
    result = function(*arguments.pop("*", ()), **arguments)
    return result(*(value for _, value in call.then)) if call.then else result


def replaced(call: Call, argument: str, value: Any) -> Call:
    if argument.startswith("then "):
        name = argument.removeprefix("then ")
        return call._replace(then=tuple((k, value if k == name else v) for k, v in call.then))
    value = (value,) if argument == "*" else value
    return call._replace(arguments={**call.arguments, argument: value})


def is_of_the_user(error: BaseException) -> bool:
    """Whether a function of the caller raised it, by itself or inside jax."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    own = [file for file in files if file.startswith((SRC, str(Path(__file__).parent)))]
    return len(own) > 0 and not own[-1].startswith(SRC)


def accident(room: str, name: str, argument: str, kind: str) -> str:
    """What went wrong with one wrong object; an empty text if it was accepted or refused."""
    call = replaced(valid_calls(room)[name], argument, OBJECTS[kind]())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            jax.block_until_ready(perform(room, name, call))
    except PERMITTED as error:
        return "" if str(error) else f"{type(error).__name__} without a message"
    except Exception as error:  # each is a finding
        if is_of_the_user(error):
            return ""
        frames = [x for x in traceback.extract_tb(error.__traceback__) if SRC in x.filename]
        place = f"{frames[-1].filename.removeprefix(SRC)}:{frames[-1].lineno}" if frames else "?"
        return f"{type(error).__name__}: {str(error)[:90]!r} at {place}"
    return ""


@pytest.fixture
def aside(tmp_path, monkeypatch):
    """A working directory of its own, and no types checked, as where funcdl is used."""
    monkeypatch.chdir(tmp_path)
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def cases(seed: int, count: int) -> list[tuple[str, str, str, str]]:
    """A sample without repetitions of all pairs of an argument and a wrong object."""
    kinds = list(OBJECTS)
    chosen = np.random.default_rng(seed).permutation(len(places()) * len(kinds))[:count]
    return [(*places()[i // len(kinds)], kinds[i % len(kinds)]) for i in chosen]


def accidents(seed: int, count: int) -> dict[tuple[str, str, str, str], str]:
    found = {case: accident(*case) for case in cases(seed, count)}
    return {case: text for case, text in found.items() if text}


@pytest.mark.parametrize("room", ROOMS)
def test_the_calls_are_valid(room, aside):
    for name, call in valid_calls(room).items():
        jax.block_until_ready(perform(room, name, call))


def test_an_accident_is_recognized(aside, monkeypatch):
    """Of a wrong object without the check that rejects it, but not of the caller's own function."""
    assert accident("stats", "bernoulli.entropy", "params", "a string") == ""
    monkeypatch.setattr(funcdl.stats.bernoulli, "record", lambda *_: None)
    assert "AttributeError" in accident("stats", "bernoulli.entropy", "params", "a string")
    assert accident("curvature", "hessian", "params", "vector") == ""  # KeyError in the loss


def test_two_hundred_wrong_objects_are_accepted_or_refused(aside):
    assert accidents(0, 200) == {}


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(5))
def test_five_thousand_wrong_objects_are_accepted_or_refused(shard, aside):
    assert accidents(shard + 1, 1000) == {}


def test_a_loss_whose_outputs_hold_a_string_is_refused_by_path(aside):
    """The head, the model, and a loss alone; at the top, in a dict and in a tuple."""
    call = valid_calls("curvature")["ggn"].arguments
    head, model, batch = call["loss"], call["f"], call["data"]
    for wrong in (
        lambda params, batch: {"a": model(params, batch), "b": "c"},
        lambda params, batch: (model(params, batch), "c"),
        lambda params, batch: "c",
    ):
        with pytest.raises(TypeError, match="returned 'c'"):
            funcdl.curvature.ggn(wrong, head, call["params"], batch)
        with pytest.raises(TypeError, match="returned 'c'"):
            funcdl.curvature.hessian(wrong, call["params"], batch)
        with pytest.raises(TypeError, match="returned 'c'"):
            funcdl.curvature.ggn(
                model, lambda z, batch, w=wrong: w(call["params"], batch), call["params"], batch
            )
