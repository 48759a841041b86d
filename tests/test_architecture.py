"""The house keeps its plan: order of rooms and wings, no cycles, small folders, short ways."""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import funcdl
from funcdl import curvature, data, density, linalg, losses, nn, operators, per_example, train
from funcdl.autodiff import hvp

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "funcdl"
TESTS = ROOT / "tests"
FILES = sorted(SRC.rglob("*.py"))
FOUNDATION = (
    "_typing",
    "_check",
    "_tree",
    "_batching",
    "_mean",
    "_numerics",
    "_closure",
    "_jaxpr",
    "_source",
    "_batch_size",
    "_rematerialize",
    "_cost",
    "_environment",
)
ROOMS = (
    "linalg",
    "operators",
    "autodiff",
    "per_example",
    "curvature",
    "stats",
    "density",
    "flows",
    "losses",
    "nn",
    "data",
    "train",
    "viz",
)
# The wings of a room in order: each imports only those before it. "*" is the room's own files.
WINGS = {
    "operators": ("_core", "_solvers", "_structured", "_eigen", "_estimators", "*"),
    "per_example": ("_recording", "*"),
    "stats": ("_fitting", "*"),
    "density": (
        "_program",
        "_primitives",
        "_algebra",
        "_jacobian",
        "_control_flow",
        "_inversion",
        "*",
    ),
    "nn": ("*", "_adapters", "_interchange"),
    "train": ("*", "_transforms", "_checkpoints", "_loop", "_debug"),
}


def module(path: Path) -> str:
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


KNOWN = {module(path) for path in FILES}


def imported(path: Path) -> list[tuple[str, ast.AST]]:
    """The modules of funcdl that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name if name in KNOWN else node.module, node) for name in names]
    return [(name, node) for name, node in found if name.split(".")[0] == "funcdl"]


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def wing(name: str) -> str:
    parts = name.split(".")
    is_wing = len(parts) > 2 and (SRC / parts[1] / parts[2]).is_dir()
    return parts[2] if is_wing and parts[2].startswith("_") else "*"


def test_a_room_imports_only_rooms_above_it():
    order = [*FOUNDATION, *ROOMS]
    for path in FILES:
        own = room(module(path))
        for name, node in imported(path):
            other = room(name)
            assert other == own or order.index(other) < order.index(own), (
                f"{path.relative_to(ROOT)}:{node.lineno} imports {name}: {own} may not know {other}"
            )


def test_a_wing_imports_only_wings_before_it():
    for path in FILES:
        own = module(path)
        if path.name == "__init__.py" or room(own) not in WINGS:
            continue
        order = WINGS[room(own)]
        for name, node in imported(path):
            if room(name) == room(own):
                assert order.index(wing(name)) <= order.index(wing(own)), (
                    f"{path.relative_to(ROOT)}:{node.lineno}: {wing(own)} may not know {name}"
                )


def test_every_wing_has_a_place_in_the_order_and_one_line_that_says_what_it_is():
    wings = {p.parent for p in FILES if len(p.relative_to(SRC).parts) > 2}
    wings = {folder for folder in wings if folder.name.startswith("_")}
    assert {(f.parent.name, f.name) for f in wings} == {
        (room, name) for room, names in WINGS.items() for name in names if name != "*"
    }
    for folder in wings:
        (text,) = (folder / "__init__.py").read_text().splitlines()
        assert re.fullmatch(r'"""[A-Z`].*\."""', text), folder
        for path in folder.glob("*.py"):
            assert path.name == "__init__.py" or not path.name.startswith("_"), path


def test_outside_its_room_a_private_file_is_not_imported():
    for path in FILES:
        for name, node in imported(path):
            if room(name) in ROOMS and room(name) != room(module(path)):
                private = any(part.startswith("_") for part in name.split(".")[2:])
                assert not private, f"{path}:{node.lineno} imports {name}"


def test_a_private_name_stays_in_its_file():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and room(node.module or "") in ROOMS:
                for alias in node.names:
                    is_module = f"{node.module}.{alias.name}" in KNOWN
                    assert is_module or not alias.name.startswith("_"), f"{path}:{node.lineno}"


def test_there_is_no_import_cycle():
    graph = {module(p): {name for name, _ in imported(p)} for p in FILES}
    done, path = set(), []

    def visit(name: str) -> None:
        assert name not in path, f"import cycle: {' -> '.join([*path[path.index(name) :], name])}"
        if name in done:
            return
        path.append(name)
        for other in graph.get(name, ()):
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


def test_no_folder_is_crowded():
    for folder in {path.parent for path in FILES}:
        limit = 27 if folder.name == "stats" else 20  # stats has a file per family of distributions
        count = len(list(folder.glob("*.py")))
        assert count <= limit, f"{folder} has {count} files; which wing is missing?"


def test_no_two_files_of_a_folder_differ_only_by_an_ending():
    for folder in {path.parent for path in FILES}:
        stems = sorted(path.stem.strip("_") for path in folder.glob("*.py"))
        for a, b in itertools.pairwise(stems):
            ending = b.removeprefix(a)
            assert not (b.startswith(a) and ending in ("s", "e", "ed", "d", "er", "es")), (a, b)


def test_plain_functions_need_no_flax_and_the_import_is_light():
    code = (
        "import sys, funcdl, funcdl.linalg, funcdl.autodiff, funcdl.curvature, funcdl.losses\n"
        "heavy = {'flax', 'orbax', 'matplotlib', 'sklearn', 'rich', 'tyro', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_an_extra_is_imported_where_it_is_used():
    code = (
        "import sys, funcdl.nn, funcdl.train, funcdl.viz\n"
        "extras = {'orbax', 'matplotlib', 'equinox', 'haiku', 'safetensors'}\n"
        "assert not extras & set(sys.modules), extras & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_touches_no_device_and_no_configuration():
    code = (
        "import jax; before = dict(jax.config.values)\n"
        "import funcdl\n"
        f"for room in {ROOMS}: getattr(funcdl, room)\n"
        "from jax.extend.backend import backends\n"
        "assert dict(jax.config.values) == before"
    )
    code = code.replace("from jax.extend.backend import backends\n", "")
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "pattern",
    [
        r"jax\._src",
        r"jax\.core",
        r"jax\.interpreters",
        r"jnp\.empty",
        r"num_carry",
        r"np\.float64\b",
    ],
)
def test_no_private_or_unsafe_name_of_jax_is_used(pattern):
    for path in [*FILES, *(ROOT / "experiments").rglob("*.py")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not re.search(pattern, line), f"{path}:{number}: {line.strip()}"


def test_meshes_name_their_axis_types():
    for path in FILES:
        for call in re.findall(r"make_mesh\(.{,120}", path.read_text(), re.DOTALL):
            assert "axis_types" in call, f"{path}: {call}"


# (module, function) -> lines, where an algorithm is longer than the rule
LONG = {
    ("funcdl.density._inversion.newton", "_iterate"): 43,
    ("funcdl.density._jacobian.entries", "paths"): 41,
    ("funcdl.density._reversible", "_backward"): 42,
    ("funcdl.operators._eigen.eigsh", "_step"): 50,
    ("funcdl.operators._solvers.minres", "minres_pass"): 42,
    ("funcdl.train._loop.fit", "fit"): 48,
    ("funcdl.train._transforms.monitored", "monitored"): 46,
}


def test_files_and_functions_stay_short():
    for path in FILES:
        lines = path.read_text().splitlines()
        assert len(lines) <= 400, f"{path} has {len(lines)} lines"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                doc = ast.get_docstring(node, clean=False)
                text = len(doc.splitlines()) if doc else 0
                size = node.end_lineno - node.lineno + 1 - text
                limit = LONG.get((module(path), node.name), 40)
                assert size <= limit, f"{path}:{node.lineno} {node.name} has {size} lines"


def bare_parameters(node: ast.AST) -> list[str]:
    """The parameters without annotation, except those of closures and lambdas."""
    found = []
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            found += bare_parameters(child)
            continue
        args = child.args
        every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
        bare = [x for x in every if x and not x.annotation and x.arg not in ("self", "cls")]
        found += [f"{x.lineno} {child.name}({x.arg})" for x in bare]
    return found


def test_parameters_outside_closures_are_annotated():
    assert bare_parameters(ast.parse("def f(x, *y: int, **z):\n  def g(a): lambda b: b")) == [
        "1 f(x)",
        "1 f(z)",
    ]
    bare = [f"{path}:{x}" for path in FILES for x in bare_parameters(ast.parse(path.read_text()))]
    assert not bare, f"annotate {bare}"


# (module, function) -> why it takes seven arguments
SEVEN = {
    ("funcdl.data._images", "image_stream"): "those of image_folder, and those of a stream",
    ("funcdl.train._loop.fit", "fit"): "program, run, data, then the keywords of a loop",
    ("funcdl.stats._mixture_fit", "fit"): "key, x, c, then covariance and keywords of a loop",
}


def test_public_functions_take_at_most_six_arguments():
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                count = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
                limit = 7 if (module(path), node.name) in SEVEN else 6
                assert count <= limit, f"{path}:{node.lineno} {node.name} takes {count}"


def own_frames(call) -> tuple[int, int]:
    """The deepest stack of frames that lie in this package, jax's own not counted; their files."""
    deepest = depth = 0
    files = set()

    def profile(frame, event, arg):
        nonlocal deepest, depth
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        own = str(SRC) in file and not name.startswith("<")
        if own and event == "call":
            depth += 1
            deepest = max(deepest, depth)
            files.add(file)
        if own and event == "return":
            depth -= 1

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return deepest, len(files)


def loss(params, batch):
    return losses.squared_error(batch @ params, jnp.zeros(len(batch)))


def calls():
    params, batch = jnp.ones(3), jnp.ones((4, 3))
    hessian = curvature.hessian(loss, params, batch)
    batches = data.Batches(batch, 2, key=jax.random.key(0))
    objective = train.objective(lambda key, batch: jnp.ones(3), loss)
    program = train.program(objective, optax.sgd(0.1))
    run = program.init(jax.random.key(0), batch)
    key = jax.random.key(1)
    spd = operators.from_dense(jnp.diag(jnp.arange(1.0, 4.0)), psd=True)
    return {  # call, frames, files: the numbers measured; two more of either fail
        "squared_error": (lambda: losses.squared_error(params, params), 3, 3),
        "svd": (lambda: linalg.svd(jnp.eye(3)), 3, 3),
        "hvp": (lambda: hvp(lambda x: (x**3).sum())(params, params), 4, 4),
        "hessian": (lambda: curvature.hessian(loss, params, batch), 12, 12),
        "hessian @ v": (lambda: hessian @ params, 12, 10),
        "cg": (lambda: operators.cg(spd, params), 17, 9),
        "eigsh": (lambda: operators.eigsh(spd, 1, key=key), 12, 11),
        "trace": (lambda: operators.trace(hessian, key=key), 9, 9),
        "grad_norm": (lambda: per_example.grad_norm(loss)(params, batch), 14, 19),
        "log-det": (lambda: density.value_and_log_det(jnp.tanh)(params), 10, 24),
        "inverse": (lambda: density.inverse(lambda x: x + jnp.tanh(x))(params), 22, 33),
        "batches.at": (lambda: batches.at(0), 5, 2),
        "step": (lambda: program.step(run, batch), 6, 7),
    }


@pytest.mark.parametrize("name", calls())
def test_a_public_call_goes_through_few_frames_and_files(name):
    call, frames, files = calls()[name]
    deep, wide = own_frames(call)
    assert deep < frames + 2, f"{name} is {deep} frames deep, {frames} when it was last measured"
    assert wide < files + 2, f"{name} reads {wide} files, {files} when it was last measured"


def test_the_ci_runs_the_command_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    command = next(x for x in readme.splitlines() if x.endswith("nox -s tests"))
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def names_of(cell: str) -> list[str]:
    """The names in a cell of the changelog; the room of the first one holds for the others."""
    names, place = [], ""
    for name in re.findall(r"`([^`]+)`", cell):
        first = name.split(".")[0]
        place = first if first in ROOMS and "." in name else place
        names.append(name if "." in name or (name in ROOMS and not place) else f"{place}.{name}")
    return names


def renamed() -> list[tuple[list[str], list[str], str]]:
    """Each row of the table of the changelog: old names, new names and the text of the new ones."""
    text = (ROOT / "CHANGELOG.md").read_text().split("| old | new |\n|---|---|\n")[1]
    rows = [row.split("|")[1:3] for row in text.split("\n\n")[0].splitlines()]
    return [(names_of(old), names_of(new), new) for old, new in rows]


def api(text: str) -> set[str]:
    """The names of a list of the public API, and the modules that hold them."""
    names = set(re.findall(r"^[\w.]+", text, re.MULTILINE))
    return names | {name.rsplit(".", 1)[0] for name in names}


def test_the_new_names_of_the_changelog_exist():
    known = api((TESTS / "api.txt").read_text())
    for old, new, text in renamed():
        if "the same names in" in text:
            new = [f"{new[0]}.{name.split('.', 1)[1]}" for name in old]
        missing = {name for name in new if name.split(".")[0] in ROOMS} - known
        assert not missing, f"CHANGELOG.md names {missing}"


def test_rooms_are_reached_from_the_top():
    assert funcdl.linalg is linalg
    with pytest.raises(AttributeError, match="rooms"):
        funcdl.nothing  # noqa: B018
    assert nn.Model is funcdl.nn.Model


def test_every_room_and_wing_has_a_folder_of_tests_that_imports_it():
    for folder in {path.parent for path in FILES if path.parent != SRC}:
        parts = folder.relative_to(SRC).parts
        if parts[-1] == "models" or len(list(folder.glob("*.py"))) == 1:  # nn tests the models
            continue
        mirror = TESTS.joinpath(*(part.removeprefix("_") for part in parts))
        tests = list(mirror.glob("test_*.py"))
        assert tests, f"{folder} has no tests in {mirror}"
        if (
            parts[0] in ("density", "per_example") and len(parts) > 1
        ):  # engines without public names
            name = f"funcdl.{'.'.join(parts)}"
            assert any(name in path.read_text() for path in tests), f"no test imports {name}"
