"""The house keeps its plan: room order, no cycles, nothing heavy at import, short ways."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import funcdl
from funcdl import curvature, data, linalg, losses, nn, operators, train

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "funcdl"
FILES = sorted(SRC.rglob("*.py"))
FOUNDATION = (
    "_typing",
    "_numerics",
    "_check",
    "_tree",
    "_batching",
    "_mean",
    "_closure",
    "_jaxpr",
    "_source",
    "_rematerialize",
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


def module(path: Path) -> str:
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> list[tuple[str, ast.AST]]:
    """The modules of funcdl that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            known = {module(p) for p in FILES}
            found += [(name if name in known else node.module, node) for name in names]
    return [(name, node) for name, node in found if name.split(".")[0] == "funcdl"]


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_a_room_imports_only_rooms_above_it():
    order = [*FOUNDATION, *ROOMS]
    for path in FILES:
        own = room(module(path))
        for name, node in imported(path):
            other = room(name)
            assert other == own or order.index(other) < order.index(own), (
                f"{path.relative_to(ROOT)}:{node.lineno} imports {name}: {own} may not know {other}"
            )


def test_outside_its_room_a_private_file_is_not_imported():
    for path in FILES:
        for name, node in imported(path):
            if room(name) in ROOMS and room(name) != room(module(path)):
                private = any(part.startswith("_") for part in name.split(".")[2:])
                assert not private, f"{path}:{node.lineno} imports {name}"


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


def test_files_and_functions_stay_short():
    for path in FILES:
        lines = path.read_text().splitlines()
        assert len(lines) <= 400, f"{path} has {len(lines)} lines"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                doc = ast.get_docstring(node, clean=False)
                text = len(doc.splitlines()) if doc else 0
                size = node.end_lineno - node.lineno + 1 - text
                assert size <= 50, f"{path}:{node.lineno} {node.name} has {size} lines"


def test_public_functions_take_at_most_six_arguments():
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                count = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
                limit = 7 if node.name in SEVEN else 6
                assert count <= limit, f"{path}:{node.lineno} {node.name} takes {count}"


SEVEN = {
    "fit": "program, run and data, then what a loop needs: steps, validate, callbacks, chunk",
}


def own_depth(call) -> int:
    """The deepest stack of frames that lie in this package, jax's own not counted."""
    deepest = depth = 0

    def profile(frame, event, arg):
        nonlocal deepest, depth
        name = frame.f_code.co_name
        own = str(SRC) in frame.f_code.co_filename and not name.startswith("<")
        if own and event == "call":
            depth += 1
            deepest = max(deepest, depth)
        if own and event == "return":
            depth -= 1

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return deepest


def loss(params, batch):
    return losses.squared_error(batch @ params, jnp.zeros(len(batch)))


def calls():
    params, batch = jnp.ones(3), jnp.ones((4, 3))
    hessian = curvature.hessian(loss, params, batch)
    batches = data.Batches(batch, 2, key=jax.random.key(0))
    objective = train.objective(lambda key, batch: jnp.ones(3), loss)
    program = train.program(objective, optax.sgd(0.1))
    run = program.init(jax.random.key(0), batch)
    return {
        "squared_error": (lambda: losses.squared_error(params, params), 3),
        "hessian": (lambda: curvature.hessian(loss, params, batch), 5),  # form of the vectors
        # action, sum over data, leaves, gradient, user's loss and its checks
        "A @ v": (lambda: hessian @ params, 12),
        "batches.at": (lambda: batches.at(0), 5),  # shuffle, walk, permute, hash
        "step": (lambda: program.step(run, batch), 8),
        "trace": (lambda: operators.trace(hessian, key=jax.random.key(1)), 14),  # around A @ v
    }


@pytest.mark.parametrize("name", calls())
def test_a_public_call_goes_through_few_frames(name):
    call, budget = calls()[name]
    assert own_depth(call) <= budget


def test_the_ci_runs_the_command_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    command = next(x for x in readme.splitlines() if x.endswith("nox -s tests"))
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_rooms_are_reached_from_the_top():
    assert funcdl.linalg is linalg
    with pytest.raises(AttributeError, match="rooms"):
        funcdl.nothing  # noqa: B018
    assert nn.Model is funcdl.nn.Model
