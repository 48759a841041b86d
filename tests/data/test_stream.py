"""Streams begin at any step, and what is read in parts is what is read whole."""

import itertools
import json
import sys

import grain
import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from funcdl import data, train

X = np.random.default_rng(0).normal(size=(23, 3))


def take(stream, start, count):
    stream.seek(start)
    return list(itertools.islice(stream, count))


def same(batches, others):
    assert len(batches) == len(others) > 0
    for a, b in zip(batches, others):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


def test_a_pass_starts_where_seek_said_each_time_again():
    stream = data.Stream(lambda step: (np.full(2, i) for i in itertools.count(step)))
    stream.seek(3)
    for _ in range(2):
        assert [batch[0] for batch in itertools.islice(stream, 3)] == [3, 4, 5]
    assert stream.form.shape == (2,)
    with pytest.raises(ValueError, match="step is -1"):
        stream.seek(-1)


@pytest.mark.parametrize(
    ("module", "extra", "read"),
    [
        ("grain", "grain", lambda folder: data.from_grain(None)),
        ("pyarrow", "parquet", lambda folder: data.parquet(folder / "a.parquet")),
        ("PIL", "images", data.image_folder),
    ],
)
def test_without_its_library_a_reader_names_the_extra(module, extra, read, tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()
    for name in ("cat/a.png", "a.parquet"):
        (tmp_path / name).write_text("x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "funcdl\[{extra}\]"'):
        read(tmp_path)


# ---- grain


def elements(i):
    return {"x": np.full(2, i, np.float32), "y": np.int32(i)}


def mapped():
    return grain.MapDataset.range(20).seed(0).shuffle().map(elements).repeat().batch(3)


def noisy(i, rng):
    return np.asarray([i, rng.integers(1000)], np.int32)


def iterated():
    return grain.MapDataset.range(20).seed(0).random_map(noisy).to_iter_dataset().batch(3)


def loaded():
    sampler = grain.samplers.IndexSampler(20, shuffle=True, seed=0, num_epochs=None)
    batch = [grain.transforms.Batch(3, drop_remainder=True)]
    return grain.DataLoader(data_source=range(20), sampler=sampler, operations=batch)


@pytest.mark.parametrize("make", [mapped, iterated, loaded])
@pytest.mark.parametrize("noted", [False, True])
def test_a_grain_data_set_is_at_any_step_what_it_is_when_read_from_the_start(make, noted, tmp_path):
    straight = list(itertools.islice(make(), 6))
    folder = tmp_path / "positions" if noted else None
    for start in (0, 1, 4, 2):
        stream = data.from_grain(make(), positions=folder, every=2)
        same(take(stream, start, 6 - start), straight[start:])
        same(take(stream, 1, 2), straight[1:3])
    if noted:
        names = [] if make is mapped else ["2.json", "4.json"]
        found = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
        assert found == names


def test_from_a_position_that_was_noted_nothing_is_read_again(tmp_path):
    read = []

    def count(i):
        read.append(i)
        return i

    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    make = lambda: grain.MapDataset.range(40).map(count).to_iter_dataset(options).batch(2)
    take(data.from_grain(make(), positions=tmp_path, every=5), 0, 16)
    read.clear()
    (batch,) = take(data.from_grain(make(), positions=tmp_path, every=5), 16, 1)
    assert batch.tolist() == [32, 33]
    assert read == [30, 31, 32, 33]
    assert json.loads((tmp_path / "15.json").read_text())


def test_the_position_of_another_data_set_is_refused(tmp_path):
    (tmp_path / "2.json").write_text('{"what": 1}')
    stream = data.from_grain(iterated(), positions=tmp_path)
    with pytest.raises(data.DataError, match=r"2\.json is not a position .* empty the folder"):
        take(stream, 3, 1)


def odd(i):
    return i % 2 == 1


class Above(grain.transforms.Filter):
    def __init__(self, least):
        self.least = least

    def filter(self, i):
        return i >= self.least


def built(keep=odd, change=lambda i: i + 1, seed=0, n=90, size=3):
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    records = grain.MapDataset.range(n).seed(seed).shuffle().map(change).filter(keep)
    return records.to_iter_dataset(options).batch(size)


def sampled(keep=odd, change=lambda i: i + 1, seed=0, n=90, size=3):
    class Change(grain.transforms.Map):
        def map(self, i):
            return change(i)

    class Keep(grain.transforms.Filter):
        def filter(self, i):
            return keep(i)

    sampler = grain.samplers.IndexSampler(n, shuffle=True, seed=seed, num_epochs=1)
    operations = [Change(), Keep(), grain.transforms.Batch(size)]
    return grain.DataLoader(data_source=range(n), sampler=sampler, operations=operations)


def all_but(numbers):
    return lambda i: i % 2 == 1 and i not in numbers


CHANGES = {
    "filter": {"keep": lambda i: i % 2 == 0},
    "a filter of the same name": {"keep": lambda i: i % 2 == 1 and i != 89},
    "what a filter captures": {"keep": all_but({1})},
    "a setting of a filter": {"keep": Above(2)},
    "map": {"change": lambda i: i + 3},
    "seed": {"seed": 1},
    "source": {"n": 88},
    "size of the batches": {"size": 4},
}
KEPT = {
    "what a filter captures": {"keep": all_but({3})},
    "a setting of a filter": {"keep": Above(1)},
}


@pytest.mark.parametrize("make", [built, sampled])
@pytest.mark.parametrize("change", CHANGES)
def test_a_position_is_refused_once_the_data_set_has_changed(make, change, tmp_path):
    if make is sampled and change == "a setting of a filter":
        pytest.skip("the loader takes functions here")
    before = KEPT.get(change, {})
    expected = take(data.from_grain(make(**before), positions=tmp_path, every=4), 0, 12)
    same(take(data.from_grain(make(**before), positions=tmp_path, every=4), 9, 3), expected[9:])
    for start in (0, 9):  # also from the start, or new positions would lie among old ones
        stream = data.from_grain(make(**CHANGES[change]), positions=tmp_path, every=4)
        with pytest.raises(
            data.DataError, match=r"\d\.json is not a position of this .* empty the"
        ):
            take(stream, start, 1)
    other = data.from_grain(make(**CHANGES[change]), positions=tmp_path / "other", every=4)
    take(other, 9, 1)


def test_a_position_is_refused_once_the_records_themselves_have_changed(tmp_path):
    records, file = np.arange(90), tmp_path / "records.npy"

    def built(records):
        np.save(file, records)
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        read = grain.MapDataset.range(90).map(lambda i: np.load(file)[i])
        return read.to_iter_dataset(options).batch(3)

    take(data.from_grain(built(records), positions=tmp_path, every=4), 0, 12)
    take(data.from_grain(built(records), positions=tmp_path, every=4), 9, 1)
    stream = data.from_grain(built(records + (records == 24)), positions=tmp_path, every=4)
    with pytest.raises(data.DataError, match=r"8\.json .* the batch at this step"):
        take(stream, 9, 1)


def test_a_data_set_that_was_read_keeps_its_positions(tmp_path):
    for made in (built(), sampled(), iterated()):
        folder = tmp_path / str(id(made))
        expected = take(data.from_grain(made, positions=folder, every=2), 0, 5)
        same(take(data.from_grain(made, positions=folder, every=2), 3, 2), expected[3:])


def test_a_filtered_map_data_set_has_no_steps():
    sparse = grain.MapDataset.range(6).filter(lambda i: i != 2)
    with pytest.raises(data.DataError, match=r"no element 2.*to_iter_dataset"):
        list(data.from_grain(sparse))
    assert len(list(data.from_grain(sparse.to_iter_dataset()))) == 5


# ---- Parquet


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    columns = {"a": X[:, 0], "b": X[:, 1].astype(np.float32), "c": np.arange(23) % 2 == 0}
    whole = pa.table(columns | {"name": [str(i) for i in range(23)]})
    pq.write_table(whole, folder / "whole.parquet", row_group_size=5)
    (folder / "parts").mkdir()
    for i, (start, stop) in enumerate([(0, 9), (9, 9), (9, 23)]):
        pq.write_table(
            whole.slice(start, stop - start), folder / "parts" / f"{i}.parquet", row_group_size=4
        )
    return folder


def expected():
    return np.stack([X[:, 1].astype(np.float32).astype(float), np.arange(23) % 2 == 0], axis=1)


@pytest.mark.parametrize("name", ["whole.parquet", "parts"])
def test_a_table_comes_back_and_its_stream_runs_on_over_the_end(table, name):
    read = data.parquet(table / name, "b", "c")
    np.testing.assert_array_equal(read.x, expected())
    assert read.names == ("b", "c")
    resident = data.Batches(read.x.astype(np.float32), 4)
    stream = data.parquet_stream(
        table / name, "b", "c", size=4, transform=lambda rows: rows.astype(np.float32)
    )
    for start in (0, 1, 5, 13):
        same(take(stream, start, 14), [resident.at(step) for step in range(start, start + 14)])


def test_a_shuffled_stream_has_every_row_once_an_epoch_and_is_at_any_step_the_same(table):
    def make(key):
        return data.parquet_stream(table / "whole.parquet", "a", size=23, key=jax.random.key(key))

    epochs = take(make(0), 0, 3)
    for rows in epochs:
        np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(X[:, 0]))
    assert (epochs[0] != epochs[1]).any()
    assert (take(make(1), 0, 1)[0] != epochs[0]).any()
    rows = [int(np.flatnonzero(X[:, 0] == value)[0]) for value in epochs[0][:, 0]]
    groups = [list(group) for _, group in itertools.groupby(rows, lambda row: row // 5)]
    assert len(groups) == 5  # each row group stays together
    assert groups != sorted(groups)
    assert any(group != sorted(group) for group in groups)
    small = data.parquet_stream(table / "whole.parquet", "a", size=4, key=jax.random.key(0))
    straight = take(small, 0, 17)
    np.testing.assert_array_equal(np.concatenate(straight)[:23], epochs[0])
    same(take(small, 9, 8), straight[9:])


def test_seeking_reads_no_row_group_before(table, monkeypatch):
    read, original = [], pq.ParquetFile.read_row_group

    def count(self, i, **options):
        read.append(i)
        return original(self, i, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", count)
    take(data.parquet_stream(table / "whole.parquet", "a", size=4), 4, 1)
    assert read == [3]


@pytest.mark.parametrize("place", range(4))
def test_a_damaged_page_is_noticed_by_its_checksum(tmp_path, place):
    path = tmp_path / "x.parquet"
    x = np.random.default_rng(0).normal(size=(4000, 2))
    options = {"write_page_checksum": True, "compression": None, "use_dictionary": False}
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1]}), path, row_group_size=1000, **options)
    raw = bytearray(path.read_bytes())
    needle = x[1000 * place + 500, place % 2].tobytes()
    at = raw.index(needle)
    raw[at : at + 8] = bytes(b ^ 0xFF for b in needle)
    path.write_bytes(raw)
    with pytest.raises(data.DataError, match=rf"row group {place}, .* damaged"):
        data.parquet(path)
    with pytest.raises(data.DataError, match=rf"row group {place}, .* damaged"):
        take(data.parquet_stream(path, size=500), 0, 8)


@pytest.mark.parametrize("late", [0, 1, 2])
def test_parts_with_other_columns_are_rejected(tmp_path, late):
    for i in range(3):
        columns = {"a": [1.0 + i], "b": [2.0 + i]} | ({"c": [3.0]} if i == late else {})
        pq.write_table(pa.table(columns), tmp_path / f"{i}.parquet")
    words = r"2\.parquet has a column 'c'" if late == 2 else "column 'c'"
    for read in (data.parquet, lambda path, *c: data.parquet_stream(path, *c, size=1)):
        with pytest.raises(ValueError, match=words):
            read(tmp_path)
        read(tmp_path, "b", "a")
    np.testing.assert_array_equal(data.parquet(tmp_path, "b", "a").x[:, 0], [2, 3, 4])


@pytest.mark.parametrize(
    ("kind", "number"), [("int64", 2**53 + 1), ("int64", -(2**62) - 1), ("uint64", 2**64 - 1)]
)
def test_integers_of_a_table_that_float64_rounds_are_rejected(tmp_path, kind, number):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": pa.array([1, 2**53, number], kind), "x": [1, 2, 3]}), path)
    words = rf"row 2, column 'id' is {number}, an integer that float64"
    with pytest.raises(data.DataError, match=words):
        data.parquet(path)
    with pytest.raises(data.DataError, match=words):
        take(data.parquet_stream(path, "id", size=3), 0, 1)
    assert data.parquet(path, "x").x.tolist() == [[1], [2], [3]]


# ---- images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0).integers
    for label, name in enumerate(["cat", "dog", "eel"]):
        (folder / name).mkdir()
        for i in range(label + 2):
            pixels = draw(0, 256, (4, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
            np.save(folder / f".{name}{i}.npy", pixels)
    (folder / "cat" / ".hidden").write_text("")
    (folder / "README.txt").write_text("")
    return folder


def test_a_folder_of_images_comes_back_to_the_pixel_and_its_stream_is_batches_of_it(folder):
    x, labels, classes = data.image_folder(folder)
    assert classes == ("cat", "dog", "eel")
    assert labels.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert labels.dtype == np.int32
    names = [(name, i) for n, name in enumerate(classes) for i in range(n + 2)]
    pixels = [np.load(folder / f".{name}{i}.npy") for name, i in names]
    np.testing.assert_array_equal(x, pixels)
    for key in (None, jax.random.key(3)):
        resident = data.Batches((x, labels), 4, key=key)
        stream = data.image_stream(folder, size=4, key=key)
        for start in (0, 4):
            same(take(stream, start, 3), [resident.at(step) for step in range(start, start + 3)])
    floats, _ = next(iter(data.image_stream(folder, size=2, transform=data.unit_range)))
    np.testing.assert_allclose(floats, x[:2] / np.float32(255), rtol=2e-7)


def test_unit_range_has_the_same_bits_on_the_host_and_on_the_device():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (host,) = data.unit_range((pixels,))
    resident = data.Batches((pixels,), 4, transform=data.unit_range)
    device = np.concatenate([jax.jit(data.Batches.at)(resident, step)[0] for step in range(4)])
    assert host.dtype == device.dtype == np.float32
    assert host.tobytes() == device.tobytes() == np.asarray(data.unit_range((pixels,))[0]).tobytes()
    assert host.min() == 0
    assert host.max() == 1


@pytest.fixture
def parts(folder, tmp_path):
    """Two folders of images: one has no dog, the other one has a class that is new."""
    for part, names in {"test": ["cat", "eel"], "new": ["cat", "ant"]}.items():
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            pixels = np.full((4, 6, 3), len(name), np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / name / "0.png")
    return tmp_path


def test_a_label_means_the_same_in_every_part(folder, parts):
    known = data.image_folder(folder).classes
    assert data.image_folder(parts / "test").labels.tolist() == [0, 1]
    for classes in (known, list(known), json.loads(json.dumps(known))):
        images = data.image_folder(parts / "test", classes=classes)
        assert images.classes == known
        assert images.labels.tolist() == [0, 2]
    stream = data.image_stream(parts / "test", size=2, classes=known)
    assert next(iter(stream))[1].tolist() == [0, 2]
    turned = data.image_folder(parts / "test", classes=["eel", "dog", "cat"])
    assert turned.labels.tolist() == [0, 2]  # the images follow the labels
    for read in (data.image_folder, lambda path, **more: data.image_stream(path, size=1, **more)):
        with pytest.raises(data.DataError, match=r"new/ant is not a folder of one of the classes"):
            read(parts / "new", classes=known)
        with pytest.raises(ValueError, match="'cat' 2 times"):
            read(parts / "test", classes=["cat", "cat"])
        with pytest.raises(TypeError, match="expected a list of names"):
            read(parts / "test", classes="cat")


def test_a_run_keeps_its_classes(folder, parts):
    known = data.image_folder(folder).classes
    run = {"w": np.ones(1, np.float32)}
    train.save(parts / "run", run, step=1, facts={"classes": known})
    images = data.image_folder(parts / "test", classes=train.read_facts(parts / "run")["classes"])
    assert images.labels.tolist() == [0, 2]
    other = data.image_folder(parts / "test").classes
    with pytest.raises(ValueError, match=r"another run \(classes"):
        train.save(parts / "run", run, step=2, facts={"classes": other})


def test_the_iterator_that_gives_the_form_is_closed():
    closed = []

    def read(step):
        try:
            yield np.ones(3)
        finally:
            closed.append(step)

    assert data.Stream(read).form.shape == (3,)
    assert closed == [0]
    assert data.Stream(lambda step: [np.ones(2)]).form.shape == (2,)
    with pytest.raises(ValueError, match="no batch from step 0 on"):
        _ = data.Stream(lambda step: iter([])).form


def test_images_are_resized_converted_and_turned_where_that_is_asked(tmp_path):
    (tmp_path / "one").mkdir()
    gray = np.arange(24, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(gray).save(tmp_path / "one" / "a.png")
    turned = Image.fromarray(gray)
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise
    turned.save(tmp_path / "one" / "b.png", exif=exif)
    with pytest.raises(data.DataError, match=r"b\.png is 6 x 4 x 1 .*a\.png is 4 x 6 x 1"):
        data.image_folder(tmp_path)
    x, *_ = data.image_folder(tmp_path, resize=(2, 3), mode="RGB")
    assert x.shape == (2, 2, 3, 3)
    (tmp_path / "one" / "a.png").unlink()
    x, *_ = data.image_folder(tmp_path)
    np.testing.assert_array_equal(x[0, ..., 0], np.rot90(gray, -1))
