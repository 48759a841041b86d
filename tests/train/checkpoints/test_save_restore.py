"""Checkpoints: what comes back is what was saved, or a refusal that says where."""

import errno
import functools
import hashlib
import json
import logging
import shutil
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcdl import _environment
from funcdl.train._checkpoints import manifest as _manifest
from funcdl.train._checkpoints import save_restore as _checkpoint
from funcdl.train._checkpoints import step_folder
from funcdl.train._checkpoints.manifest import CheckpointError
from funcdl.train._checkpoints.save_restore import latest, read_facts, restore, save

LOGGER = "funcdl"


class Run(NamedTuple):
    params: dict
    opt_state: tuple
    step: jax.Array
    key: jax.Array


def small_run(step):
    params = {"dense": {"kernel": jnp.arange(1024.0).reshape(32, 32) + step, "bias": jnp.ones(4)}}
    return Run(params, optax.adam(0.1).init(params), jnp.int32(step), jax.random.key(0))


def everything():
    """All that a store is known to lose: rare dtypes, empty leaves, int keys, typed keys."""
    rare = ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4", "int2", "uint2"]
    plain = ["bool", "int8", "uint8", "int16", "uint32", "float32", "complex64"]
    numbers = jnp.array([0, 1, 1])
    params = {name: numbers.astype(name) for name in rare + plain}
    return {
        "run": small_run(3),
        "dtypes": params,
        "ints": {0: jnp.ones(2), 10: jnp.zeros(3), 2: [jnp.int32(1), (jnp.ones(1),)]},
        "odd names": {"a.b": jnp.ones(1), "é ü": jnp.ones(2), "": jnp.ones(3), "%2F": jnp.ones(4)},
        "empty": [jnp.zeros((0, 3)), jnp.zeros((2, 0), "int4"), jnp.zeros(0, "bfloat16")],
        "special": jnp.array([jnp.nan, -0.0, jnp.inf, 1e-45]),
        "numpy": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "scalar": np.float32(2.5),
        "weak": jnp.full((2,), 0.5),
        "keys": jax.random.split(jax.random.key(5), (2, 3)),
        "rbg": jax.random.key(1, impl="rbg"),
        "nothing": None,
        "no_leaf": {},
    }


def bits(leaf):
    if _manifest.is_key(leaf):
        return str(jax.random.key_impl(leaf)), bits(jax.random.key_data(leaf))
    weak = bool(getattr(leaf, "weak_type", False))
    return leaf.shape, str(leaf.dtype), weak, np.asarray(leaf).tobytes()


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for path, x, y in zip(_manifest.paths(a), jax.tree.leaves(a), jax.tree.leaves(b)):
        assert bits(x) == bits(y), path


def abstract(run):
    return jax.eval_shape(lambda: run)


@functools.cache
def like():
    return abstract(small_run(0))


def resign(folder, change):
    """Change a manifest so that its own digest holds, as no accident would."""
    file = folder / "manifest.json"
    content = json.loads(file.read_text())
    content.pop("sha256")
    change(content)
    content["sha256"] = hashlib.sha256(_manifest._text(content).encode()).hexdigest()
    file.write_text(_manifest._text(content))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with the steps 1 and 2, saved once; tests copy it."""
    folder = tmp_path_factory.mktemp("two")
    save(folder, small_run(1), facts={"seed": 0})
    save(folder, small_run(2), facts={"seed": 0})
    return folder


@pytest.fixture
def runs(two, tmp_path):
    return shutil.copytree(two, tmp_path / "runs")


def test_a_run_with_every_difficult_leaf_comes_back_bit_for_bit(tmp_path):
    run = everything()
    save(tmp_path, run, step=0)
    host = {"numpy": run["numpy"], "scalar": run["scalar"]}
    assert_same(restore(tmp_path, abstract({**run, **dict.fromkeys(host, 0)}) | host), run)
    assert_same(restore(tmp_path, run), run)
    assert latest(tmp_path) == 0


@pytest.mark.parametrize("run", [{}, jnp.ones(3), {"empty": jnp.zeros(0)}, [jnp.int32(1)]])
def test_degenerate_trees_come_back(tmp_path, run):
    save(tmp_path, run, step=4)
    assert_same(restore(tmp_path, run), run)


def test_float64_comes_back_and_is_not_cast_without_x64(tmp_path, x64):
    run = {"w": jnp.array([1 / 3])}
    save(tmp_path, run, step=0)
    assert_same(restore(tmp_path, run), run)
    with jax.enable_x64(False), pytest.raises(CheckpointError, match=r"float64, .* float32"):
        restore(tmp_path, {"w": jnp.ones(1)})


def test_a_relative_folder_is_as_good_as_an_absolute_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert save("runs", small_run(1)).as_posix() == "runs/1"
    assert_same(restore("runs", abstract(small_run(1))), small_run(1))


def test_restored_arrays_are_free_to_move_and_may_be_donated(runs):
    run = restore(runs, like())
    assert not run.params["dense"]["kernel"].committed
    after = jax.jit(lambda x: x + 1, donate_argnums=0)(run.params["dense"]["bias"])
    assert after.tolist() == [2.0] * 4


def test_shardings_of_like_are_kept(runs):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("x"))
    bias = jax.ShapeDtypeStruct((4,), "float32", sharding=sharding)
    run = restore(runs, changed(like(), bias=bias))
    assert run.params["dense"]["bias"].sharding == sharding
    assert not run.params["dense"]["kernel"].committed


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (1.5, "leaf a is a float"),
        ("text", "leaf a is a str"),
        (np.ones(2), "float64"),
        (np.array(["x"]), "<U1"),
        (np.array([None]), "object"),
    ],
)
def test_what_is_no_array_of_jax_is_refused_before_anything_is_written(tmp_path, leaf, words):
    with pytest.raises(TypeError, match=words):
        save(tmp_path / "runs", {"a": leaf}, step=0)
    assert not (tmp_path / "runs").exists()


def test_two_leaves_with_one_path_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two leaves have the path 'a/b'"):
        save(tmp_path, {"a/b": jnp.ones(1), "a": {"b": jnp.zeros(1)}}, step=0)


# ---- damage: files x what happens to them


def flip(at):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[int(at * (len(data) - 1))] ^= 0x20
        path.write_bytes(data)

    return damage


DAMAGES = {
    "first byte flipped": flip(0),
    "byte at 1/4 flipped": flip(0.25),
    "middle byte flipped": flip(0.5),
    "byte at 3/4 flipped": flip(0.75),
    "last byte flipped": flip(1),
    "last byte cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "half cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "garbage appended": lambda path: path.write_bytes(path.read_bytes() + b"garbage"),
    "removed": lambda path: path.unlink(),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}
FILES = [
    "/manifest.json",
    "/_CHECKPOINT_METADATA",
    "/commit_success.txt",
    "/state/_METADATA",
    "/state/manifest.ocdbt",
    "/ocdbt.process_0/manifest.ocdbt",
    "blob 0",  # orbax draws their names at random
    "blob 1",
]
CASES = [(name, damage) for name in FILES for damage in DAMAGES]
CASES += [("/orbax.checkpoint", "garbage appended"), ("/orbax.checkpoint", "removed")]  # is empty


def find(step, name):
    files = [path for path in sorted(step.rglob("*")) if path.is_file()]
    if name.startswith("blob"):
        blobs = [path for path in files if path.parent.name == "d"]
        return sorted(blobs, key=lambda path: -path.stat().st_size)[int(name[-1])]
    return next(path for path in files if path.as_posix().endswith(name))


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_every_damage_is_refused_by_name_and_the_older_one_is_used(runs, name, damage):
    path = find(runs / "2", name)
    DAMAGES[damage](path)
    with pytest.raises(CheckpointError) as refusal:
        restore(runs, like(), step=2)
    assert str(runs / "2") in str(refusal.value)
    assert path.name in str(refusal.value)
    assert latest(runs) == 1
    assert_same(restore(runs, like()), small_run(1))


def test_every_file_of_a_checkpoint_is_among_the_damaged_ones(two):
    files = {path for path in (two / "2").rglob("*") if path.is_file()}
    covered = {find(two / "2", name) for name, _ in CASES}
    rest = {path for path in files - covered if path.parent.name != "d"}
    assert rest == set()


def test_a_flipped_number_names_its_leaf(runs):
    """No file hash could say this: the bytes of the kernel lie among those of other leaves."""
    needle = np.asarray(small_run(2).params["dense"]["kernel"]).tobytes()
    files = [path for path in (runs / "2").rglob("*") if path.is_file()]
    (path,) = [path for path in files if needle in path.read_bytes()]
    path.write_bytes(path.read_bytes().replace(needle, needle[:20] + b"\x7f" + needle[21:]))
    with pytest.raises(CheckpointError, match="leaf params/dense/kernel is damaged"):
        restore(runs, like(), step=2)


@pytest.mark.parametrize("byte", range(8))
def test_no_byte_of_the_manifest_can_change(runs, byte):
    """One byte of each eighth and one bit of each byte, whatever it means in JSON."""
    file = runs / "2" / "manifest.json"
    data = bytearray(file.read_bytes())
    rng = np.random.default_rng(byte)
    for at in rng.integers(len(data) * byte // 8, len(data) * (byte + 1) // 8, 40):
        damaged = data.copy()
        damaged[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            restore(runs, like(), step=2)


EDITS = {
    "dtype": lambda m: m["leaves"][0].update(dtype="bfloat16"),
    "shape": lambda m: m["leaves"][0].update(shape=[2, 2]),
    "missing leaf": lambda m: m["leaves"].pop(0),
    "extra leaf": lambda m: m["leaves"].append({**m["leaves"][0], "path": "params/dense/bias2"}),
    "renamed leaf": lambda m: m["leaves"][0].update(path="params/dense/bias2"),
    "hash": lambda m: m["leaves"][0].update(sha256="0" * 64),
    "key implementation": lambda m: m["leaves"][-1].update(key_impl="rbg", dtype="key<rbg>"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_forged_manifest_is_refused_naming_the_leaf(runs, edit):
    resign(runs / "2", EDITS[edit])
    leaf = "key" if edit == "key implementation" else "params/dense/bias"
    with pytest.raises(CheckpointError, match=f"leaf {leaf}"):
        restore(runs, like(), step=2)
    assert_same(restore(runs, like()), small_run(1))


def test_a_newer_format_is_refused(runs):
    resign(runs / "2", lambda m: m.update(format=2))
    with pytest.raises(CheckpointError, match="format 2, newer"):
        restore(runs, like(), step=2)
    assert latest(runs) == 1


# ---- what does not fit


def changed(run, **leaves):
    return run._replace(params={"dense": {**run.params["dense"], **leaves}})


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (changed(small_run(2), bias=jnp.ones(4, "bfloat16")), ["bias", "float32", "bfloat16"]),
        (changed(small_run(2), bias=jnp.ones(5)), ["bias", "(4,)", "(5,)"]),
        (changed(small_run(2), extra=jnp.ones(5)), ["params/dense/extra", "not saved"]),
        (small_run(2)._replace(params={}), ["params/dense/bias", "no such leaf"]),
        (small_run(2)._replace(key=jax.random.key(0, impl="rbg")), ["key<fry>", "key<rbg>"]),
        (small_run(2)._replace(key=jax.random.PRNGKey(0)), ["key<fry>", "uint32"]),
    ],
)
def test_a_run_of_another_program_is_refused_with_both_sides(runs, other, words):
    with pytest.raises(CheckpointError) as refusal:
        restore(runs, abstract(other))
    assert all(word in str(refusal.value) for word in [*words, str(runs / "2"), str(runs / "1")])


def test_nothing_is_loaded_that_does_not_fit(runs, monkeypatch):
    monkeypatch.setattr(step_folder, "_read", lambda *_: pytest.fail("orbax was asked to cast"))
    with pytest.raises(CheckpointError):
        restore(runs, abstract(changed(small_run(2), bias=jnp.ones(4, "float16"))), step=2)


def test_a_weak_type_comes_back_as_it_was_saved_whatever_like_says(tmp_path):
    save(tmp_path, {"a": jnp.full((2,), 0.5), "b": jnp.ones(2)}, step=0)
    got = restore(tmp_path, {"a": jnp.ones(2), "b": jnp.full((2,), 0.5)})
    assert (got["a"].weak_type, got["b"].weak_type) == (True, False)


# ---- folders


def test_a_missing_and_an_empty_folder_are_not_found(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(folder)):
            restore(folder, {})
        assert latest(folder) is None
        with pytest.raises(FileNotFoundError):
            read_facts(folder)


def test_a_step_that_is_not_there_is_not_found_and_the_others_are_named(runs):
    with pytest.raises(FileNotFoundError, match=r"\[1, 2\], not 7"):
        restore(runs, like(), step=7)


def test_unfinished_saves_are_listed_then_removed_by_the_next_save(tmp_path):
    for name in ("5.unfinished-17", "10.unfinished-17"):
        (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match=r"10\.unfinished-17, 5\.unfinished-17"):
        restore(tmp_path, {})
    save(tmp_path, small_run(11))
    assert [path.name for path in tmp_path.iterdir()] == ["11"]


def test_pruning_keeps_the_newest_sound_ones(tmp_path):
    for step in range(5):
        save(tmp_path, small_run(step), keep=None)
    assert _checkpoint._steps(tmp_path) == [0, 1, 2, 3, 4]
    flip(0.5)(find(tmp_path / "4", "blob 0"))
    (tmp_path / "2026").mkdir()
    save(tmp_path, small_run(5), keep=3)
    # 4 is damaged and does not count; 2026 is newer than 5 and nobody's
    assert _checkpoint._steps(tmp_path) == [2, 3, 4, 5, 2026]


def test_the_step_just_saved_stays_even_if_newer_ones_exist(runs):
    save(runs, small_run(0), keep=1)
    assert _checkpoint._steps(runs) == [0, 1, 2]


def test_what_is_not_a_checkpoint_is_never_pruned(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "notes.txt").write_text("mine")
    for step in (3, 4, 5):
        save(tmp_path, small_run(step), keep=1)
    assert _checkpoint._steps(tmp_path) == [1, 5]


def test_the_same_run_is_not_written_twice(runs, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    monkeypatch.setattr(step_folder, "_write", lambda *_: pytest.fail("written again"))
    assert save(runs, small_run(2)) == runs / "2"
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before


def test_a_sound_checkpoint_is_never_overwritten(runs):
    other = changed(small_run(2), bias=jnp.zeros(4))
    with pytest.raises(CheckpointError, match="params/dense/bias differs"):
        save(runs, other)
    assert_same(restore(runs, other, step=2), small_run(2))


def test_a_damaged_checkpoint_is_put_aside_by_the_next_save_of_that_step(runs, caplog):
    for name in ("2.damaged", "2.damaged-2"):
        flip(0.5)(find(runs / "2", "blob 0"))
        with caplog.at_level(logging.WARNING, LOGGER):
            save(runs, small_run(2))
        assert name in caplog.text
        assert (runs / name / "manifest.json").exists()
        assert latest(runs) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_disk_leaves_the_older_ones_intact(runs, monkeypatch, number):
    def full(folder, arrays):
        (folder / "half").mkdir(parents=True)
        raise OSError(number, "No space left on device")

    monkeypatch.setattr(step_folder, "_write", full)
    before = sorted(runs.rglob("*"))
    with pytest.raises(OSError, match=r"No space left.*step 3 is not saved.*runs/3") as refusal:
        save(runs, small_run(3))
    assert refusal.value.errno == number
    assert sorted(runs.rglob("*")) == before
    assert latest(runs) == 2


def test_bytes_that_the_disk_changes_while_writing_are_noticed(runs, monkeypatch):
    write = step_folder._write

    def bad_disk(folder, arrays):
        write(folder, {**arrays, "params/dense/bias": arrays["params/dense/bias"] + 1})

    monkeypatch.setattr(step_folder, "_write", bad_disk)
    with pytest.raises(CheckpointError, match="leaf params/dense/bias"):
        save(runs, small_run(3))
    assert _checkpoint._steps(runs) == [1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_limit_on_the_size_of_files_is_an_os_error(runs):
    """A real refusal of the system, met inside the threads of orbax."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, before[1]))
    try:
        with pytest.raises(OSError, match=r"step 3 is not saved.*runs/3"):
            save(runs, {"w": jnp.ones(10**5)}, step=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in runs.iterdir()) == ["1", "2"]


# ---- facts


def test_facts_come_back_and_are_inherited(runs):
    assert read_facts(runs) == {"seed": 0}
    save(runs, small_run(3))
    assert read_facts(runs, step=3) == {"seed": 0}


def test_a_folder_of_another_configuration_is_refused_with_the_difference(runs):
    with pytest.raises(ValueError, match=r"another run \(seed 0 -> 1, lr None -> 0.1\)"):
        save(runs, small_run(3), facts={"seed": 1, "lr": 0.1})
    assert _checkpoint._steps(runs) == [1, 2]


def test_what_makes_resuming_inexact_is_one_line_of_warning(runs, caplog, monkeypatch):
    here = _environment.compute()
    with caplog.at_level(logging.WARNING, LOGGER):
        restore(runs, like())
        assert not caplog.records
        monkeypatch.setattr(_environment, "compute", lambda: {**here, "cores": 10**6})
        restore(runs, like())
    (record,) = caplog.records
    assert f"not bit-exact: cores {here['cores']} -> 1000000" in record.getMessage()


@pytest.mark.parametrize("arguments", [{"step": -1}, {"step": 3, "keep": 0}])
def test_impossible_steps_and_counts_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="at least"):
        save(tmp_path, {}, **arguments)


def test_without_orbax_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r'pip install "funcdl\[checkpoint\]"'):
        save(tmp_path, small_run(1))
    assert list(tmp_path.iterdir()) == []


def test_importing_and_looking_for_the_latest_do_not_import_orbax(two):
    code = (
        "import sys; from funcdl.train._checkpoints import save_restore as c\n"
        f"assert c.latest({str(two)!r}) == 2\n"
        "assert not [name for name in sys.modules if name.startswith('orbax')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_refusal_is_logged(runs, caplog):
    DAMAGES["removed"](find(runs / "2", "blob 0"))
    with caplog.at_level(logging.WARNING, LOGGER):
        restore(runs, like())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is missing" in caplog.text
