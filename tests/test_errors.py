"""Bad inputs are refused: the right class, what was given, what was expected, nothing touched.

A row of ``ROWS`` is a call with its arguments, the exception, and every word its message must hold.
Types are not checked here, as they are not where funcdl is used: its own messages are tested.
"""

import gzip
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import grain
import haiku as hk
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pyarrow
import pytest
from flax import linen, nnx
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from jax.tree_util import Partial
from matplotlib.figure import Figure
from PIL import Image
from pyarrow import parquet

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
    viz,
)
from funcdl.data import DataError
from funcdl.density import NotInjectiveError
from funcdl.operators import EigenPairs, NotConvergedError
from funcdl.per_example import ExamplesInteractError
from funcdl.train import CheckpointError, NonFiniteError

F, V, T = FileNotFoundError, ValueError, TypeError


class Row(NamedTuple):
    """One bad input; an argument of type ``Path`` lies in the folder of prepared files."""

    name: str
    call: Callable
    args: tuple
    error: type[Exception]
    words: str  # with bars between them


def idx_bytes(array, code=8, header=None) -> bytes:
    shape = array.shape if header is None else header
    return (
        bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()
    )


IMAGES, LABELS = np.zeros((3, 28, 28), np.uint8), np.arange(3, dtype=np.uint8)
FILES = {
    "empty.idx": b"",
    "empty.npy": b"",
    "cut.gz": gzip.compress(idx_bytes(IMAGES))[:-9],
    "plain.gz": idx_bytes(LABELS),
    "magic.idx": b"\x08\x01\x02\x03" + bytes(8),
    "short.idx": idx_bytes(LABELS, header=(4,)),
    "damaged.npy": b"\x93NUMPY\x01",
    "mnist/train-images-idx3-ubyte": idx_bytes(IMAGES),
    "mnist/train-labels-idx1-ubyte": idx_bytes(LABELS[:2]),
    "half/train-images-idx3-ubyte": idx_bytes(IMAGES),
    "empty.csv": b"",
    "blank.csv": b"\n \n,,\n",
    "header.csv": b"a,b\n",
    "ragged.csv": b"a,b\n1,2\n\n3\n",
    "missing.csv": b"a,b\n1,2\n3, \n",
    "text.csv": b"age,sex\n1,male\n",
    "nan.csv": b"1,2\n3,nan\n",
    "thousands.csv": b"a\n1\n1_000\n",
    "twice.csv": b"a,b,a\n1,2,3\n",
    "index.csv": b",a,b\n0,1,2\n",
    "latin.csv": "h\u00f6he\n1\n".encode("latin-1"),
    "quote.csv": b'a,b\n1,"2\n',
    "empty.parquet": b"",
    "damaged.parquet": b"PAR1" + bytes(20),
    "positions/2.json": b"{",
    "classes/cat/broken.png": b"\x89PNG\r\n\x1a\n" + bytes(30),
    "deeper/cat/more/a.png": b"",
}


def prepare(folder: Path) -> Path:
    """Write the files that the rows read."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    np.save(folder / "objects.npy", np.asarray([{}, 1], object), allow_pickle=True)
    np.savez(folder / "two.npz", images=np.zeros(2), labels=np.zeros(2))
    prepare_tables(folder)
    prepare_images(folder)
    (folder / "nothing").mkdir()
    (folder / "unfinished" / "5.unfinished-1").mkdir(parents=True)
    train.save(folder / "run", RUN)
    train.save(folder / "flipped", RUN)
    blobs = (path for path in (folder / "flipped").rglob("*") if path.parent.name == "d")
    blob = max(blobs, key=lambda path: path.stat().st_size)
    blob.write_bytes(b"!" + blob.read_bytes()[1:])
    nn.save_safetensors(folder / "net.safetensors", {"a": {"kernel": X}})
    (folder / "net.export").write_bytes(bytes(90))
    return folder


def prepare_tables(folder: Path) -> None:
    """Write Parquet files, each with one fault."""
    tables = {
        "null": {"a": [1.0, 2.0, None, 4.0], "b": [1, 2, 3, 4]},
        "nan": {"a": [1.0, 2.0, 3.0, np.inf], "b": [1, 2, 3, 4]},
        "text": {"a": [1.0], "name": ["x"]},
        "rows": {"a": np.zeros(0)},
        "sound": {"a": [1.0], "b": [2.0]},
    }
    for name, columns in tables.items():
        parquet.write_table(pyarrow.table(columns), folder / f"{name}.parquet", row_group_size=2)
    twice = pyarrow.Table.from_arrays([pyarrow.array([1.0])] * 2, names=["a", "a"])
    parquet.write_table(twice, folder / "same.parquet")
    (folder / "parts").mkdir()
    parquet.write_table(pyarrow.table({"a": [1.0]}), folder / "parts" / "0.parquet")
    parquet.write_table(pyarrow.table({"b": [1.0]}), folder / "parts" / "1.parquet")


def prepare_images(folder: Path) -> None:
    """Write folders of images, each with one fault."""
    faults = {
        "sizes": [("L", (2, 2)), ("L", (3, 2))],
        "modes": [("L", (2, 2)), ("RGB", (2, 2))],
        "palette": [("P", (2, 2))],
        "deep": [("I;16", (2, 2))],
        "cut": [("RGB", (64, 64))],
    }
    for name, images in faults.items():
        (folder / name / "cat").mkdir(parents=True)
        for i, (mode, size) in enumerate(images):
            Image.new(mode, size).save(folder / name / "cat" / f"{i}.png")
    whole = folder / "cut" / "cat" / "0.png"
    whole.write_bytes(whole.read_bytes()[:-40])
    (folder / "hollow" / "cat").mkdir(parents=True)
    (folder / "hollow" / "dog").mkdir()
    Image.new("L", (2, 2)).save(folder / "hollow" / "cat" / "0.png")


class Noisy(linen.Module):
    """Draws while training, wherever it is used."""

    @linen.compact
    def __call__(self, x):
        return linen.Dropout(0.5, deterministic=False)(x)


class Unruly(linen.Module):
    """Its state is one number after init, and two after a step."""

    @linen.compact
    def __call__(self, x, train: bool):
        mean = self.variable("stats", "mean", jnp.zeros, 1)
        if train:
            mean.value = jnp.zeros(2)
        return linen.Dense(1)(x)


class Counting(linen.Module):
    """A parameter that is no float."""

    @linen.compact
    def __call__(self, x):
        return x + self.param("count", lambda key: jnp.int32(1))


class ManyInputs(nnx.Module):
    def __init__(self, rngs):
        self.w = nnx.Param(rngs.normal((3,)))

    def __call__(self, x, mask):
        return x * mask


class Table(nnx.Module):
    """An array that is no variable."""

    def __init__(self, rngs):
        self.w, self.table = nnx.Param(rngs.normal((3,))), jnp.arange(3)

    def __call__(self, x):
        return x


class Draws(nnx.Module):
    """Draws in evaluation too."""

    def __init__(self, rngs):
        self.rngs, self.w = rngs, nnx.Param(jnp.ones(3))

    def __call__(self, x):
        return x + self.w.sum() * self.rngs.normal(x.shape)


class Moves(nnx.Module):
    """Sets in a call what ``name`` says, of another shape."""

    def __init__(self, rngs, name):
        del rngs
        self.w, self.mean, self.name = nnx.Param(jnp.ones(3)), nnx.BatchStat(jnp.ones(3)), name

    def __call__(self, x):
        getattr(self, self.name).set_value(jnp.ones(2))
        return x


class Greedy(eqx.Module):
    w: jax.Array

    def __call__(self, x, mask):
        return x * mask


class Random(eqx.Module):
    """Draws in evaluation too."""

    w: jax.Array

    def __call__(self, x, *, key):
        return self.w * jax.random.normal(key, x.shape)


class Norms(eqx.Module):
    """Two layers that name the axis of the batch differently."""

    first: eqx.nn.BatchNorm
    second: eqx.nn.BatchNorm

    def __init__(self, key):
        del key
        self.first = eqx.nn.BatchNorm(3, "batch", mode="batch")
        self.second = eqx.nn.BatchNorm(3, "examples", mode="batch")

    def __call__(self, x, state):
        return x, state


class Last(eqx.Module):
    """Its state is the last example."""

    w: jax.Array
    last: eqx.nn.StateIndex

    def __init__(self, key):
        del key
        self.w, self.last = jnp.ones(3), eqx.nn.StateIndex(jnp.zeros(3))

    def __call__(self, x, state):
        return x * self.w, state.set(self.last, x)


def haiku_noise(x):
    return hk.Linear(3)(x) + jax.random.normal(hk.next_rng_key(), x.shape)


def trained(model, x):
    return model.apply(*model.init(KEY, x), x, KEY)


KEY, LEGACY = jax.random.key(0), jax.random.PRNGKey(0)
X, Y, VECTOR = jnp.ones((4, 3)), jnp.asarray([0, 1, 2, 1]), jnp.ones(3)
BAD_X = np.ones((4, 3), np.float32)
BAD_X[1, 2], BAD_X[3, 0] = np.nan, np.nan
NAN_X = BAD_X
INF_X = np.where(np.isnan(BAD_X), np.float32(np.inf), BAD_X)
LOGITS = jnp.zeros((4, 3))

DENSE = nn.from_linen(linen.Dense(3))
PARAMS, STATE = DENSE.init(KEY, X)
NORM = nn.from_linen(linen.BatchNorm())
NORM_PARAMS, _ = NORM.init(KEY, X)
UNRULY = nn.from_linen(Unruly())
NNX = nn.from_nnx(lambda rngs: nnx.BatchNorm(3, rngs=rngs))
EQUINOX = nn.from_equinox(lambda key: eqx.nn.Linear(3, 3, key=key))
HAIKU = nn.from_haiku(lambda x: hk.Linear(3)(x))
LINEAR = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
NUMBERS = hk.transform(lambda x: hk.Linear(3)(x))
OBJECTIVE = train.supervised(DENSE, losses.softmax_cross_entropy)
PROGRAM = train.program(OBJECTIVE, optax.sgd(0.1))
BATCHES = data.Batches((X, Y), 2)
RUN = PROGRAM.init(KEY, (X, Y))
OTHER_RUN = train.program(
    train.supervised(nn.from_linen(linen.Dense(5)), losses.softmax_cross_entropy), optax.sgd(0.1)
).init(KEY, (X, Y))
STEPPED = RUN._replace(step=jnp.int32(7))

INTEGERS = train.program(train.objective(lambda key, batch: {"n": Y}, len), optax.sgd(0.1))
MATRIX = jnp.ones((3, 2))
SYMMETRIC = operators.from_dense(jnp.eye(3), symmetric=True)
POSITIVE = operators.from_dense(jnp.eye(3), psd=True)
PLAIN = operators.from_dense(jnp.eye(3))
WIDE = operators.from_dense(jnp.ones((2, 3)))
FUNCTION = operators.from_function(lambda v: 2 * v, VECTOR)
TREE = {"a": {"kernel": jnp.ones(2)}, "b": jnp.ones(3)}


def tree_loss(tree, *_):
    return sum((leaf**3).sum() for leaf in jax.tree.leaves(tree))


def step(objective_loss):
    """One step of a loss that is given as it is."""
    task = train.Objective(lambda key, batch: nn.Variables(jnp.ones(3), {}), objective_loss)
    program = train.program(task, optax.sgd(0.1))
    return program.step(program.init(KEY, X), X)


def diverge(x):
    """Fit a loss that is finite for three steps."""

    def loss(params, batch):
        return jnp.log(params) + 0 * batch.sum()

    task = train.objective(lambda key, batch: jnp.asarray(0.45), loss)
    program = train.program(task, optax.sgd(0.1))
    return train.fit(program, program.init(KEY, x), data.Batches(x, 2), steps=9)


def fit(run=RUN, data=BATCHES, program=PROGRAM, **settings):
    return train.fit(program, run, data, **settings)


def seeking(path, step):
    """A stream of grain that goes on from a position it noted."""
    stream = data.from_grain(grain.MapDataset.range(9).to_iter_dataset(), positions=path)
    stream.seek(step)
    return stream


def replay(folder, step, data=BATCHES):
    return train.replay(folder, PROGRAM, data, like=RUN, step=step)


def failing(run, metrics):
    raise RuntimeError("no space")


def draw(f, *args):
    more = {"label": "n"} if f is viz.bars else {}
    return f(Figure().subplots(), *args, **more)


# fmt: off
DATA = [
    Row("1 idx, no file", data.idx, (Path("no.idx"),), F, "no.idx"),
    Row("1 npy, no file", data.npy, (Path("no.npy"),), F, "no.npy"),
    Row("1 mnist, no file", data.mnist, (Path("half"),), F, "train-labels-idx1-ubyte | half"),
    Row("2 idx, empty", data.idx, (Path("empty.idx"),), DataError, "empty.idx | 0 bytes"),
    Row("2 npy, empty", data.npy, (Path("empty.npy"),), DataError, "empty.npy | 0 bytes"),
    Row("3 truncated", data.idx, (Path("cut.gz"),), DataError, "cut.gz | truncated"),
    Row("3 damaged npy", data.npy, (Path("damaged.npy"),), DataError, "damaged.npy | damaged"),
    Row("4 no gzip", data.idx, (Path("plain.gz"),), DataError, "plain.gz | not gzip | 00 00 08"),
    Row("5 magic", data.idx, (Path("magic.idx"),), DataError,
        "magic.idx | 08 01 02 03 | expected 00 00"),
    Row("6 length", data.idx, (Path("short.idx"),), DataError, "11 bytes | expected 12 | (4,)"),
    Row("7 mnist", data.mnist, (Path("mnist"),), DataError, "mnist | 3 images | 2 labels"),
    Row("7 arrays", data.arrays, (X, np.arange(3)), DataError, "'0': 4 | '1': 3"),
    Row("8 label = classes", lambda x, y: data.arrays(x, y, classes=2),
        (X, np.array([0, 1, 2, 9])), DataError, "label 2 | index 2 | expected 0 to 1"),
    Row("9 label -1", data.arrays, (X, np.array([0, -1, 2, -1])), DataError,
        "label -1 | index 1 | 0 to 2"),
    Row("10 float labels", data.arrays, (X, np.ones(4)), T, "labels | float64 | expected integer"),
    Row("11 NaN", data.Batches, ({"x": NAN_X}, 2), DataError, "'x' | 2 values | nan | (1, 2)"),
    Row("11 NaN on the device", data.Batches, (jnp.asarray(NAN_X), 2), DataError,
        "2 values | (1, 2)"),
    Row("12 inf", data.arrays, (INF_X, np.zeros(4, int)), DataError,
        "'0' | 2 values | inf | (1, 2)"),
    Row("13 no example", data.Batches, (X[:0], 1), DataError, "empty | (0, 3)"),
    Row("13 no array", data.Batches, ({}, 1), DataError, "empty"),
    Row("13 no example, labeled", data.arrays, (X[:0], np.zeros(0, int)), DataError, "empty"),
    Row("14 objects in a file", data.npy, (Path("objects.npy"),), T, "objects.npy | pickle"),
    Row("14 objects", data.Batches, (np.asarray([{}, 1], object), 1), T, "object | pickle"),
    Row("14 strings", data.Batches, ({"x": np.asarray(["a", "b"])}, 1), T, "'x' | <U1 | numbers"),
    Row("15 no such key", lambda path: data.npz(path, "images", "label"), (Path("two.npz"),), V,
        "two.npz | 'label' | ['images', 'labels']"),
    Row("csv, no file", data.csv, (Path("no.csv"),), F, "no.csv"),
    Row("csv, empty", data.csv, (Path("empty.csv"),), DataError, "empty.csv | 0 bytes"),
    Row("csv, blank", data.csv, (Path("blank.csv"),), DataError, "blank.csv | no line has a value"),
    Row("csv, header alone", data.csv, (Path("header.csv"),), DataError, "header.csv | no rows"),
    Row("csv, ragged", data.csv, (Path("ragged.csv"),), DataError,
        "ragged.csv: line 4 | 1 fields | expected 2 | line 1"),
    Row("csv, missing", data.csv, (Path("missing.csv"),), DataError,
        "missing.csv: line 3, column 'b' is missing"),
    Row("csv, text", data.csv, (Path("text.csv"),), DataError,
        "text.csv: line 2, column 'sex' is 'male' | number"),
    Row("csv, NaN", data.csv, (Path("nan.csv"),), DataError,
        "nan.csv: line 2, column '1' is 'nan' | not finite"),
    Row("csv, underscores", data.csv, (Path("thousands.csv"),), DataError,
        "line 3, column 'a' is '1_000' | number"),
    Row("csv, one name twice", data.csv, (Path("twice.csv"),), DataError,
        "twice.csv | 2 columns | 'a'"),
    Row("csv, an index", data.csv, (Path("index.csv"),), DataError,
        "index.csv | column 1 has no name | csv(path, 'a', 'b')"),
    Row("csv, no such column", lambda path: data.csv(path, "c"), (Path("index.csv"),), V,
        "index.csv | 'c' | ['', 'a', 'b']"),
    Row("csv, not UTF-8", data.csv, (Path("latin.csv"),), DataError, "latin.csv | UTF-8 | byte 1"),
    Row("csv, open quote", data.csv, (Path("quote.csv"),), DataError, "quote.csv | 2 is damaged"),
    Row("parquet, no file", data.parquet, (Path("no.parquet"),), F, "no.parquet"),
    Row("parquet, empty", data.parquet, (Path("empty.parquet"),), DataError,
        "empty.parquet | 0 bytes"),
    Row("parquet, damaged", data.parquet, (Path("damaged.parquet"),), DataError,
        "damaged.parquet is damaged or not a Parquet file"),
    Row("parquet, no rows", data.parquet, (Path("rows.parquet"),), DataError,
        "rows.parquet | no rows"),
    Row("parquet, no parts", data.parquet, (Path("nothing"),), DataError, "nothing | *.parquet"),
    Row("parquet, parts that differ", data.parquet, (Path("parts"),), V,
        "parts/1.parquet | no column 'a' | ['b']"),
    Row("parquet, missing", data.parquet, (Path("null.parquet"),), DataError,
        "null.parquet: row 2, column 'a' is missing"),
    Row("parquet, not finite", data.parquet, (Path("nan.parquet"),), DataError,
        "nan.parquet: row 3, column 'a' is inf | not finite"),
    Row("parquet, text", data.parquet, (Path("text.parquet"),), T,
        "text.parquet | 'name' is of string | numbers | parquet(path, 'a', 'name')"),
    Row("parquet, no such column", lambda path: data.parquet(path, "c"), (Path("sound.parquet"),),
        V, "sound.parquet | 'c' | ['a', 'b']"),
    Row("parquet, one name twice", lambda path: data.parquet(path, "a"), (Path("same.parquet"),),
        DataError, "same.parquet: 2 columns have the name 'a'"),
    Row("parquet stream, size 0", lambda path: data.parquet_stream(path, size=0),
        (Path("sound.parquet"),), V, "size is 0 | at least 1"),
    Row("parquet stream, legacy key",
        lambda path, key: data.parquet_stream(path, size=1, key=key),
        (Path("sound.parquet"), LEGACY), T, "uint32 | jax.random.key"),
    Row("parquet stream, missing", lambda path: list(data.parquet_stream(path, size=2)),
        (Path("null.parquet"),), DataError, "null.parquet: row 2, column 'a' is missing"),
    Row("18 image, broken", data.image_folder, (Path("classes"),), DataError,
        "classes/cat/broken.png is not a valid image"),
    Row("18 image, cut", data.image_folder, (Path("cut"),), DataError,
        "cut/cat/0.png is not a valid image"),
    Row("19 mixed sizes", data.image_folder, (Path("sizes"),), DataError,
        "cat/1.png is 2 x 3 x 1 | cat/0.png is 2 x 2 x 1 | resize=(height, width)"),
    Row("19 mixed sizes, in a stream",
        lambda path: next(iter(data.image_stream(path, size=2))), (Path("sizes"),), DataError,
        "cat/1.png | cat/0.png"),
    Row("19 mixed modes", data.image_folder, (Path("modes"),), DataError,
        "cat/1.png is 2 x 2 x 3 | cat/0.png is 2 x 2 x 1 | mode='RGB'"),
    Row("image of a palette", data.image_folder, (Path("palette"),), DataError,
        "palette/cat/0.png has mode P | L or RGB | mode='RGB'"),
    Row("image of 16 bits", partial(data.image_folder, mode="RGB"), (Path("deep"),), DataError,
        "deep/cat/0.png has mode I;16 | expected L or RGB"),
    Row("images, no folder", data.image_folder, (Path("no"),), F, "the folder | no does not exist"),
    Row("images, no classes", data.image_folder, (Path("nothing"),), DataError,
        "nothing is empty | one folder per class"),
    Row("images, an empty class", data.image_folder, (Path("hollow"),), DataError,
        "hollow/dog is empty"),
    Row("images, a folder in a class", data.image_folder, (Path("deeper"),), DataError,
        "deeper/cat holds a folder, more"),
    Row("images, mode of another kind", partial(data.image_folder, mode="CMYK"), (Path("sizes"),),
        V, "mode is 'CMYK' | 'L', 'RGB' or None"),
    Row("images, resized to nothing", partial(data.image_folder, resize=(0, 2)), (Path("sizes"),),
        V, "resize is (0, 2) | (height, width)"),
    Row("image stream, size 1.5", lambda path: data.image_stream(path, size=1.5), (Path("sizes"),),
        T, "size is 1.5 | integer"),
    Row("grain, another kind", data.from_grain, ([1, 2],), T, "list | grain.MapDataset"),
    Row("grain, an iterator", lambda: data.from_grain(iter(grain.MapDataset.range(3))), (), T,
        "expected a grain.MapDataset | not an iterator"),
    Row("grain, every 0", lambda: data.from_grain(grain.MapDataset.range(3), every=0), (), V,
        "every is 0"),
    Row("grain, filtered", lambda: list(data.from_grain(grain.MapDataset.range(3).filter(bool))),
        (), DataError, "no element 0 | to_iter_dataset"),
    Row("grain, a damaged position", lambda path: next(iter(seeking(path, 2))),
        (Path("positions"),), DataError, "2.json is not a position of this data set | empty"),
    Row("stream of no function", data.Stream, ([1],), T, "read is a list | function"),
    Row("stream, seek -1", data.Stream(iter).seek, (-1,), V, "step is -1"),
    Row("stream, seek 1.5", data.Stream(iter).seek, (1.5,), T, "step is 1.5 | integer"),
    Row("split, nothing tested", lambda x, key: data.split(x, 0.1, key=key), (X, KEY), V,
        "fraction is 0.1 | 0 of 4"),
    Row("split, nothing trained", lambda x, key: data.split(x, 1.0, key=key), (X, KEY), V,
        "4 of 4 | both parts"),
    Row("split, NaN", lambda x, key: data.split(x, 0.5, key=key), (NAN_X, KEY), DataError,
        "2 values | (1, 2)"),
    Row("split, legacy key", lambda x, key: data.split(x, 0.5, key=key), (X, LEGACY), T,
        "uint32 | jax.random.key"),
    Row("standardize, constant", data.standardize, (X,), DataError, "column 0 | 1 in all 4 rows"),
    Row("standardize, constant by name", lambda x: data.standardize(x, names=("a", "b")),
        (np.asarray([[0.0, 2.5], [1.0, 2.5]]),), DataError, "'b' | 2.5 in all 2 rows"),
    Row("standardize, constant to rounding", data.standardize,
        (np.asarray([[0.1 + 0.2], [0.3]]),), DataError, "column 0 | constant"),
    Row("standardize, NaN", data.standardize, (NAN_X,), DataError, "2 values | (1, 2)"),
    Row("standardize, one row", data.standardize, (NAN_X[:1],), DataError, "constant"),
    Row("standardize, no row", data.standardize, (X[:0],), DataError, "empty"),
    Row("standardize, integers", data.standardize, (np.ones((2, 2), int),), T, "int64 | floats"),
    Row("standardize, a vector", data.standardize, (VECTOR,), V, "(3,) | (n, d)"),
    Row("20 size 0", data.Batches, (X, 0), V, "size is 0 | 1 <= size <= 4"),
    Row("20 size -1", data.Batches, (X, -1), V, "size is -1 | 1 <= size <= 4"),
    Row("20 size > n", data.Batches, (X, 5), V, "size is 5 | 1 <= size <= 4"),
    Row("21 size 2.5", data.Batches, (X, 2.5), T, "size is 2.5 | integer"),
    Row("scalar leaf", data.Batches, ({"x": jnp.ones(())}, 1), DataError, "'x' | scalar | axis"),
    Row("legacy key of the order", lambda x, key: data.Batches(x, 2, key=key), (X, LEGACY), T,
        "uint32 | jax.random.key"),
    Row("transform of floats", data.unit_range, ((X, Y),), T, "float32 | expected uint8"),
]

LOSSES = [
    Row("22 softmax", losses.softmax_cross_entropy, (LOGITS, Y[:, None]), V,
        "(4, 3) | (4, 1) | expected labels of shape (4,) | does not broadcast"),
    Row("22 squared", losses.squared_error, (X, X[:, :1]), V,
        "(4, 3) | (4, 1) | does not broadcast"),
    Row("22 sigmoid", losses.sigmoid_cross_entropy, (X, X[:, 0]), V,
        "(4, 3) | (4,) | does not broadcast"),
    Row("22 accuracy", losses.accuracy, (LOGITS, Y[:, None]), V, "(4, 3) | (4, 1)"),
    Row("23 one-hot", losses.softmax_cross_entropy, (LOGITS, jnp.eye(3)[Y]), T,
        "float32 | (4, 3) | argmax"),
    Row("24 axis", losses.softmax_cross_entropy, (LOGITS, Y[:3]), V,
        "(4, 3) | (3,) | expected labels of shape (4,)"),
    Row("24 no class axis", losses.softmax_cross_entropy, (jnp.zeros(()), jnp.asarray(0)), V,
        "scalar | axis of classes"),
    Row("25 label", losses.softmax_cross_entropy, (LOGITS, Y + 1), V, "label 3 | (2,) | 0 to 2"),
    Row("25 label -1", losses.accuracy, (LOGITS, Y - 1), V, "label -1 | (0,) | 0 to 2"),
    Row("26 softmax", losses.softmax_cross_entropy, (LOGITS[:0], Y[:0]), V, "empty | (0, 3)"),
    Row("26 squared", losses.squared_error, (X[:0], X[:0]), V, "empty | (0, 3)"),
    Row("27 negative", losses.masked_softmax_cross_entropy,
        (LOGITS, Y, jnp.asarray([1.0, -1, 1, 1])), V, "mask | -1.0 | >= 0"),
    Row("27 all zero", losses.masked_accuracy, (LOGITS, Y, jnp.zeros(4)), V,
        "mask | 0.0 | not all zero"),
    Row("27 shape", losses.masked_accuracy, (LOGITS, Y, jnp.ones((4, 1))), V,
        "mask | (4, 1) | expected (4,)"),
    Row("huber's delta", lambda x: losses.huber(x, x, delta=-1.0), (X,), V,
        "delta is -1.0 | positive"),
]

NN = [
    Row("28 integer", nn.from_linen(Counting()).init, (KEY, X), T,
        "params | 'count' | int32 | float"),
    Row("29 key None", nn.from_linen(Noisy()).apply, ({}, {}, X), V,
        "key is None | evaluation | dropout"),
    Row("30 init", DENSE.init, (LEGACY, X), T, "uint32 | jax.random.key"),
    Row("30 apply", DENSE.apply, (PARAMS, STATE, X, LEGACY), T, "uint32 | jax.random.key"),
    Row("30 seed", DENSE.init, (0, X), T, "key has 0 | jax.random.key"),
    Row("31 features", DENSE.apply, (PARAMS, STATE, X[:, :2]), V, "'kernel' | (3, 3) | (2, 3)"),
    Row("31 in training", DENSE.apply, (PARAMS, STATE, X[:, :2], KEY), V,
        "'kernel' | (3, 3) | (2, 3)"),
    Row("31 no such parameter", DENSE.apply, ({"bias": VECTOR}, STATE, X), V, "params | 'kernel'"),
    Row("32 state", lambda x: UNRULY.apply(*UNRULY.init(KEY, x), x, KEY), (X,), V,
        "state | 'stats/mean' | (1,) | (2,)"),
    Row("32 no state", NORM.apply, (NORM_PARAMS, {}, X), V,
        "state | 'batch_stats/mean' | (3,) | nothing"),
    Row("32 no state in training", NORM.apply, (NORM_PARAMS, {}, X, KEY), V,
        "state | 'batch_stats/mean' | (3,) | nothing"),
    Row("33 class", nn.from_linen, (linen.Dense,), T, "class Dense | instance | flax.linen.Module"),
    Row("33 no module", nn.from_linen, (3,), T, "module is 3 | flax.linen.Module"),
    Row("nnx, built", nn.from_nnx, (LINEAR,), T, "constructor is Linear | nn.split"),
    Row("nnx, a class of more arguments", nn.from_nnx, (nnx.Linear,), T,
        "Linear needs ['in_features', 'out_features'] in addition to rngs | lambda rngs: Linear("),
    Row("nnx, no module", nn.from_nnx, (lambda rngs: 3,), T, "constructor made a | nnx.Module"),
    Row("nnx, second input", nn.from_nnx, (ManyInputs,), T, "ManyInputs.__call__ | ['mask']"),
    Row("nnx, no call", nn.from_nnx, (lambda rngs: nnx.Module(),), T, "Module has no __call__"),
    Row("nnx, an array", nn.from_nnx, (Table,), T, "array | 'table' | nnx.Variable"),
    Row("nnx, integer",
        nn.from_nnx(lambda rngs: nnx.Embed(3, 2, param_dtype=int, rngs=rngs,
            embedding_init=lambda key, shape, dtype, **_: jnp.ones(shape, dtype))).init,
        (KEY, X), T, "params | 'embedding' | int32 | float"),
    Row("nnx, key None", lambda x: nn.from_nnx(Draws).apply({"w": VECTOR}, {}, x), (X,), V,
        "key is None | evaluation | only works with a key"),
    Row("nnx, legacy key", NNX.init, (LEGACY, X), T, "uint32 | jax.random.key"),
    Row("nnx, params", lambda x: NNX.apply({"scale": VECTOR}, NNX.init(KEY, x).state, x), (X,), V,
        "params | 'bias' | nothing"),
    Row("nnx, no state", lambda x: NNX.apply(NNX.init(KEY, x).params, {}, x), (X,), V,
        "state | 'mean' | (3,) | nothing"),
    Row("nnx, state of another shape",
        lambda x: trained(nn.from_nnx(lambda rngs: Moves(rngs, "mean")), x), (X,), V,
        "state | 'mean' | (3,) | (2,)"),
    Row("nnx, a parameter moves",
        lambda x: trained(nn.from_nnx(lambda rngs: Moves(rngs, "w")), x), (X,), V,
        "parameter 'w' | nnx.BatchStat"),
    Row("equinox, built", nn.from_equinox, (eqx.nn.Identity(),), T, "Identity | nn.split"),
    Row("equinox, a class of more arguments", nn.from_equinox, (eqx.nn.Linear,), T,
        "Linear needs ['in_features', 'out_features'] in addition to key | lambda key: Linear("),
    Row("equinox, no module", nn.from_equinox, (lambda key: (1, 2, 3),), T, "tuple | eqx.Module"),
    Row("equinox, second input", nn.from_equinox, (lambda key: Greedy(X),), T,
        "Greedy.__call__ | ['mask']"),
    Row("equinox, no state", nn.from_equinox, (Last,), T, "'last' | make_with_state"),
    Row("equinox, two axes", nn.from_equinox, (eqx.nn.make_with_state(Norms),), V,
        "['batch', 'examples'] | one name"),
    Row("equinox, an example's state", trained,
        (nn.from_equinox(eqx.nn.make_with_state(Last)), X), V, "different states | pmean"),
    Row("equinox, complex", nn.from_equinox(lambda key: Random(VECTOR * 1j)).init, (KEY, X), T,
        "params | 'w' | complex64"),
    Row("equinox, key None", nn.from_equinox(lambda key: Random(VECTOR)).apply,
        ({"w": VECTOR}, {}, X), V, "key is None | evaluation | only works with a key"),
    Row("equinox, params", EQUINOX.apply, ({"weight": X, "bias": VECTOR}, {}, X), V,
        "params | 'weight' | (3, 3) | (4, 3)"),
    Row("haiku, class", nn.from_haiku, (hk.Linear,), T, "class Linear | lambda x"),
    Row("haiku, transformed", nn.from_haiku, (NUMBERS,), T, "already transformed | plain function"),
    Row("haiku, second input", nn.from_haiku, (lambda x, mask: x,), T, "['mask']"),
    Row("haiku, key None", nn.from_haiku(haiku_noise).apply,
        (HAIKU.init(KEY, X).params, {}, X), V, "key is None | evaluation | only works with a key"),
    Row("haiku, features", HAIKU.apply, (*HAIKU.init(KEY, X), X[:, :2]), V,
        "params | 'linear/w' | (2, 3) | (3, 3)"),
    Row("split, no net", nn.split, (3,), T, "net is a int | flax.nnx | haiku"),
    Row("split, class", nn.split, (Norms,), T, "net is the class Norms | equinox"),
    Row("split, unbound", nn.split, (linen.Dense(3),), T, "Dense | module.bind | nn.from_linen"),
    Row("split, haiku without state", nn.split, ((hk.transform_with_state(haiku_noise), {}),), T,
        "(transformed, params, state)"),
    Row("split, equinox without state", nn.split, (eqx.nn.BatchNorm(3, "batch", mode="batch"),), T,
        "state at | make_with_state"),
    Row("merge, other numbers", nn.merge, (LINEAR, (PARAMS, {"a": X})), V, "state | 'a'"),
    Row("merge, no kernel", nn.merge, (LINEAR, ({"bias": VECTOR}, {})), V,
        "params | 'kernel' | those of the net"),
    Row("safetensors, no file", nn.load_safetensors, (Path("no.safetensors"), {}), F,
        "no.safetensors"),
    Row("safetensors, another file", nn.load_safetensors, (Path("index.csv"), {}), V,
        "index.csv is damaged"),
    Row("safetensors, a leaf more", nn.load_safetensors, (Path("net.safetensors"), {}), V,
        "'a/kernel' is in the file | not expected"),
    Row("safetensors, a leaf less", nn.load_safetensors,
        (Path("net.safetensors"), {"a": {"kernel": X, "bias": VECTOR}}), V,
        "'a/bias' is not in the file | a/kernel"),
    Row("safetensors, shape", nn.load_safetensors,
        (Path("net.safetensors"), {"a": {"kernel": X.T}}), V,
        "'a/kernel' is float32[4, 3] | expected float32[3, 4]"),
    Row("safetensors, dtype", nn.load_safetensors,
        (Path("net.safetensors"), {"a": {"kernel": X.astype(jnp.bfloat16)}}), V,
        "'a/kernel' is float32[4, 3] | expected bfloat16[4, 3]"),
    Row("safetensors, a key", nn.save_safetensors, ("net", {"key": KEY}), T, "'key' | key<fry>"),
    Row("safetensors, a number", nn.save_safetensors, ("net", {"a": 1.0}), T, "'a' | float"),
    Row("safetensors, one path twice", nn.save_safetensors, ("net", {"a/b": X, "a": {"b": X}}), V,
        "'a/b' | rename"),
    Row("safetensors, float8", nn.save_safetensors,
        ("net", {"a": jnp.zeros(2, jnp.float8_e4m3fn)}), T, "'a' | float8_e4m3fn | bfloat16"),
    Row("safetensors, int4", nn.save_safetensors, ("net", {"a": jnp.zeros(2, jnp.int4)}), T,
        "'a' | int4"),
    Row("torch, attention", nn.to_torch, (({"query": {"kernel": jnp.ones((2, 2, 3))}}, {}),), V,
        "'query/kernel' | (2, 2, 3) | no counterpart"),
    Row("torch, transposed", nn.to_torch, (({"ConvTranspose_0": {"kernel": X}}, {}),), V,
        "'ConvTranspose_0/kernel' | no counterpart"),
    Row("torch, another name", nn.to_torch, (({"a": {"w": X}}, {}),), V, "'a/w' | kernel"),
    Row("torch, no such module", lambda v: nn.to_torch(v, names={"b": "fc"}),
        (({"a": {"kernel": X}}, {}),), V, "'b' is not a module | ['a']"),
    Row("torch, another image", lambda v: nn.to_torch(v, images={"a": (2, 2, 2)}),
        (({"a": {"kernel": X}}, {}),), V, "images has (2, 2, 2) | 'a' | (4, 3)"),
    Row("torch, an array less", nn.from_torch, ({}, ({"a": {"kernel": X}}, {})), V,
        "lacks 'a.weight'"),
    Row("torch, an array more", nn.from_torch, ({"a.weight": X.T, "b": X},
        ({"a": {"kernel": X}}, {})), V, "state_dict has 'b' | ['a.weight']"),
    Row("torch, shape", nn.from_torch, ({"a.weight": X}, ({"a": {"kernel": X}}, {})), V,
        "'a.weight' is float32[4, 3] | expected float32[3, 4]"),
    Row("torch, dtype", nn.from_torch, ({"a.weight": np.ones((3, 4))},
        ({"a": {"kernel": X}}, {})), V, "'a.weight' is float64[3, 4] | expected float32[3, 4]"),
    Row("export, no batch", nn.export, (DENSE, (PARAMS, STATE), jnp.ones(())), V, "scalar | batch"),
    Row("export, one size", nn.export,
        (nn.Model(len, lambda p, s, x, key=None: (x + jnp.ones((4, 3)), s)), (PARAMS, {}), X), V,
        "cannot be exported | any batch | float32(b, 3) | (4, 3)"),
    Row("export, outputs of one size", nn.export,
        (nn.Model(len, lambda p, s, x, key=None: (x.reshape(4, 3), s)), (PARAMS, {}), X), V,
        "returns float32[4,3] | batch axis b"),
    Row("export, a callback", nn.export, (nn.Model(len, lambda p, s, x, key=None: (
        jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x), s)), (PARAMS, {}), X),
        V, "cannot be exported"),
    Row("export, no file", nn.load_export, (Path("no.export"),), F, "no.export"),
    Row("export, damaged", nn.load_export, (Path("net.export"),), V, "net.export is damaged"),
    Row("conv, axes", nn.conv, (X, jnp.ones((2, 2, 3, 1))), V, "(4, 3) | (b, h, w, c)"),
    Row("conv, channels", nn.conv, (jnp.ones((1, 4, 4, 2)), jnp.ones((2, 2, 3, 1))), V,
        "2 | 3 | channels"),
    Row("pool, window", nn.max_pool, (jnp.ones((1, 2, 2, 1)), 3), V, "(3, 3) | (1, 2, 2, 1)"),
    Row("pool, padding", lambda x: nn.max_pool(x, 2, padding="FULL"), (jnp.ones((1, 2, 2, 1)),), V,
        '"FULL" | "SAME"'),
    Row("pool, window of 0", nn.max_pool, (jnp.ones((1, 2, 2, 1)), 0), V, "window | positive | 0"),
]

TRAIN = [
    Row("monitored without monitors", partial(train.monitored, every=2), (PROGRAM,), V,
        "monitors is empty"),
    Row("monitored every 0", partial(train.monitored, every=0),
        (PROGRAM, train.trace_monitor(OBJECTIVE)), V, "every is 0"),
    Row("a monitor of another kind", partial(train.monitored, every=2), (PROGRAM, OBJECTIVE), T,
        "monitors[0] is a Objective | sharpness_monitor"),
    Row("a share of 2", partial(train.sharpness_monitor, share=2.0), (OBJECTIVE,), V, "share is "
                                                                                      "2.0"),
    Row("35 not scalar", step, (lambda p, s, b, key=None: (b @ p, (s, {})),), V,
        "'loss' | (4,) | scalar mean"),
    Row("35 metric", step, (lambda p, s, b, key=None: (p.sum(), (s, {"m": b})),), V,
        "'m' | (4, 3) | scalar mean"),
    Row("36 no state", step, (lambda p, s, b, key=None: p.sum(),), T,
        "shapes () | (loss, (state, metrics)) | train.objective"),
    Row("36 no metrics", step, (lambda p, s, b, key=None: (p.sum(), s),), T,
        "(loss, (state, metrics))"),
    Row("37 optimizer", train.program, (OBJECTIVE, 0.1), T,
        "optimizer is a float | optax.GradientTransformation"),
    Row("37 of hyper", lambda: train.program(OBJECTIVE, lambda h: 0.1).init(KEY, (X, Y)), (), T,
        "returned a float | optax.GradientTransformation"),
    Row("38 no steps", lambda: fit(), (), T, "steps"),
    Row("38 steps 1.5", lambda: fit(steps=1.5), (), T, "steps is 1.5 | integer"),
    Row("39 steps -1", lambda: fit(steps=-1), (), V, "steps is -1 | step 0"),
    Row("39 fewer steps", lambda run: fit(run, steps=5), (STEPPED,), V, "steps is 5 | step 7"),
    Row("39 chunk 0", lambda: fit(steps=2, chunk=0), (), V, "chunk is 0 | at least 1"),
    Row("41 not finite", diverge, (X,), NonFiniteError, "nan | step 3 | checkpoint"),
    Row("44 another program", lambda run: fit(run, steps=2), (OTHER_RUN,), V,
        "run | 'params/bias' | (3,) | (5,)"),
    Row("44 no run", lambda: fit(RUN.params, steps=2), (), T, "run is | dict | train.Run"),
    Row("45 callback", lambda: fit(steps=2, chunk=1, callbacks=[failing]), (), RuntimeError,
        "no space | step 1 | error.run"),
    Row("a stream that ends", lambda: fit(data=iter([(X, Y)]), steps=2), (), V,
        "ended at step 1 | 2 more from step 0"),
    Row("a stream of another shape", lambda: fit(data=iter([(X, Y), (X[:2], Y[:2])]), steps=2), (),
        V, "step 1 has float32[2, 3] at path '0' | step 0 has float32[4, 3]"),
    Row("a stream of another dtype", lambda: fit(data=iter([(X, Y), (X, X[:, 0])]), steps=2), (),
        V, "step 1 has float32[4] at path '1' | step 0 has int32[4]"),
    Row("a stream of texts", lambda: fit(data=iter([(X, np.asarray(["a"] * 4))]), steps=1), (), T,
        "<U1 at path '1' | numbers"),
    Row("a stream of nothing", lambda: fit(data=iter([None]), steps=1), (), T,
        "step 0 is None | arrays"),
    Row("a stream that is a number", lambda: fit(data=3, steps=1), (), T,
        "data is a int | at(step) | iterable"),
    Row("a stream that cannot resume", lambda run: fit(run, data=iter([]), steps=9), (STEPPED,), V,
        "step 7 | no seek(step)"),
    Row("flight recorder of 0", partial(train.flight_recorder, length=0), (PROGRAM,), V,
        "length is 0"),
    Row("flight recorder of lanes",
        train.flight_recorder(train.ensemble(PROGRAM, 2)).init, (KEY, (X, Y)), V,
        "lanes | ensemble(flight_recorder(program), n)"),
    Row("no flight record", train.flight_record, (RUN,), V, "no flight record | flight_recorder"),
    Row("a flight record of lanes", train.flight_record,
        (train.ensemble(train.flight_recorder(PROGRAM), 2).init(KEY, (X, Y)),), V,
        "2 lanes | train.lane(run, i)"),
    Row("replay step 0", lambda path: replay(path, step=0), (Path("run"),), V, "step is 0"),
    Row("replay without a checkpoint", lambda path: replay(path, step=3), (Path("nothing"),), F,
        "no checkpoint up to step 2"),
    Row("replay of damage", lambda path: replay(path, step=3), (Path("flipped"),), CheckpointError,
        "flipped/0 | SHA-256"),
    Row("replay of an iterator", lambda path: replay(path, step=3, data=iter([])), (Path("run"),),
        V, "neither at(step) nor seek(step)"),
    Row("assert_deterministic of an iterator",
        lambda: train.assert_deterministic(PROGRAM, RUN, iter([]), steps=2), (), V, "neither "
                                                                                    "at(step)"),
    Row("assert_deterministic of no step", lambda: train.assert_deterministic(PROGRAM, RUN,
        BATCHES, steps=0), (),
        V, "steps is 0 | step 0"),
    Row("30 legacy key", PROGRAM.init, (LEGACY, (X, Y)), T, "uint32 | jax.random.key"),
    Row("28 integer, plain loss", INTEGERS.init, (KEY, X), T, "params | 'n' | int32"),
    Row("loss as a metric", train.supervised,
        (DENSE, losses.squared_error, {"loss": losses.squared_error}), V, "metrics | 'loss'"),
    Row("ensemble of 0", train.ensemble, (PROGRAM, 0), V, "n is 0 | at least 1"),
    Row("predict nothing", train.predict, (DENSE, (PARAMS, STATE), X[:0]), DataError,
        "empty | (0, 3)"),
    Row("predict 0 at a time", lambda x: train.predict(DENSE, (PARAMS, STATE), x, size=0), (X,), V,
        "size is 0"),
    Row("evaluate nothing", train.evaluate, (OBJECTIVE, (PARAMS, STATE), (X[:0], Y[:0])), DataError,
        "empty | (0, 3)"),
    Row("11 evaluate NaN", train.evaluate, (OBJECTIVE, (PARAMS, STATE), (NAN_X, Y)), DataError,
        "'0' | 2 values | (1, 2)"),
    Row("early stop, no such metric", train.early_stop("validation/loss", patience=1),
        (RUN, {"loss": 1.0}), V, "'validation/loss' | ['loss']"),
    Row("early stop, patience", lambda: train.early_stop(patience=0), (), V,
        "patience is 0 | at least 1"),
    Row("lane beyond the last", train.lane,
        (train.ensemble(PROGRAM, 2).init(KEY, (X, Y)), 2), V, "i is 2 | 2 lanes"),
]

SWEPT = train.program(OBJECTIVE, lambda h: optax.sgd(h["rate"]))
RATED = SWEPT.init(KEY, (X, Y), {"rate": 0.1})
PAIR = train.ensemble(PROGRAM, 2).init(KEY, (X, Y))
MESH = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
TWO = AbstractMesh((2,), ("data",), axis_types=(AxisType.Auto,))
EXPLICIT = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
THREE = data.orders(BATCHES, jax.random.split(KEY, 3))
NORMED = train.supervised(NORM, losses.softmax_cross_entropy)
NAMED = train.Objective(
    lambda key, batch: nn.Variables({"w": jnp.ones(3)}, {}),
    lambda params, state, batch, key=None: (
        (batch[0] @ params["w"]).mean(), (state, {"loss": params["w"].sum()})
    ),
)


def accumulate(gradient, batch=(X, Y), objective=OBJECTIVE):
    program = train.program(objective, optax.sgd(0.1), gradient)
    return program.step(program.init(KEY, batch), batch)


def halve(run, **settings):
    return train.successive_halving(train.ensemble(PROGRAM, 2), run, BATCHES, **settings)


def range_test(run, **settings):
    return train.learning_rate_range_test(
        SWEPT, run, BATCHES, **{"low": 1e-3, "high": 1.0, "steps": 5} | settings
    )


def place(rules):
    return train.sharded(PROGRAM, MESH, rules).init(KEY, (X, Y))


TRANSFORMED = [
    Row("43 sweep lengths", partial(train.sweep, SWEPT, rate=[0.1, 0.2], decay=[0.0]), (), V,
        "{'rate': 2, 'decay': 1} | train.grid"),
    Row("sweep over a number", partial(train.sweep, SWEPT, rate=0.1), (), T,
        "rate is 0.1 | sequence"),
    Row("sweep over texts", partial(train.sweep, SWEPT, rate=["a", "b"]), (), T,
        "rate is of dtype <U1 | numbers"),
    Row("sweep over nothing", partial(train.sweep, SWEPT), (), V, "values is empty | ensemble"),
    Row("sweep without values", partial(train.sweep, SWEPT, rate=[]), (), V, "rate has no values"),
    Row("sweep of 0 seeds", partial(train.sweep, SWEPT, seeds=0, rate=[0.1]), (), V, "seeds is 0"),
    Row("42 sweep of an unknown name", lambda: train.sweep(SWEPT, rate=[0.1], speed=[1.0]).init(
        KEY, (X, Y)), (), V, "speed | read by | ['rate', 'speed']"),
    Row("42 sweep of an ensemble of an unknown name", lambda: train.sweep(train.ensemble(
        PROGRAM, 2), speed=[1.0, 2.0]).init(KEY, (X, Y)), (), V, "speed | read by | ['speed']"),
    Row("42 hyper without a name", lambda: train.sweep(SWEPT, speed=[0.1]).init(KEY, (X, Y)), (), V,
        "optimizer(hyper) reads 'rate' | ['speed']"),
    Row("a grid of a number", partial(train.grid, rate=0.1), (), T, "rate is 0.1 | sequence"),
    Row("a grid of a matrix", partial(train.grid, rate=np.ones((2, 2))), (), V,
        "(2, 2) | one axis"),
    Row("a lane of one run", train.lane, (RUN, 0), V, "i is 0 | 0 lanes"),
    Row("orders of fewer lanes", lambda run: fit(run, THREE, train.ensemble(PROGRAM, 2), steps=1),
        (PAIR,), V, "batch has (3,) lanes | (2,) | data.orders"),
    Row("orders by one key", data.orders, (BATCHES, KEY), V, "keys has shape () | (n,)"),
    Row("orders by a number", lambda: data.orders(BATCHES, jnp.ones(2)), (), T, "jax.random.key"),
    Row("0 microbatches", train.accumulated, (0,), V, "k is 0"),
    Row("microbatches that do not divide", accumulate, (train.accumulated(3),), V,
        "4 examples | k = 3"),
    Row("the gradient of a metric named loss", accumulate,
        (train.accumulated(2), (X, Y), NAMED), V, "metrics | 'loss'"),
    Row("clipped with a metric named loss", accumulate, (train.clipped_per_example(1.0), (X, Y),
        NAMED), V,
        "metrics | 'loss'"),
    Row("clipped to nothing", train.clipped_per_example, (0.0,), V, "bound is 0.0 | positive"),
    Row("clipped at infinity", train.clipped_per_example, (float("inf"), 1.0), V, "bound is inf "
                                                                                  "| finite"),
    Row("clipped with noise below zero", train.clipped_per_example, (1.0, -1.0), V, "noise is "
                                                                                    "-1.0"),
    Row("clipped with batch norm", accumulate, (train.clipped_per_example(1.0), (X, Y), NORMED), V,
        "['batch_stats/mean', 'batch_stats/var'] | layer norm"),
    Row("mixed precision of a function", train.mixed_precision, (len,), T,
        "pair is a builtin_function_or_method | train.Objective | nn.Model"),
    Row("mixed precision in float16", train.mixed_precision, (OBJECTIVE, jnp.float16), T,
        "dtype is float16 | bfloat16"),
    Row("rematerialized in 0 segments", partial(train.rematerialized, segments=0), (OBJECTIVE,), V,
        "segments is 0"),
    Row("augmented by no function", train.augmented, (OBJECTIVE, X), T, "f is a | function"),
    Row("augmented model", train.augmented, (DENSE, len), T, "objective is a Model"),
    Row("averaged with decay 1", partial(train.averaged, decay=1.0), (PROGRAM,), V, "decay is 1.0"),
    Row("no average", train.average, (RUN,), V, "no average | train.averaged"),
    Row("no optimizers", train.optimizers_by_path, ({},), V, "optimizers is empty"),
    Row("a number for an optimizer", train.optimizers_by_path, ({"**": 0.1},), T,
        "optimizers['**'] is a float"),
    Row("unrolled in odd segments", lambda: train.unroll(
        PROGRAM, RUN, BATCHES, steps=4, segments=3), (), V, "steps is 4 and segments 3"),
    Row("unrolled over arrays", lambda: train.unroll(PROGRAM, RUN, (X, Y), steps=4), (), T,
        "data is a tuple | at(step)"),
    Row("range test without a rate", range_test, (RATED,), V, "['rate'] | 'learning_rate'"),
    Row("range test over arrays", lambda: train.learning_rate_range_test(
        SWEPT, RATED._replace(hyper={"learning_rate": jnp.float32(0)}), [X], low=0.1, high=1.0,
        steps=5), (), T, "data is a list | at(step)"),
    Row("range test of lanes", range_test, (PAIR._replace(hyper={"learning_rate": jnp.zeros(2)}),),
        V, "2 lanes | jax.vmap"),
    Row("range test downwards", lambda: range_test(
        RATED._replace(hyper={"learning_rate": jnp.float32(0)}), low=1.0, high=0.1), (), V,
        "low is 1.0 and high 0.1"),
    Row("halving one run", partial(halve, rounds=(2,)), (RUN,), V, "run has no lanes"),
    Row("halving over arrays", lambda run: train.successive_halving(
        train.ensemble(PROGRAM, 2), run, [X], rounds=(2,)), (PAIR,), T, "list | at(step)"),
    Row("halving in no rounds", partial(halve, rounds=()), (PAIR,), V, "rounds is ()"),
    Row("halving to the first", partial(halve, rounds=(2,), factor=1), (PAIR,), V, "factor is 1"),
    Row("halving by one score", partial(halve, rounds=(2,), score=lambda run: 0.0), (PAIR,), V,
        "score(run) has shape () | (2,)"),
    Row("a rule that matches nothing", place, ({"kernle": PartitionSpec("data")},), V,
        "'kernle' matches nothing | 'kernel'"),
    Row("a rule that is a name", place, ({"kernel": "data"},), T,
        "'kernel' is 'data' | PartitionSpec"),
    Row("a rule of another mesh", place, ({"kernel": PartitionSpec("model")},), V,
        "'kernel' names the axis 'model' | ('data',)"),
    Row("a rule with more axes", place, ({"bias": PartitionSpec(None, "data")},), V,
        "more axes | 'bias' | (3,)"),
    Row("a mesh that does not divide the batch", train.sharded(PROGRAM, TWO).step,
        (RUN, (X[:3], Y[:3])), V, "3 examples | 2 devices | 'data'"),
    Row("a mesh that does not divide the batch of each lane",
        train.sharded(train.ensemble(PROGRAM, 3), TWO).step,
        (RUN, jax.tree.map(lambda x: x[:, :1], THREE.at(0))), V, "1 examples | 2 devices"),
    Row("rows of a process that cannot resume", lambda run: fit(
        run, train.per_process(MESH, [(X, Y)]), steps=9), (STEPPED,), V, "step 7 | no seek(step)"),
    Row("a mesh that does not divide a parameter",
        train.sharded(PROGRAM, TWO, {"bias": PartitionSpec("data")}).step, (RUN, (X, Y)), V,
        "'bias' splits 3 | (3,) | 2 parts"),
    Row("a mesh of explicit axes", train.sharded, (PROGRAM, EXPLICIT), V, "Auto | axis_types"),
    Row("a batch axis that is not there", partial(train.sharded, batch="rows"), (PROGRAM, MESH), V,
        "'batch' names the axis 'rows' | ('data',)"),
]

CHECKPOINT = [
    Row("46 no folder", train.restore, (Path("no"), RUN), F, "no checkpoint | no"),
    Row("46 empty folder", train.restore, (Path("nothing"), RUN), F, "no checkpoint | nothing"),
    Row("47 unfinished", train.restore, (Path("unfinished"), RUN), CheckpointError,
        "5.unfinished-1"),
    Row("48 flipped", train.restore, (Path("flipped"), RUN), CheckpointError,
        "flipped/0 | SHA-256"),
    Row("53 another program", train.restore, (Path("run"), OTHER_RUN), CheckpointError,
        "params/bias | (3,) | (5,)"),
    Row("53 missing leaf", train.restore,
        (Path("run"), RUN._replace(state={"n": X})), CheckpointError, "state/n | not saved"),
]

LINALG = [
    Row("58 not square", lambda m: operators.from_dense(m, symmetric=True), (MATRIX,), V,
        "(3, 2) | square"),
    Row("58 trace", lambda A: operators.trace(A, key=KEY), (WIDE,), V, "A is not square | 3 | 2"),
    Row("58 shift", lambda A: A.shift(1.0), (WIDE,), V, "A is not square | (2,) | (3,)"),
    Row("60 eigsh", lambda A: operators.eigsh(A, 1, key=KEY), (PLAIN,), V,
        "not marked symmetric | symmetric=True"),
    Row("60 density", lambda A: operators.spectral_density(A, key=KEY), (PLAIN,), V,
        "not marked symmetric"),
    Row("61 k > n", lambda A: operators.eigsh(A, 4, key=KEY), (SYMMETRIC,), V,
        "k is 4 | 1 <= k <= 3"),
    Row("61 k = 0", lambda A: operators.eigsh(A, 0, key=KEY), (SYMMETRIC,), V,
        "k is 0 | 1 <= k <= 3"),
    Row("61 k = 1.5", lambda A: operators.eigsh(A, 1.5, key=KEY), (SYMMETRIC,), T,
        "k is 1.5 | integer"),
    Row("61 probes", lambda A: operators.trace(A, key=KEY, probes=1), (SYMMETRIC,), V,
        "probes is 1 | at least 2"),
    Row("62 integers", operators.from_dense, (jnp.eye(3, dtype=int),), T, "matrix | int32 | float"),
    Row("62 operator", operators.from_function, (lambda v: v, {"a": Y}), T, "'a' | int32 | float"),
    Row("64 1-D", operators.from_dense, (VECTOR,), V, "(3,) | 2-D"),
    Row("64 vector of another length", lambda A, v: A @ v, (SYMMETRIC, jnp.ones(2)), V,
        "(3,) | (2,)"),
    Row("64 operator of another form", lambda A, B: A + B, (SYMMETRIC, WIDE), V, "(2,) | (3,)"),
    Row("69 no key", lambda A: operators.trace(A), (SYMMETRIC,), T, "key"),
    Row("69 legacy key", lambda A, key: operators.trace(A, key=key), (SYMMETRIC, LEGACY), T,
        "uint32 | jax.random.key"),
    Row("69 eigsh, legacy key", lambda A, key: operators.eigsh(A, 1, key=key), (SYMMETRIC,
        LEGACY), T,
        "uint32 | jax.random.key"),
    Row("69 density, key None", lambda A: operators.spectral_density(A, key=None), (SYMMETRIC,), T,
        "key has None | jax.random.key"),
    *(
        Row(f"{kind} {estimate.__name__}", lambda A, key, f=estimate, n=n: f(A, key=key, probes=n),
            (A, key), error, words)
        for estimate in (operators.diagonal, operators.hutch_pp, operators.xtrace, operators.logdet)
        for kind, A, key, n, error, words in (
            ("58", WIDE, KEY, 2, V, "A is not square | 3 | 2"),
            ("61 probes of", POSITIVE, KEY, 1, V, "probes is 1 | at least 2"),
            ("69 legacy key of", POSITIVE, LEGACY, 2, T, "uint32 | jax.random.key"),
        )
    ),
    Row("61 probes of hutch_pp > n", lambda A: operators.hutch_pp(A, key=KEY, probes=4),
        (SYMMETRIC,),
        V, "probes is 4 | 2 to 3"),
    Row("61 probes of xtrace > n", lambda A: operators.xtrace(A, key=KEY, probes=4), (SYMMETRIC,),
        V,
        "probes is 4 | 2 to 3"),
    Row("61 probes of frobenius", lambda A: operators.frobenius(A, key=KEY, probes=1), (WIDE,), V,
        "probes is 1 | at least 2"),
    Row("69 legacy key of frobenius", lambda A, key: operators.frobenius(A, key=key), (WIDE,
        LEGACY),
        T, "uint32 | jax.random.key"),
    Row("60 logdet", lambda A: operators.logdet(A, key=KEY), (PLAIN,), V,
        "not marked symmetric | symmetric=True"),
    Row("logdet, indefinite", lambda A: operators.logdet(A, key=KEY), (SYMMETRIC,), V,
        "not marked psd | damping"),
    Row("logdet, damping", lambda A: operators.logdet(A, key=KEY, damping=-1.0), (POSITIVE,), V,
        "damping is -1.0 | >= 0"),
    Row("logdet, steps", lambda A: operators.logdet(A, key=KEY, steps=0), (POSITIVE,), V,
        "steps is 0 | at least 1"),
    Row("cond of a matrix", lambda A: operators.cond(A, key=KEY), (MATRIX,), T,
        "A is a ArrayImpl | operators.from_dense(matrix)"),
    Row("69 legacy key of cond", lambda A, key: operators.cond(A, key=key), (WIDE, LEGACY), T,
        "uint32 | jax.random.key"),
    Row("cond, tol", lambda A: operators.cond(A, key=KEY, tol=-1.0), (WIDE,), V,
        "tol is -1.0 | >= 0"),
    Row("eigsh, tol", lambda A: operators.eigsh(A, 1, key=KEY, tol=-1e-3), (SYMMETRIC,), V,
        "tol is -0.001 | >= 0"),
    Row("which", lambda A: operators.eigsh(A, 1, key=KEY, which="LR"), (SYMMETRIC,), V,
        "'LR' | 'LM', 'LA' or 'SA'"),
    Row("glob", lambda A: A.block("kernels"), (curvature.hessian(tree_loss, TREE),), V,
        "'kernels' | nothing | 'a/kernel'"),
    Row("not converged", operators.require_converged,
        (EigenPairs(X, X, jnp.asarray([0.5]), jnp.asarray([False]), 3),), NotConvergedError,
        "1 of 1 | 0.5 | max_matvecs"),
    Row("no closed form", lambda A, v: A.solve(v), (FUNCTION, VECTOR), T,
        "closed form of solve | operators.cg, operators.minres and operators.lsmr"),
    Row("no closed form of a sum", lambda A: (A + A).logdet(), (SYMMETRIC,), T,
        "closed form of logdet | operators.cg"),
    Row("no closed form of an inverse", lambda A: A.inv(), (FUNCTION,), T,
        "closed form of solve | operators.cg"),
    Row("no closed form of a damped inverse", lambda A: A.inv(damping=1.0), (FUNCTION,), T,
        "closed form of solve | operators.cg"),
    Row("58 inverse", lambda A: A.inv(), (WIDE,), V, "A is not square | 3 | 2"),
    Row("58 solve", lambda A, v: A.solve(v), (WIDE, jnp.ones(2)), V, "A is not square | 3 | 2"),
    Row("58 solve, toeplitz", lambda c, r: operators.toeplitz(c, r).logdet(), (VECTOR,
        jnp.ones(2)), V,
        "A is not square"),
    Row("64 solve, right-hand side", lambda A, v: A.solve(v), (SYMMETRIC, jnp.ones(2)), V,
        "b in A.solve(b) | (3,) | (2,)"),
    Row("62 from_diagonal", operators.from_diagonal, (Y,), T, "d has dtype int32 | float"),
    Row("62 circulant", operators.circulant, (Y,), T, "column | int32 | float"),
    Row("62 toeplitz", operators.toeplitz, (VECTOR + 1j,), T, "column | complex64 | float"),
    Row("62 banded", operators.banded, (jnp.ones((3, 4), int),), T, "diagonals | int32 | float"),
    Row("62 householder", operators.householder, (Y,), T, "v has dtype int32"),
    Row("62 givens", operators.givens, (3, 0, 1, jnp.asarray(1)), T, "angle | int32 | float"),
    Row("64 circulant", operators.circulant, (MATRIX,), V, "column | (3, 2) | 1-D | jax.vmap"),
    Row("64 toeplitz, empty", operators.toeplitz, (VECTOR[:0],), V, "column | (0,) | at least one"),
    Row("64 toeplitz, row", operators.toeplitz, (VECTOR, MATRIX), V, "row | (3, 2) | 1-D"),
    Row("toeplitz, corner", operators.toeplitz, (VECTOR, 2 * VECTOR), V, "row[0] is 2.0 | 1.0"),
    Row("banded, even", operators.banded, (jnp.ones((2, 4)),), V, "(2, 4) | odd"),
    Row("banded, too many", operators.banded, (jnp.ones((5, 2)),), V, "(5, 2) | b < n"),
    Row("givens, one axis", operators.givens, (3, 1, 1, 0.5), V, "i and j are both 1"),
    Row("givens, out of range", operators.givens, (3, 0, 3, 0.5), V, "j is 3 | 0 to 2"),
    Row("58 cayley", operators.cayley, (MATRIX,), V, "params | (3, 2) | square"),
    Row("58 orthogonal", operators.orthogonal, (MATRIX,), V, "params | (3, 2) | square"),
    Row("kronecker of a vector", operators.kronecker, (VECTOR, MATRIX), V, "(3,) | 2-D"),
    Row("kronecker of trees", operators.kronecker, (operators.from_diagonal(TREE), MATRIX), V,
        "a maps | vectors (n,)"),
    Row("update, rows", operators.low_rank_update, (VECTOR, MATRIX[:2]), V, "(2, 2) | (3, k)"),
    Row("update, columns", operators.low_rank_update, (VECTOR, MATRIX, MATRIX[:, :1]), V,
        "u has shape (3, 2) | v (3, 1)"),
    Row("58 update", operators.low_rank_update, (WIDE, MATRIX), V, "A is not square"),
    Row("60 cg", operators.cg, (PLAIN, VECTOR), V, "not marked symmetric | lsmr"),
    Row("60 minres", operators.minres, (PLAIN, VECTOR), V, "not marked symmetric | lsmr"),
    Row("64 cg", operators.cg, (SYMMETRIC, jnp.ones(2)), V, "b in A x = b | (3,) | (2,)"),
    Row("lsmr of a matrix", operators.lsmr, (MATRIX, VECTOR), T, "operators.from_dense(matrix)"),
    Row("solve, no steps", lambda A, b: operators.solve(A, b, max_steps=0), (SYMMETRIC, VECTOR), V,
        "max_steps is 0 | at least 1"),
    Row("solve, tol", lambda A, b: operators.solve(A, b, tol=-1.0), (SYMMETRIC, VECTOR), V,
        "tol is -1.0 | >= 0"),
    Row("precondition", lambda A, b, M: operators.cg(A, b, precondition=M), (SYMMETRIC, VECTOR,
        WIDE),
        V, "precondition | (3,) | (2,)"),
    Row("precondition by a matrix", lambda A, b: operators.cg(A, b, precondition=MATRIX),
        (SYMMETRIC, VECTOR), T, "precondition is a ArrayImpl | operators.from_dense(matrix)"),
]

def outputs(w, x):
    return x @ w


def square(z, x):
    return (z**2).mean()


class Loader:
    """A stream of batches."""

    def __iter__(self):
        yield jnp.ones((4, 3))


def mean_square(w, x):
    return square(outputs(w, x), x)


STREAM = curvature.hessian(mean_square, VECTOR, Loader())
POSTERIOR = curvature.laplace(
    operators.from_dense(jnp.eye(3), psd=True), VECTOR, examples=4, prior_precision=1.0
)
SGD = optax.sgd(0.1)
CURVATURE = [
    Row("eigsh of a stream", partial(operators.eigsh, key=KEY), (STREAM, 1), T,
        "A is a StreamOperator | as_scipy"),
    Row("kfac of a stream", curvature.kfac, (outputs, square, VECTOR, Loader()), T,
        "data is a Loader, a stream | Batches"),
    Row("stream, another form", STREAM.__matmul__, (jnp.ones(4),), V, "v in A @ v | (3,) | (4,)"),
    Row("fisher_mc, legacy key", partial(curvature.fisher_mc, key=LEGACY, draw=None),
        (outputs, square, VECTOR, jnp.ones((4, 3))), T, "uint32 | jax.random.key"),
    Row("laplace of a Hessian", partial(curvature.laplace, examples=4, prior_precision=1.0),
        (operators.from_dense(jnp.eye(3), symmetric=True), VECTOR), V,
        "not marked positive semi-definite | ggn"),
    Row("laplace of other parameters", partial(curvature.laplace, examples=4, prior_precision=1.0),
        (operators.from_dense(jnp.eye(2), psd=True), VECTOR), V, "A.shape_in | (3,) | (2,)"),
    Row("laplace without a solve", partial(curvature.laplace, examples=4, prior_precision=1.0),
        (operators.from_function(lambda v: v, VECTOR, psd=True), VECTOR), T,
        "no direct solve | materialize"),
    Row("laplace of no examples", partial(curvature.laplace, examples=0, prior_precision=1.0),
        (operators.from_dense(jnp.eye(3), psd=True), VECTOR), V, "examples is 0"),
    Row("laplace, prior 0", partial(curvature.laplace, examples=4, prior_precision=0.0),
        (operators.from_dense(jnp.eye(3), psd=True), VECTOR), V,
        "prior_precision is 0.0 | positive"),
    Row("predictive of scalars", curvature.predictive,
        (POSTERIOR, lambda w, x: x @ w, jnp.ones((4, 3))), V, "shape (4,) | (b, c)"),
    Row("connect ends of two forms",
        partial(curvature.mode_connectivity, key=KEY, steps=2, optimizer=SGD),
        (lambda w: w.sum(), (jnp.ones(2), jnp.ones(3))), V, "ends[1] | (2,) | (3,)"),
    Row("connect in no steps",
        partial(curvature.mode_connectivity, key=KEY, steps=0, optimizer=SGD),
        (lambda w: w.sum(), (jnp.ones(2), jnp.ones(2))), V, "steps is 0"),
    Row("leading, not symmetric", operators.leading_eigenpair,
        (operators.from_dense(jnp.eye(3)), VECTOR), V, "not marked symmetric"),
    Row("leading from another form", operators.leading_eigenpair,
        (operators.from_dense(jnp.eye(3), psd=True), jnp.ones(2)), V, "start | (3,) | (2,)"),
    Row("leading in no steps", partial(operators.leading_eigenpair, steps=0),
        (operators.from_dense(jnp.eye(3), psd=True), VECTOR), V, "steps is 0"),
    Row("materialize, too large", partial(operators.materialize, max_bytes=8),
        (operators.from_dense(jnp.eye(3)),), V, "36 bytes | max_bytes"),
    Row("leading, negative tol", partial(operators.leading_eigenpair, tol=-1.0),
        (operators.from_dense(jnp.eye(3), psd=True), VECTOR), V, "tol is -1.0"),
    Row("negative damping", partial(curvature.kfac_preconditioner, damping=-1.0),
        (outputs, square), V, "damping is -1.0"),
    Row("barrier of a plane", curvature.loss_barrier, (jnp.ones((2, 3)),), V, "(2, 3) | (g,) | "
                                                                              "vmap"),
    Row("hessian of no examples", curvature.hessian, (mean_square, VECTOR, jnp.ones((0, 3))), V,
        "data has no examples"),
    Row("labels of a sequence", curvature.draw_label(2),
        (KEY, jnp.ones((1, 5, 3)), (jnp.ones((1, 5)), jnp.ones((1, 5), int))), V,
        "(1, 5) | (x, label) | (b,)"),
    Row("no draws", curvature.draw_label, (0,), V, "draws is 0"),
    Row("predictive of mixed examples", curvature.predictive,
        (POSTERIOR, lambda w, x: (x @ w - (x @ w).mean())[:, None], jnp.ones((4, 3))),
        ExamplesInteractError,
        "sub at"),
    Row("momentum of 1", partial(curvature.stability_ratio, momentum=1.0), (jnp.ones(()), 0.1), V,
        "momentum is 1.0"),
    *(Row(f"{name} without data", getattr(curvature, name), (outputs, square, VECTOR, None), V,
          "data is None | Batches") for name in ("ggn", "fisher_empirical", "kfac", "ekfac")),
    *(Row(f"{name} of no examples", getattr(curvature, name),
          (outputs, square, VECTOR, jnp.ones((0, 3))), V, "data has no examples")
      for name in ("ggn", "fisher_empirical", "kfac", "ekfac")),
    *(Row(f"{name} of integer outputs", getattr(curvature, name),
          (lambda w, x: jnp.argmax(x, axis=1), square, VECTOR, jnp.ones((4, 3))), T,
          "z = f(params, batch) | int32") for name in ("ggn", "fisher_empirical", "kfac", "ekfac")),
    Row("ggn of a loss that is a vector", curvature.ggn,
        (outputs, lambda z, x: z**2, VECTOR, jnp.ones((4, 3))), V, "loss returned shape (4,)"),
    *(Row(f"{name} of mixed examples", getattr(curvature, name),
          (lambda w, x: x @ w - (x @ w).mean(), square, VECTOR, jnp.ones((4, 3))),
          ExamplesInteractError,
          "sub at") for name in ("fisher_empirical", "kfac", "ekfac")),
    *(Row(f"{build.__name__}, large factors", Partial(build, max_bytes=39),
          (outputs, square, VECTOR, jnp.ones((4, 3))), V,
          "params (used by matmul): factors need 40 bytes | limit | 39")
      for build in (curvature.kfac, curvature.ekfac)),
    Row("kfac, parameter of no known factors",
        lambda p, x: curvature.kfac(lambda p, x: x @ jnp.sin(p["a"]), square, p, x, max_bytes=35),
        ({"a": VECTOR}, jnp.ones((4, 3))), V,
        "path 'a' (used by elementwise) | no known factors | 40 bytes | curvature.ggn(...).block"),
    Row("landscape without directions", curvature.loss_landscape,
        (lambda w: w.sum(), VECTOR, (), jnp.ones(2)), V, "directions is empty"),
    Row("landscape along another form", curvature.loss_landscape,
        (lambda w: w.sum(), VECTOR, (jnp.ones(2),), jnp.ones(2)), V,
        "directions[0] | shape (3,) | shape (2,)"),
    Row("noise_scale of two examples", curvature.noise_scale,
        (lambda w, x: (x @ w).mean(), VECTOR, jnp.ones((2, 3))), V, "2 examples | at least 3"),
    Row("jacobian without data", curvature.jacobian, (outputs, VECTOR, None), V, "data is None"),
    Row("ntk of no function", curvature.ntk, (3, VECTOR, jnp.ones((4, 3))), T, "f is a int"),
    Row("65 direction", autodiff.hvp(tree_loss), (TREE, {"a": {"kernel": X}, "b": VECTOR}), V,
        "'a/kernel' | (2,) | (4, 3)"),
    Row("65 missing leaf", autodiff.hvp(tree_loss), (TREE, {"b": VECTOR}), V,
        "'a/kernel' | nothing"),
    Row("66 bytes", lambda p: curvature.hessian(tree_loss, p).dense(max_bytes=99), (TREE,), V,
        "100 bytes | 99 | use the operator"),
    Row("67 hessian", curvature.hessian, (lambda p: p * 2, VECTOR), V, "(3,) | scalar"),
    Row("67 hvp", autodiff.hvp(lambda p: p * 2), (VECTOR, VECTOR), V, "(3,) | scalar"),
    Row("68 no parameters", curvature.hessian, (tree_loss, {}), V, "params | no leaves"),
    Row("68 hvp", autodiff.hvp(tree_loss), ({}, {}), V, "x has no leaves"),
    Row("62 integer parameter", curvature.hessian, (tree_loss, {"a": Y}), T, "'a' | int32 | float"),
    Row("integer loss", curvature.hessian, (lambda p: Y.sum(), VECTOR), T, "int32 | float"),
]

COMPLEX = {"a": VECTOR, "b": VECTOR + 1j}
TRANSFORMS = {
    "jacobian": autodiff.jacobian,
    "hessian": autodiff.hessian,
    "hessian_matrix": autodiff.hessian_matrix,
    "laplacian": autodiff.laplacian,
    "check_second_order": autodiff.check_second_order,
    "taylor": lambda f: lambda x: autodiff.taylor(f)(x, x, 2),
    "hvp": lambda f: lambda x: autodiff.hvp(f)(x, x),
}
OF_SCALARS = ("hessian", "hessian_matrix", "check_second_order")
def seen(w, x):
    return jnp.tanh(x @ w - (x @ w).mean()).mean()


PER_EXAMPLE = {
    name: getattr(per_example, name)
    for name in ("grad", "grad_norm", "grad_second_moment",
                 "gram")
}
AUTODIFF = [
    *(Row(f"{name} of mixed examples", transform(seen), (VECTOR, jnp.ones((4, 3))),
        ExamplesInteractError,
          "sub at | test_errors.py | back to single examples | batch normalization")
      for name, transform in PER_EXAMPLE.items()),
    *(Row(f"{name} of no examples", transform(seen), (VECTOR, jnp.ones((0, 3))), V,
          "batch has no examples") for name, transform in PER_EXAMPLE.items()),
    *(Row(f"{name} of integers", transform(seen), (Y, jnp.ones((4, 3))), V,
          "params has no leaves of floats") for name, transform in PER_EXAMPLE.items()),
    *(Row(f"{name} of no loss", lambda w, x, t=transform: t(1.0)(w, x),
          (VECTOR, jnp.ones((4, 3))), T, "loss is a float | loss(params, batch)")
      for name, transform in PER_EXAMPLE.items()),
    Row("clipped_grad at no length", per_example.clipped_grad, (seen, 0.0), V,
        "bound is 0.0 | positive"),
    Row("grad of a vector", per_example.grad(lambda w, x: x @ w),
        (VECTOR, jnp.ones((4, 3))), V, "shape | scalar mean | Mean(total, weight)"),
    Row("grad of uneven leaves", per_example.grad(seen),
        (VECTOR, (jnp.ones((4, 3)), jnp.ones(3))), V, "different numbers of examples"),
    *(Row(f"{name} of no leaves", transform(tree_loss), ({},), V, "x has no leaves")
      for name, transform in TRANSFORMS.items()),
    *(Row(f"{name} at integers", transform(tree_loss), ({"a": Y},), T, "'a' | int32 | float")
      for name, transform in TRANSFORMS.items()),
    *(Row(f"{name} at complex numbers", transform(tree_loss), (COMPLEX,), T,
          "'b' | complex64 | two leaves") for name, transform in TRANSFORMS.items()),
    *(Row(f"{name} of no function", lambda x, t=transform: t(3.0)(x), (VECTOR,), T,
          "f is a float | expected a function") for name, transform in TRANSFORMS.items()),
    *(Row(f"{name} of a vector", TRANSFORMS[name](lambda x: 2 * x), (VECTOR,), V,
          "f returned shape (3,) | scalar") for name in OF_SCALARS),
    *(Row(f"{name} of an integer", transform(lambda x: Y.sum()), (VECTOR,), T,
          "f returned dtype int32 | floats") for name, transform in TRANSFORMS.items()),
    Row("jacobian of integers in a tree", autodiff.jacobian(lambda x: {"y": x, "n": Y}), (VECTOR,),
        T, "f returned dtype int32 at path 'n'"),
    Row("jacobian, bytes", autodiff.jacobian(lambda x: x, max_bytes=35), (VECTOR,), V,
        "Jacobian (3 x 3) | 36 bytes | 35 | jax.jvp, jax.vjp"),
    *(Row(f"{name}, bytes", getattr(autodiff, name)(tree_loss, max_bytes=99), (TREE,), V,
          "Hessian (5 x 5) | 100 bytes | 99 | autodiff.hvp | curvature.hessian")
      for name in ("hessian", "hessian_matrix")),
    *(Row(f"{name}, chunk 0", getattr(autodiff, name)(tree_loss, chunk=0), (TREE,), V,
          "chunk is 0 | at least one")
      for name in ("jacobian", "hessian", "hessian_matrix", "laplacian")),
    Row("taylor, order -1", lambda x: autodiff.taylor(tree_loss)(x, x, -1), (VECTOR,), V,
        "order is -1 | >= 0"),
    Row("taylor, order 1.5", lambda x: autodiff.taylor(tree_loss)(x, x, 1.5), (VECTOR,), T,
        "order is 1.5 | integer"),
    Row("taylor, direction", lambda x, v: autodiff.taylor(tree_loss)(x, v, 1), (VECTOR, MATRIX), V,
        "direction v | (3,) | (3, 2)"),
    Row("root of another form", autodiff.implicit_root(lambda c: c, lambda x, c: c[:2]), (VECTOR,),
        V, "the result of residual | (3,) | (2,)"),
    Row("fixed point of another form",
        autodiff.implicit_fixed_point(lambda c: c, lambda x, c: {"x": c}), (VECTOR,), V,
        "the result of step | (3,) | nothing"),
    Row("minimizer of a vector", autodiff.implicit_argmin(lambda c: c, lambda x, c: x), (VECTOR,),
        V, "f returned shape (3,) | scalar"),
    Row("solution of integers", autodiff.implicit_root(lambda c: Y, lambda x, c: x), (VECTOR,), T,
        "the solution x has dtype int32"),
    Row("root in no floats", autodiff.implicit_root(lambda c: c, lambda x, c: x), (Y,), T,
        "args | int32 | float"),
]

HISTORY = train.History(np.arange(1, 3), {"loss": np.ones(2)}, [], 0.0, 0.0)
VIZ = [
    Row("no such metric", lambda h: draw(viz.curve, h, "accuracy"), (HISTORY,), V,
        "'accuracy' | ['loss']"),
    Row("counts not square", lambda c: draw(viz.confusion, c), (np.ones((2, 3)),), V,
        "(2, 3) | square"),
    Row("bars of another length", lambda values: draw(viz.bars, ["a"], values), (np.ones(2),), V,
        "1 names | (2,)"),
    Row("bars not positive", lambda values: draw(viz.bars, ["a"], values), (np.zeros(1),), V,
        "'a' | 0 | positive"),
    Row("pictures without axes", viz.images, ([], X, ["a"]), V, "0 axes | 4 pictures | 1 titles"),
    Row("report of no section",
        lambda path: viz.report(path, title="", verdict="", sections=[("a", "b")]),
        (Path("report.html"),), T, "section | viz.Section"),
]

UNIT = stats.gaussian.Gaussian(jnp.zeros(3), jnp.eye(3))
HOLED = jnp.ones((4, 2)).at[2, 1].set(jnp.nan)
MIXTURE = stats.mixture.Mixture(jnp.zeros(2), jax.tree.map(lambda x: jnp.stack([x, x]), UNIT))
STUDENT = stats.student_t.StudentT(*UNIT, jnp.asarray(3.0))
FITS = {
    "gaussian": stats.gaussian.fit,
    "student": stats.student_t.fit,
    "kmeans": lambda x: stats.kmeans(KEY, x, 2),
    "lloyd": lambda x: stats.lloyd(x, jnp.ones((2, 2))),
    "seeds": lambda x: stats.kmeans_plus_plus(KEY, x, 2),
    "mixture": lambda x: stats.mixture.fit(KEY, x, 2),
    "step of EM": lambda x: stats.mixture.em_step(MIXTURE, x),
}
COUNTED = {
    "kmeans": lambda c: stats.kmeans(KEY, X, c),
    "seeds": lambda c: stats.kmeans_plus_plus(KEY, X, c),
    "mixture": lambda c: stats.mixture.fit(KEY, X, c),
}
STATS = [
    *(Row(f"{name} with NaN", fit, (HOLED,), V, "x has 1 values | (2, 1)")
      for name, fit in FITS.items()),
    *(Row(f"{name} 1-D", fit, (VECTOR,), V, "x has shape (3,) | matrix")
      for name, fit in FITS.items()),
    *(Row(f"{name} 3-D", fit, (jnp.ones((2, 4, 2)),), V, "(2, 4, 2) | jax.vmap")
      for name, fit in FITS.items()),
    *(Row(f"{name} of integers", fit, (jnp.ones((4, 2), int),), T, "x has dtype int32 | float")
      for name, fit in FITS.items()),
    *(Row(f"{name} c > n", f, (5,), V, "c is 5 | 1 to 4") for name, f in COUNTED.items()),
    *(Row(f"{name} c = 0", f, (0,), V, "c is 0 | 1 to 4") for name, f in COUNTED.items()),
    *(Row(f"{name} c = 1.5", f, (1.5,), T, "c is 1.5 | integer") for name, f in COUNTED.items()),
    Row("gaussian of a batch", lambda x: stats.gaussian.log_prob(UNIT, x), (X,), V,
        "x has shape (4, 3) | jax.vmap"),
    Row("gaussian of another d", lambda x: stats.gaussian.log_prob(UNIT, x), (jnp.ones(2),), V,
        "x has shape (2,) | (3,)"),
    Row("density at integers", lambda x: stats.gaussian.log_prob(UNIT, x), (jnp.ones(3, int),), T,
        "x has dtype int32 | float"),
    Row("covariance of another d",
        lambda x: stats.gaussian.log_prob(UNIT._replace(covariance=jnp.eye(2)), x), (VECTOR,), V,
        "params.covariance | (2, 2) | (3, 3)"),
    Row("cdf of a vector", lambda x: stats.gaussian.cdf(UNIT, x), (VECTOR,), V, "d = 3 | d = 1"),
    Row("gaussian, legacy key", stats.gaussian.sample, (LEGACY, UNIT), T,
        "uint32 | jax.random.key"),
    Row("no rows", stats.gaussian.fit, (jnp.ones((0, 2)),), V, "(0, 2) | at least one row"),
    Row("weights of another n", stats.gaussian.fit, (X, jnp.ones(3)), V,
        "weights has shape (3,) | (4,)"),
    Row("negative weights", stats.gaussian.fit, (X, -jnp.ones(4)), V, "weights | >= 0"),
    Row("index out of range", stats.gaussian.marginal, (UNIT, [3]), V, "[3] | 0..2"),
    Row("index twice", stats.gaussian.marginal, (UNIT, [1, 1]), V, "[1, 1] | different"),
    Row("index no integer", stats.gaussian.marginal, (UNIT, [0.5]), T, "[0.5] | integers"),
    Row("values of another length", stats.gaussian.conditional, (UNIT, [0], VECTOR), V,
        "values has shape (3,) | (1,)"),
    Row("ellipsoid of no probability", stats.gaussian.ellipsoid, (UNIT, 1.5), V,
        "probability is 1.5 | 0..1"),
    Row("product of another d", stats.gaussian.product,
        (UNIT, stats.gaussian.marginal(UNIT, [0])), V, "d = 3 | d = 1"),
    Row("student cdf", lambda x: stats.student_t.cdf(STUDENT, x), (VECTOR,), V, "d = 3 | d = 1"),
    Row("dof", lambda x: stats.student_t.log_prob(STUDENT._replace(dof=VECTOR), x), (VECTOR,), V,
        "params.dof | (3,) | scalar"),
    Row("label out of range", stats.categorical.log_prob,
        (stats.categorical.Categorical(VECTOR), 3), V, "label has 3 | 0..2"),
    Row("label no integer", stats.categorical.log_prob,
        (stats.categorical.Categorical(VECTOR), 1.0), T, "label has dtype float32 | integers"),
    Row("labels out of range", stats.categorical.fit, (jnp.asarray([0, -1]), 2), V,
        "labels has -1 | 0..1"),
    Row("pseudo-count", lambda y: stats.categorical.fit(y, 5, pseudo_count=-1.0), (Y,), V,
        "pseudo_count is -1.0 | >= 0"),
    Row("no bit", stats.bernoulli.log_prob, (stats.bernoulli.Bernoulli(jnp.asarray(0.0)), 2), V,
        "x has 2 | 0 or 1"),
    Row("float bit", stats.bernoulli.fit, (VECTOR,), T, "x has dtype float32 | 0 or 1"),
    Row("prior of no distribution", stats.bayes, (VECTOR, VECTOR), V,
        "log_prior | expected 1 | log_softmax"),
    Row("hypotheses", stats.bayes, (VECTOR, jnp.ones(2)), V, "(3,) | (2,)"),
    Row("centers of another d", stats.lloyd, (X, jnp.ones((2, 2))), V, "(2, 2) | (c, 3) | (4, 3)"),
    Row("more centers than rows", stats.lloyd, (X, jnp.ones((5, 3))), V,
        "the number of centers is 5 | 1 to 4"),
    Row("kmeans tol", lambda x: stats.kmeans(KEY, x, 2, tol=-1.0), (X,), V, "tol is -1.0 | >= 0"),
    Row("ridge", lambda x: stats.mixture.fit(KEY, x, 2, ridge=-1.0), (X,), V,
        "ridge is -1.0 | >= 0"),
    Row("covariance by name", lambda x: stats.mixture.fit(KEY, x, 2, covariance="full"), (X,), T,
        "covariance is 'full' | mixture.full"),
    Row("mixture of another d", stats.mixture.em, (MIXTURE, jnp.ones((4, 2))), V,
        "(4, 2) | (n, 3) | d = 3"),
    Row("mixture of shapes that do not fit", stats.mixture.log_prob,
        (MIXTURE._replace(log_weights=VECTOR), VECTOR), V, "log_weights (3,) | (2, 3) | (c, d)"),
    Row("mixture, legacy key", lambda key, x: stats.mixture.fit(key, x, 2), (LEGACY, X), T,
        "uint32 | jax.random.key"),
]


def surprise(x):
    return -stats.gaussian.log_prob(UNIT, x)


def unit_draw(key):
    return stats.gaussian.sample(key, UNIT)


LINE = stats.gaussian.Gaussian(jnp.zeros(1), jnp.eye(1))
INFORMATION = [
    *(Row(f"{name} between Gaussians of two d", getattr(stats.gaussian, name), (UNIT, LINE), V,
          "p has d = 3 | q has d = 1") for name in ("kl", "cross_entropy")),
    *(Row(f"{name} between labels of two c", getattr(stats.categorical, name),
          (stats.categorical.Categorical(VECTOR), stats.categorical.Categorical(jnp.ones(2))), V,
          "p has c = 3 | q has c = 2") for name in ("kl", "cross_entropy")),
    Row("logits of a batch", stats.categorical.entropy, (stats.categorical.Categorical(X),), V,
        "params.logits has shape (4, 3) | jax.vmap"),
    Row("no other coordinates", stats.gaussian.mutual_information, (UNIT, (0, 1, 2)), V,
        "the number of indices is 3 | 1 to 2"),
    Row("no coordinates", stats.gaussian.mutual_information, (UNIT, ()), V,
        "the number of indices is 0 | 1 to 2"),
    Row("coordinate out of range", stats.gaussian.mutual_information, (UNIT, (3,)), V,
        "(3,) | 0..2"),
    *(Row(f"{name} of a vector", getattr(stats.joint_table, name), (VECTOR,), V,
          "log_joint has shape (3,) | matrix") for name in stats.joint_table.__all__),
    Row("table of counts", stats.joint_table.mutual_information, (jnp.ones((2, 2), int),), T,
        "log_joint has dtype int32 | float"),
    Row("one draw", lambda f: stats.expectation(f, unit_draw, key=KEY, samples=1), (surprise,), V,
        "samples is 1 | at least 2"),
    Row("draws, legacy key", lambda key: stats.expectation(surprise, unit_draw, key=key), (LEGACY,),
        T, "uint32 | jax.random.key"),
    *(Row(f"{f.__name__} with NaN", f, (HOLED,), V, "x has 1 values | (2, 1)")
      for f in (stats.moments, stats.covariance, stats.neighbors.entropy)),
    Row("moments, weights of another n", stats.moments, (X, jnp.ones(3)), V, "(3,) | (4,)"),
    Row("moments, negative weights", stats.moments, (X, -jnp.ones(4)), V, "weights is | >= 0"),
    Row("moments of two d", lambda x: stats.merge(stats.moments(x), stats.moments(x[:, :2])), (X,),
        V, "a has d = 3 | b has d = 2"),
    Row("neighbors k = n", stats.neighbors.entropy, (X, 4), V, "k is 4 | 1 to 3"),
    Row("neighbors k = 0", stats.neighbors.mutual_information, (X, X, 0), V, "k is 0 | 1 to 3"),
    Row("neighbors of other rows", stats.neighbors.mutual_information, (X, X[:3]), V,
        "x has 4 rows | y has 3"),
    Row("neighbors of y with NaN", stats.neighbors.mutual_information, (X, HOLED), V,
        "y has 1 values | (2, 1)"),
    *(Row(f"{name} of scores that are not square", getattr(stats.mi_bounds, name), (X,), V,
          "(4, 3) | square") for name in stats.mi_bounds.__all__),
    *(Row(f"{name} of one pair", getattr(stats.mi_bounds, name), (jnp.ones((1, 1)),), V,
          "(1, 1) | at least two pairs") for name in stats.mi_bounds.__all__),
]

# fmt: on
MATRIX_FUNCTIONS = {
    "svd": linalg.svd,
    "eigh": linalg.eigh,
    "det": linalg.det,
    "pinv": linalg.pinv,
    "polar": linalg.polar,
    "sqrtm": linalg.sqrtm,
    "rank": linalg.rank,
    "orth": linalg.orth,
    "cond": linalg.cond,
    "one_norm": linalg.one_norm,
    "inf_norm": linalg.inf_norm,
    "frobenius_norm": linalg.frobenius_norm,
    "spectral_norm": linalg.spectral_norm,
    "nuclear_norm": linalg.nuclear_norm,
    "linearly_independent": linalg.linearly_independent,
    "schatten_norm": lambda a: linalg.schatten_norm(a, 3),
    "spectral_sum": lambda a: linalg.spectral_sum(jnp.cosh, a),
    "matrix_function": lambda a: linalg.matrix_function(jnp.cosh, a),
    "singular_subspace": lambda a: linalg.singular_subspace(a, 1),
    "projector": lambda a: linalg.projector(a, 1),
    "low_rank_approximation": lambda a: linalg.low_rank_approximation(a, 1),
    "eigenspace": lambda a: linalg.eigenspace(a, 1),
    "randomized_svd": lambda a: linalg.randomized_svd(KEY, a, 1),
}
OF_SQUARE = ("eigh", "det", "sqrtm", "matrix_function", "eigenspace")
DECOMPOSITIONS = [
    *(
        Row(f"62 {name} of integers", f, (jnp.eye(3, dtype=int),), T, "a has dtype int32 | float")
        for name, f in MATRIX_FUNCTIONS.items()
    ),
    *(
        Row(
            f"62 {name} of complex numbers",
            f,
            (jnp.eye(3) + 0j,),
            T,
            "a has dtype complex64 | float",
        )
        for name, f in MATRIX_FUNCTIONS.items()
    ),
    *(
        Row(
            f"64 {name} of a batch",
            f,
            (jnp.ones((2, 3, 3)),),
            V,
            "a has shape (2, 3, 3) | jax.vmap",
        )
        for name, f in MATRIX_FUNCTIONS.items()
    ),
    *(
        Row(f"58 {name}", MATRIX_FUNCTIONS[name], (MATRIX,), V, "a has shape (3, 2) | square")
        for name in OF_SQUARE
    ),
    *(
        Row(f"61 {name}, k = {k}", lambda a, k, f=f: f(a, k), (MATRIX, k), V, f"k is {k} | 1 to 2")
        for name, f in (
            ("subspace", linalg.singular_subspace),
            ("projector", linalg.projector),
            ("low_rank", linalg.low_rank_approximation),
            ("pca", linalg.pca),
        )
        for k in (0, 3)
    ),
    Row("61 eigenspace", linalg.eigenspace, (jnp.eye(3), 4), V, "k is 4 | 1 to 3"),
    Row("61 randomized_svd", linalg.randomized_svd, (KEY, MATRIX, 3), V, "k is 3 | 1 to 2"),
    Row(
        "randomized_svd, power",
        lambda a: linalg.randomized_svd(KEY, a, 1, power=0),
        (MATRIX,),
        V,
        "power is 0",
    ),
    Row("69 randomized_svd", linalg.randomized_svd, (LEGACY, MATRIX, 1), T, "jax.random.key"),
    Row("norm, p", linalg.norm, (VECTOR, -1), V, "p is -1 | >= 0"),
    Row("norm, p NaN", linalg.norm, (VECTOR, float("nan")), V, "p is nan | >= 0"),
    Row("64 norm", linalg.norm, (MATRIX,), V, "x has shape (3, 2) | vector | jax.vmap"),
    Row("62 norm", linalg.norm, (Y,), T, "x has dtype int32"),
    Row("schatten_norm, p", linalg.schatten_norm, (MATRIX, 0), V, "p is 0 | > 0"),
    Row("rank, NaN", linalg.rank, (NAN_X,), V, "a has 2 values | not finite | (1, 2)"),
    Row("span, NaN", linalg.orth, (NAN_X,), V, "a has 2 values | not finite"),
    Row("rank, tol", linalg.rank, (MATRIX, -1.0), V, "tol is -1.0 | >= 0"),
    Row(
        "least_squares, rows", linalg.least_squares, (MATRIX, jnp.ones(2)), V, "3 rows | 2 entries"
    ),
    Row(
        "least_squares, empty",
        linalg.least_squares,
        (MATRIX[:0], jnp.ones(0)),
        V,
        "a has shape (0, 2) | at least one row",
    ),
    Row(
        "least_squares, columns",
        linalg.least_squares,
        (MATRIX, MATRIX),
        V,
        "b has shape (3, 2) | vector | jax.vmap",
    ),
    Row("ridge, rows", lambda a, b: linalg.ridge(a, b, 1.0), (MATRIX, jnp.ones(2)), V, "3 rows"),
    Row(
        "ridge, penalty",
        lambda a, b: linalg.ridge(a, b, -1.0),
        (MATRIX, VECTOR),
        V,
        "penalty is -1.0 | >= 0",
    ),
    Row(
        "lasso, penalty",
        lambda a, b: linalg.lasso(a, b, -1.0),
        (MATRIX, VECTOR),
        V,
        "penalty is -1.0 | >= 0",
    ),
    Row(
        "lasso, steps",
        lambda a, b: linalg.lasso(a, b, 1.0, max_steps=0),
        (MATRIX, VECTOR),
        V,
        "max_steps is 0",
    ),
    Row("lasso path, penalty", linalg.lasso_path, (MATRIX, VECTOR, -VECTOR), V, "penalty | >= 0"),
    Row(
        "lasso path, scalar",
        linalg.lasso_path,
        (MATRIX, VECTOR, jnp.ones(())),
        V,
        "penalties has shape () | vector",
    ),
    Row("pca, NaN", linalg.pca, (NAN_X, 2), V, "x has 2 values | not finite | (1, 2)"),
    Row("pca, one sample", linalg.pca, (MATRIX[:1], 1), V, "1 samples | at least 2"),
    Row("pca of a batch", linalg.pca, (jnp.ones((2, 3, 3)), 1), V, "x has shape | jax.vmap"),
    Row("pca of integers", linalg.pca, (jnp.ones((3, 3), int), 1), T, "x has dtype int32"),
    Row("pca_randomized, NaN", linalg.pca_randomized, (KEY, NAN_X, 2), V, "x has 2 values"),
    Row("69 pca_randomized", linalg.pca_randomized, (LEGACY, MATRIX, 1), T, "jax.random.key"),
    Row("intrinsic dimension, NaN", stats.intrinsic_dimension, (NAN_X,), V, "x has 2 values"),
    Row(
        "intrinsic dimension, few",
        stats.intrinsic_dimension,
        (MATRIX,),
        V,
        "3 samples | at least 4",
    ),
    Row(
        "least_squares, NaN",
        linalg.least_squares,
        (NAN_X, jnp.ones(len(NAN_X))),
        V,
        "a has 2 values | not finite",
    ),
    Row(
        "least_squares, infinity",
        linalg.least_squares,
        (MATRIX, VECTOR * jnp.inf),
        V,
        "b has 3 values | not finite",
    ),
    *(
        Row(f"{name}, {kind} penalty", solve, (MATRIX, VECTOR, penalty), V, words)
        for name, solve in (("ridge", linalg.ridge), ("lasso", linalg.lasso))
        for kind, penalty, words in (
            ("vector", jnp.ones(2), "penalty has shape (2,) | one number | jax.vmap"),
            ("infinite", jnp.inf, "penalty is inf | finite"),
        )
    ),
    Row(
        "lasso path, infinite penalty",
        linalg.lasso_path,
        (MATRIX, VECTOR, jnp.asarray([jnp.inf, 1.0])),
        V,
        "penalties has 1 values | not finite",
    ),
    Row(
        "pca, transform",
        lambda a, x: linalg.pca(a, 1).transform(x),
        (MATRIX, VECTOR),
        V,
        "x has shape (3,) | (..., 2) | d = 2",
    ),
    Row(
        "pca, inverse transform",
        lambda a, z: linalg.pca(a, 1).inverse_transform(z),
        (MATRIX, MATRIX),
        V,
        "z has shape (3, 2) | (..., 1) | k = 1",
    ),
    Row("norm by name", linalg.norm, (VECTOR, "fro"), T, "p is 'fro' | number"),
    Row("schatten_norm by name", linalg.schatten_norm, (MATRIX, "nuc"), T, "p is 'nuc' | number"),
    *(
        Row(f"{name}, {kind}", call, args, error, words)
        for name, call in (
            ("spectral_sum", linalg.spectral_sum),
            ("matrix_function", linalg.matrix_function),
        )
        for kind, args, error, words in (
            (
                "swapped",
                (jnp.eye(2), jnp.exp),
                T,
                "f is a | expected a function",
            ),
            (
                "of two numbers",
                (lambda s: jnp.stack([s, s]), jnp.eye(2)),
                V,
                "f returns float32 of shape (2,) | one real number",
            ),
            ("of nothing", (lambda s: None, jnp.eye(2)), V, "f returns nothing | single array"),
            ("of a tuple", (lambda s: (s,), jnp.eye(2)), V, "f returns a tuple | single array"),
            ("of two in a tuple", (lambda s: (s, s), jnp.eye(2)), V, "f returns a tuple | one of"),
            ("of a dict", (lambda s: {"s": s}, jnp.eye(2)), V, "f returns a dict | single array"),
            ("of a complex number", (lambda s: s * 1j, jnp.eye(2)), V, "complex64 | one real"),
        )
    ),
    *(
        Row(
            f"spectral_mean, {what}",
            lambda f: operators.spectral_mean(
                operators.spectral_density(
                    operators.from_dense(jnp.eye(2), symmetric=True), key=KEY
                ),
                f,
            ),
            (f,),
            error,
            words,
        )
        for what, f, error, words in (
            ("of a tuple", lambda s: (s, s), V, "f returns a tuple | single array"),
            ("of nothing", lambda s: None, V, "f returns nothing | single array"),
            ("no function", 3.0, T, "f is a float | f(eigenvalue)"),
        )
    ),
    Row("k = True", linalg.pca, (MATRIX, True), T, "k is True | integer"),
    Row(
        "no labels",
        stats.categorical.fit,
        (jnp.zeros(0, int), 2),
        V,
        "labels has shape (0,) | at least one label",
    ),
]

PAIR = jnp.array([0.3, -1.2])
DENSITY = [
    Row(
        "log-det of a map that loses numbers",
        density.value_and_log_det(lambda x: x[:1]),
        (PAIR,),
        V,
        "f maps 2 numbers to 1 | integral over the numbers that are lost",
    ),
    Row(
        "log-det of a map into more numbers",
        density.log_abs_det_jacobian(lambda x: jnp.tile(x, 2)),
        (PAIR,),
        V,
        "f maps 2 numbers to 4 | value_and_log_volume",
    ),
    Row(
        "log-det of a complex point",
        density.value_and_log_det(lambda x: x),
        (PAIR * 1j,),
        T,
        "x is complex64 | real and imaginary part",
    ),
    Row(
        "volume of a map that loses numbers",
        density.value_and_log_volume(lambda x: x[:1]),
        (PAIR,),
        V,
        "f maps 2 numbers to 1 | at least as many",
    ),
    Row(
        "inverse of an even power",
        density.inverse(lambda x: 3 * x**2),
        (PAIR,),
        NotInjectiveError,
        "integer_pow at | test_errors.py | is not injective on (-inf, inf) | pushforward_branches",
    ),
    Row(
        "inverse of a sort",
        density.inverse(jnp.sort),
        (PAIR,),
        NotInjectiveError,
        "sort is not injective",
    ),
    Row(
        "inverse of what keeps one of two numbers",
        density.inverse(lambda x: x[:1] * jnp.ones(2)),
        (PAIR,),
        NotInjectiveError,
        "only 1 of 2 numbers are left after slice at | test_errors.py",
    ),
    Row(
        "inverse of rounding",
        density.inverse(jnp.round),
        (PAIR,),
        NotInjectiveError,
        "singular by its sparsity",
    ),
    Row(
        "inverse of gelu",
        density.inverse(jax.nn.gelu),
        (PAIR,),
        NotInjectiveError,
        "have the same image",
    ),
    Row(
        "inverse of softmax",
        density.inverse(jax.nn.softmax),
        (PAIR,),
        NotInjectiveError,
        "Jacobian is singular at every trial point",
    ),
    Row(
        "inverse of integers",
        density.inverse(lambda k: k + 1, jnp.arange(2)),
        (jnp.arange(2),),
        T,
        "leaf of dtype int32 | only floats can be solved for",
    ),
    Row(
        "inverse at a point of another form",
        density.inverse(lambda x: {"a": x}, PAIR),
        (PAIR,),
        V,
        "y is float32[2] | {'a': 'float32[2]'} | like=",
    ),
    Row(
        "pullback through an absolute value",
        density.pullback(jnp.sum, jnp.abs),
        (PAIR,),
        NotInjectiveError,
        "abs is not injective on (-inf, inf)",
    ),
    Row(
        "samples through a square",
        density.sample_and_log_prob(lambda key: PAIR, jnp.sum, jnp.square),
        (jax.random.key(0),),
        NotInjectiveError,
        "square is not injective",
    ),
    Row(
        "branches without a branch",
        density.pushforward_branches,
        (jnp.sum, jnp.square, []),
        V,
        "inverses is empty",
    ),
]

NET = flows.mlp(4)
FLOW = flows.real_nvp(2, NET)
FLOW_PARAMS = FLOW.init(KEY, VECTOR)
IMAGE = jnp.ones((4, 4, 2))


def conditional(x, context):
    return FLOW.forward(FLOW.init(KEY, x, context), x)


def estimated(make, f, x, **settings):
    return make(f)(x, key=KEY, **settings)


FLOWS = [
    Row("flow of a batch", FLOW.init, (KEY, X), V, "x has shape (4, 3) | (d,) | x[0]"),
    Row("flow of integers", FLOW.init, (KEY, Y), T, "int32 | floats | dequantize"),
    Row("flow forward of a batch", FLOW.forward, (FLOW_PARAMS, X), V, "(4, 3) | jax.vmap"),
    Row(
        "flow of another size",
        FLOW.forward,
        (FLOW_PARAMS, jnp.ones(5)),
        V,
        "2 inputs | expect 1 | forms that were passed to init",
    ),
    Row("flow without its context", conditional, (VECTOR, VECTOR), V, "1 inputs | expect 4"),
    Row(
        "image flow of a vector",
        flows.glow(1, 1, flows.cnn(2)).init,
        (KEY, VECTOR),
        V,
        "(3,) | (height, width, channels)",
    ),
    Row("conv1x1 of a vector", flows.conv1x1().init, (KEY, VECTOR), V, "(height, width"),
    Row("squeeze, odd", flows.squeeze, (jnp.ones((3, 4, 1)),), V, "(3, 4, 1) | even"),
    Row("no layers", flows.real_nvp, (0, NET), V, "times is 0 | at least 1"),
    Row("layers 2.0", flows.planar, (2.0,), T, "times is 2.0 | integer"),
    Row("no levels", flows.glow, (0, 1, NET), V, "levels is 0"),
    Row("width 0", flows.mlp, (4, 0), V, "width 1 is 0 | expected 1"),
    Row("masked width 0", flows.masked_autoregressive, (2, 0), V, "width 0 is 0"),
    Row("one bin", lambda: flows.neural_spline(2, NET, bins=1), (), V, "bins is 1 | 2 to 999"),
    Row("no bound", lambda: flows.neural_spline(2, NET, bound=0.0), (), V, "bound is 0.0 | > 0"),
    Row("standard normal of integers", flows.standard_normal, (Y,), T, "z | int32"),
    Row(
        "standard normal, legacy key",
        flows.sample_standard_normal,
        (LEGACY, VECTOR),
        T,
        "uint32 | jax.random.key",
    ),
    Row("chain of nothing", flows.chain, (), V, "no flows | at least one flow"),
    Row(
        "spline of a vector",
        flows.rational_quadratic,
        (VECTOR, VECTOR, VECTOR, jnp.ones(4)),
        V,
        "x has shape (3,) | scalar | jax.vmap",
    ),
    Row(
        "spline, shapes",
        flows.rational_quadratic,
        (jnp.ones(()), VECTOR, VECTOR, VECTOR),
        V,
        "(3,), (3,) and (3,) | (k + 1,)",
    ),
    Row(
        "spline inverse, shapes",
        flows.rational_quadratic_inverse,
        (jnp.ones(()), VECTOR, jnp.ones(2), VECTOR),
        V,
        "(2,)",
    ),
    Row("ode, no function", lambda v: flows.flow_ode(v, steps=1), (VECTOR,), T, "velocity"),
    Row("ode, no steps", lambda: flows.flow_ode(jnp.multiply, steps=0), (), V, "steps is 0"),
    Row("ode, endless", lambda: flows.flow_ode(jnp.multiply, steps=1, t1=np.inf), (), V, "inf"),
    Row(
        "ode, other form",
        lambda x: flows.flow_ode(lambda t, x: x[:2], steps=1)(x),
        (VECTOR,),
        V,
        "float32[2] | float32[3] | the shape and dtype of x",
    ),
    Row("ode of integers", flows.flow_ode(jnp.multiply, steps=1), (Y,), T, "int32"),
    Row(
        "ode, no probes",
        lambda x: estimated(partial(flows.flow_ode_hutchinson, steps=1), jnp.multiply, x, probes=0),
        (VECTOR,),
        V,
        "probes is 0",
    ),
    Row(
        "lanczos, not square",
        partial(estimated, density.lanczos_log_det, lambda x: x[:2]),
        (VECTOR,),
        V,
        "3 numbers to 2",
    ),
    Row(
        "lanczos, one probe",
        lambda x: estimated(density.lanczos_log_det, jnp.sin, x, probes=1),
        (VECTOR,),
        V,
        "probes is 1 | at least 2",
    ),
    Row(
        "lanczos of integers",
        partial(estimated, density.lanczos_log_det, jnp.sin),
        (Y,),
        T,
        "int32",
    ),
    Row(
        "series, other form",
        partial(estimated, density.power_series_log_det, lambda x: x[:2]),
        (VECTOR,),
        V,
        "the output of g | (2,) | (3,)",
    ),
    Row(
        "series, no terms",
        lambda x: estimated(density.power_series_log_det, jnp.sin, x, terms=0),
        (VECTOR,),
        V,
        "terms is 0",
    ),
    Row(
        "series, one probe",
        lambda x: estimated(density.power_series_log_det, jnp.sin, x, probes=1),
        (VECTOR,),
        V,
        "probes is 1",
    ),
    Row(
        "roulette, p",
        lambda x: estimated(density.roulette_log_det, jnp.sin, x, p=1.0),
        (VECTOR,),
        V,
        "p is 1.0 | below 1",
    ),
    Row(
        "roulette, legacy key",
        lambda x, key: density.roulette_log_det(jnp.sin)(x, key=key),
        (VECTOR, LEGACY),
        T,
        "uint32 | jax.random.key",
    ),
    Row("roulette, no function", density.roulette_log_det, (VECTOR,), T, "g is a"),
]

BASE = [*DATA, *LOSSES, *NN, *TRAIN, *CHECKPOINT]


class Untaught(linen.Module):
    """Nets as newcomers bring them."""

    sows: bool = False

    @linen.compact
    def __call__(self, x):
        if self.sows and not self.is_initializing():
            self.sow("losses", "balance", jnp.mean(x))
        return linen.Dense(3)(x)


class Sower(linen.Module):
    @linen.compact
    def __call__(self, x):
        self.sow("losses", "balance", jnp.mean(x))
        return linen.Dense(3)(x)


class Flagged(linen.Module):
    @linen.compact
    def __call__(self, x, enable_dropout: bool = False):
        return linen.Dropout(0.5, deterministic=not enable_dropout)(x)


class Own:
    """A data set that JAX does not know."""

    def at(self, _):
        return PAIRS


class Tensor:
    """As other frameworks have them."""

    dtype, shape, ndim = "torch.float32", (6, 3), 2


PAIRS = jnp.ones((6, 3)), jnp.zeros(6, jnp.int32)
DENSE = nn.from_linen(linen.Dense(3))
SUPERVISED = train.supervised(DENSE, losses.softmax_cross_entropy)
BY_SGD, BY_ADAM = (train.program(SUPERVISED, f(0.1)) for f in (optax.sgd, optax.adam))
BY_ADAMW = train.program(SUPERVISED, optax.adamw(0.1))
RUN_BY_ADAM = BY_ADAM.init(jax.random.key(0), PAIRS)
MANY_PAIRS = data.Batches(PAIRS, 2)
fit_pairs = partial(train.fit, BY_ADAM, RUN_BY_ADAM, MANY_PAIRS, steps=2)
evaluate_pairs = lambda objective, batch: train.evaluate(objective, RUN_BY_ADAM.variables, batch)


def train_once(loss):
    program = train.program(train.Objective(SUPERVISED.init, loss), optax.sgd(0.1))
    return train.fit(program, program.init(jax.random.key(0), PAIRS), MANY_PAIRS, steps=1)


def weighted(*metrics):
    named = dict(enumerate(metrics))
    return train.supervised(
        DENSE, losses.masked_softmax_cross_entropy, {str(k): f for k, f in named.items()}
    )


# the mistakes of the first hour with training and data
MISTAKES = [
    Row("a module for a Model", train.supervised, (Untaught(), losses.accuracy), T,
        "model is the module Untaught | nn.from_linen(Untaught(...))"),
    Row("supervised, swapped", train.supervised, (losses.accuracy, DENSE), T,
        "model is a function | nn.Model | first argument"),
    Row("program, swapped", train.program, (optax.sgd(0.1), SUPERVISED), T,
        "objective is a | Objective"),
    Row("fit, swapped", partial(train.fit, steps=2), (RUN_BY_ADAM, BY_ADAM, MANY_PAIRS), T,
        "program is a Run | (program, run, data)"),
    Row("evaluate, swapped", train.evaluate, (RUN_BY_ADAM.variables, SUPERVISED, PAIRS), T,
        "objective is a Variables | (objective, variables, data)"),
    Row("predict, swapped", train.predict, (RUN_BY_ADAM.variables, DENSE, PAIRS[0]), T,
        "model is a Variables | nn.Model"),
    Row("Batches, swapped", data.Batches, (2, PAIRS), T, "the data is int | np.asarray"),
    Row("dict batch", evaluate_pairs, (SUPERVISED, {"x": PAIRS[0], "y": PAIRS[1]}), T,
        "dict of ['x', 'y'] | (x, *targets)"),
    Row("own data with at", partial(train.fit, steps=2), (BY_ADAM, RUN_BY_ADAM, Own()), T,
        "data is a Own with at(step) | pytree | register_dataclass"),
    Row("validate, None", lambda: fit_pairs(validate=lambda run: None), (), T,
        "validate returned a NoneType | train.evaluate"),
    Row("validate, lanes", lambda: fit_pairs(validate=lambda run: {"a": jnp.ones(3)}), (), V,
        "validate returned 'a' with shape (3,) | each lane"),
    Row("weights for a metric without", evaluate_pairs,
        (weighted(losses.accuracy), (*PAIRS, jnp.ones(6))), T,
        "accuracy(logits, labels) | 2 targets | lambda"),
    Row("nested metrics", train_once,
        (lambda p, s, b, key=None: (p["bias"].sum(), (s, {"a": {"b": p["bias"].sum()}})),), T,
        "metric 'a' is a dict | name of its own"),
    Row("no loss", lambda: train.fit(
        train.Program(BY_ADAM.init, lambda run, batch: (run, {"x": 1.0})), RUN_BY_ADAM, MANY_PAIRS,
        steps=1), (), T, "no 'loss' | ['x']"),
    Row("a loss that is sown", nn.from_linen(Untaught(sows=True), switches={"sows": None}).apply,
        ({"Dense_0": {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)}}, {}, PAIRS[0], KEY), V,
        "sows into 'losses' | return the value from __call__"),
    Row("a loss that is sown by init", nn.from_linen(Sower()).init, (KEY, PAIRS[0]), V,
        "Sower | self.is_initializing()"),
    Row("scalar second output", train.predict, (nn.Model(DENSE.init, lambda p, s, x, key=None:
        ((x, x.mean()), s)), RUN_BY_ADAM.variables, PAIRS[0]), V,
        "output at path '1' | shape () | 6 examples"),
    Row("evaluate a stream", evaluate_pairs,
        (SUPERVISED, data.Stream(lambda step: iter([PAIRS]))), T, "data is a Stream | one by one"),
    Row("adam without parentheses", train.program, (SUPERVISED, optax.adam), T,
        "the function optax.adam | optax.adam(1e-3)"),
    Row("adam's run for adamw", partial(train.fit, steps=2), (BY_ADAMW, RUN_BY_ADAM, MANY_PAIRS), V,
        "run differs | 'opt_state' | a tuple of 3 | a tuple of 2"),
    Row("adam's run for sgd", partial(train.fit, steps=2), (BY_SGD, RUN_BY_ADAM, MANY_PAIRS), V,
        "run differs | 'opt_state/0/count'"),
    Row("truncated IDX", data.idx, (Path("short.idx"),), DataError, "bytes; expected | shape (4,)"),
    Row("tensors", lambda: data.Batches((Tensor(), PAIRS[1]), 2), (), T,
        "'0' | Tensor | np.asarray"),
    Row("key 0", lambda: data.Batches(PAIRS, 2, key=0), (), T, "key has 0 | jax.random.key"),
    Row("label out of range in evaluate", evaluate_pairs,
        (SUPERVISED, (PAIRS[0], jnp.arange(6))), V, "example 3 | label 3 | 0 to 2"),
    Row("weights that are all zero", evaluate_pairs, (weighted(), (*PAIRS, jnp.zeros(6))), V,
        "weights of 'loss' are 0 for all 6 examples | mask"),
    Row("a flag of unknown sense", nn.from_linen, (Flagged(),), T,
        "boolean argument 'enable_dropout' | switches={'enable_dropout': True}"),
    Row("switches, a text", lambda net: nn.from_linen(net, switches={"enable_dropout": "on"}),
        (Flagged(),), T, "'on' for 'enable_dropout' | True or False"),
    Row("a callback alone", lambda: fit_pairs(callbacks=train.early_stop("loss", patience=1)),
        (), T, "a single callback | callbacks=[...]"),
    Row("a callback that is a number", lambda: fit_pairs(callbacks=[3]), (), T,
        "callback is a int"),
    Row("metrics, a list", train.supervised, (DENSE, losses.accuracy, [losses.accuracy]), T,
        "metrics is a list | dict"),
    Row("metrics, a number", train.supervised, (DENSE, losses.accuracy, {"a": 3}), T,
        "metric 'a' is a int | train.Statistic"),
    Row("classes, numbers", lambda path: data.image_folder(path, classes=[0, 1]),
        (Path("classes"),), T, "classes is [0, 1] | list of names"),
    Row("header, a number", lambda path: data.csv(path, header=3), (Path("text.csv"),), T,
        "header is 3 | True, False, or a list of names"),
    Row("npy for npz", data.npy, (Path("two.npz"),), DataError, "['images', 'labels'] | data.npz"),
]  # fmt: skip

ROWS = [
    *MISTAKES,
    *BASE,
    *TRANSFORMED,
    *LINALG,
    *DECOMPOSITIONS,
    *CURVATURE,
    *AUTODIFF,
    *STATS,
    *INFORMATION,
    *DENSITY,
    *FLOWS,
    *VIZ,
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A working directory in which nothing may appear; types are checked by nobody."""
    monkeypatch.chdir(tmp_path)
    jaxtyping.config.update("jaxtyping_disable", True)
    yield tmp_path
    jaxtyping.config.update("jaxtyping_disable", False)


def content(tree) -> list[bytes]:
    """The bytes of all arrays, typed keys as their words."""

    def words(x):
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x).tobytes()

    return [words(x) for x in jax.tree.leaves(tree) if hasattr(x, "dtype") and x.dtype != "O"]


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_bad_input_is_refused_by_name_and_nothing_is_touched(row, prepared, empty):
    args = [prepared / arg if isinstance(arg, Path) else arg for arg in row.args]
    arrays, stored = content(args), files(prepared)
    with pytest.raises(row.error) as refused:
        row.call(*args)
    message = "\n".join([str(refused.value), *getattr(refused.value, "__notes__", ())])
    assert refused.type is row.error
    assert [word for word in row.words.split(" | ") if word not in message] == [], message
    assert content(args) == arrays
    assert files(prepared) == stored
    assert list(empty.iterdir()) == []


def test_no_two_rows_have_one_name():
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))


def test_a_matrix_with_nan_ends_and_says_so():
    broken = operators.from_dense(jnp.eye(3).at[0, 0].set(jnp.nan), symmetric=True)
    pairs = operators.eigsh(broken, 2, key=KEY, max_matvecs=30)
    assert not pairs.converged.any()
    assert jnp.isnan(operators.trace(broken, key=KEY).value)
