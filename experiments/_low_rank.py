"""Recover low-rank matrices by norms of singular values, starting where all of these are tied."""

import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcdl import autodiff, curvature, linalg, operators, train, viz

RANK_TOLERANCE = 1e-2  # relative to the largest singular value
PENALTIES = np.geomspace(0.2, 6.4, 11, dtype=np.float32)
RIDGE_PENALTIES = np.geomspace(0.3, 1000, 24, dtype=np.float32)


class Problem(NamedTuple):
    """Outputs ``y = x @ truth + noise`` of many linear tasks, with held-out data."""

    x: jax.Array
    y: jax.Array
    held_x: jax.Array
    held_y: jax.Array
    truth: jax.Array


class Recovery(NamedTuple):
    """The result of a regularizer at the penalty that is best on the held-out data.

    Every field has an entry for each problem. ``excess`` is the relative distance of the misfit's
    gradient from the ball that contains it at a minimizer; it is 0 at the minimum.
    """

    weights: jax.Array
    error: jax.Array
    rank: jax.Array
    penalty: jax.Array
    excess: jax.Array


def draw(key, size: int, examples: int, rank: int, noise: float) -> Problem:
    """Draw a matrix of a given rank, and its noisy outputs."""
    keys = jax.random.split(key, 6)
    left, right = (jax.random.normal(k, (size, rank)) for k in keys[:2])
    truth = left @ right.T / size**0.5
    x, held_x = (jax.random.normal(k, (examples, size)) for k in keys[2:4])
    y, held_y = (
        z @ truth + noise * jax.random.normal(k, (examples, size))
        for k, z in zip(keys[4:], (x, held_x))
    )
    return Problem(x, y, held_x, held_y, truth)


def misfit(w, x, y):
    """Return half the mean squared norm of the residual."""
    return 0.5 * ((x @ w - y) ** 2).sum(axis=1).mean()


def penalized(norm, w, batch):
    """Return the misfit plus a multiple of a norm."""
    problem, penalty = batch
    return misfit(w, problem.x, problem.y) + penalty * norm(w)


def over_lanes(f):
    """Map ``f(w, (problem, penalty))`` over all problems and, for each, over all penalties."""
    inner = jax.vmap(f, (0, (None, 0)))
    return jax.vmap(inner, (0, (0, None)))


def log_norm(w):
    """Sum log(1 + s) over the singular values, which hardly shrinks large ones."""
    return linalg.spectral_sum(jnp.log1p, w)


def by_training(key, norm, problems: Problem, start, steps: int):
    """Train with every penalty, and record the singular values of the first problem."""
    lanes = (len(problems.x), len(PENALTIES))
    each = over_lanes(partial(penalized, norm))
    objective = train.objective(
        lambda key, batch: jnp.tile(start, (*lanes, 1, 1)),
        lambda w, batch: each(w, batch).sum(),  # a sum, so that each lane has its own gradient
    )
    schedule = optax.cosine_decay_schedule(0.1, steps)
    program = train.program(objective, optax.sgd(schedule, momentum=0.9, nesterov=True))
    batch = problems, PENALTIES
    run = program.init(key, batch)

    values = jax.jit(jax.vmap(lambda w: linalg.svd(w).s))
    path = [(0, values(run.params[0]))]

    def follow(run, _):
        path.append((int(run.step), values(run.params[0])))

    chunk = max(1, steps // 60)
    stream = itertools.repeat(batch)
    run, history = train.fit(program, run, stream, steps=steps, callbacks=[follow], chunk=chunk)
    return best(problems, run.params, PENALTIES), history, path


def by_ridge(problems: Problem) -> Recovery:
    """Solve for every penalty on the squared Frobenius norm, with one task per column."""
    columns = jax.vmap(linalg.ridge, (None, 1, None), out_axes=1)
    solve = over_lanes(lambda _, batch: columns(batch[0].x, batch[0].y, batch[1]))
    lanes = jnp.zeros((len(problems.x), len(RIDGE_PENALTIES)))
    return best(problems, jax.jit(solve)(lanes, (problems, RIDGE_PENALTIES)), RIDGE_PENALTIES)


@jax.jit
def best(problems: Problem, weights, penalties) -> Recovery:
    """Choose the penalty of each problem on the held-out data, and compare with the truth."""

    def one(problem, weights):
        held = jax.vmap(misfit, (0, None, None))(weights, problem.held_x, problem.held_y)
        w, penalty = weights[held.argmin()], penalties[held.argmin()]
        slope = jax.grad(misfit)(w, problem.x, problem.y)
        error = linalg.frobenius_norm(w - problem.truth) / linalg.frobenius_norm(problem.truth)
        excess = linalg.spectral_norm(slope) / penalty - 1
        return Recovery(w, error, linalg.rank(w, RANK_TOLERANCE), penalty, excess)

    return jax.vmap(one)(problems, weights)


def jax_nuclear_norm(w):
    """Sum the singular values with JAX's own function."""
    return jnp.linalg.norm(w, "nuc")


OURS_AND_JAX = linalg.nuclear_norm, jax_nuclear_norm


def starts(key, size: int, scale: float) -> dict:
    """Build matrices whose singular values are tied: all exactly, all up to rounding, or a pair."""
    keys = jax.random.split(key)
    q, p = (np.linalg.qr(np.asarray(jax.random.normal(k, (size, size)), float))[0] for k in keys)
    spread = scale * np.linspace(2, 1, size)
    spread[1] = spread[0]
    return {
        "multiple of the identity": scale * np.eye(size),
        "multiple of an orthogonal matrix": scale * q,
        "two equal values, the others simple": (q * spread) @ p,
    }


def product_errors(key, places: dict) -> list[tuple]:
    """Compare Hessian-vector products of the norm with differences of NumPy's own gradient."""
    size = len(next(iter(places.values())))
    v = np.asarray(jax.random.normal(key, (size, size)), float)

    def gradient(w):  # U Vᵀ, also at ties
        u, _, vt = np.linalg.svd(w)
        return u @ vt

    rows = []
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            products = [jax.jit(autodiff.hvp(norm)) for norm in OURS_AND_JAX]
            for place, w in places.items():
                h = 1e-3 * np.linalg.norm(w, 2)
                near, far = (gradient(w + t * v) - gradient(w - t * v) for t in (h, 2 * h))
                true = (8 * near - far) / (12 * h)
                found = [f(jnp.asarray(w, dtype), jnp.asarray(v, dtype)) for f in products]
                errors = [np.linalg.norm(true - x) / np.linalg.norm(true) for x in found]
                rows.append((place, dtype, *errors))
    return rows


@partial(jax.jit, static_argnames="norm")
def newton_step(norm, w, batch):
    """Return the objective at a point and after one Newton step from it."""
    loss = partial(penalized, norm, batch=batch)
    step = operators.cg(curvature.hessian(loss, w), -jax.grad(loss)(w))
    return loss(w), loss(w + step.x)


def newton_steps(problem: Problem, penalty, places: dict) -> list[tuple]:
    """Take one Newton step from each start, using conjugate gradients on the Hessian."""
    rows = []
    for place, w in places.items():
        w = jnp.asarray(w, jnp.float32)
        steps = [newton_step(norm, w, (problem, penalty)) for norm in OURS_AND_JAX]
        rows.append((place, float(steps[0][0]), *(float(after) for _, after in steps)))
    return rows


def study(key, config) -> dict:
    """Draw the problems, train, solve, and check second derivatives at ties."""
    key_draw, key_start, key_run, key_direction = jax.random.split(key, 4)
    problem = partial(
        draw, size=config.size, examples=2 * config.size, rank=config.rank, noise=config.noise
    )
    problems = jax.vmap(problem)(jax.random.split(key_draw, config.problems))
    places = starts(key_start, config.size, config.start)
    start = jnp.asarray(places["multiple of the identity"], jnp.float32)
    recovered, runs = {"ridge, ‖W‖²": by_ridge(problems)}, {}
    for name, norm in {"nuclear norm": linalg.nuclear_norm, "Σ log(1 + s)": log_norm}.items():
        recovered[name], *runs[name] = by_training(key_run, norm, problems, start, config.steps)
    first, penalty = jax.tree.map(lambda leaf: leaf[0], problems), recovered["nuclear norm"].penalty
    return {
        "problems": problems,
        "recovered": recovered,
        "runs": runs,
        "products": product_errors(key_direction, places),
        "newton": newton_steps(first, penalty[0], places),
    }


def mean(x) -> operators.Estimate:
    """Average over the problems."""
    return operators.sample_mean(jnp.asarray(x, jnp.float32))


def sections(found: dict) -> list[viz.Section]:
    """Build the sections on recovery, paths of singular values, and second derivatives."""
    return [recovery(found), paths(found), derivatives(found)]


def recovery(found: dict) -> viz.Section:
    """Compare regularizers, each at its best penalty, and plot their singular values."""
    ridge, *others = found["recovered"].values()
    problems = found["problems"]
    rows = [
        (
            name,
            viz.plus_minus(mean(r.error)),
            viz.plus_minus(mean(r.error - ridge.error)) if r is not ridge else "",
            viz.plus_minus(mean(r.rank)),
            f"{r.penalty.min():.2g} to {r.penalty.max():.2g}",
        )
        for name, r in found["recovered"].items()
    ]
    true = jax.vmap(partial(linalg.rank, tol=RANK_TOLERANCE))(problems.truth)
    header = ("regularizer", "error ± s.e.", "minus that of ridge", "rank ± s.e.", "penalties")
    count, examples, size = problems.x.shape
    intro = (
        f"{count} problems, each with {size} linear tasks of the same {size} inputs and {examples} "
        f"examples, whose weights W form a matrix of rank {int(true[0])}. Error: "
        "‖W − truth‖ / ‖truth‖. For every problem and regularizer, the penalty is the best one on "
        "an equal number of held-out examples. Rank: singular values above "
        f"{RANK_TOLERANCE:g} of the largest. At a minimizer with the nuclear norm, the largest "
        "singular value of the misfit's gradient equals the penalty; here it differs by at most "
        f"{abs(others[0].excess).max():.1g}, relatively."
    )

    def draw(ax):
        drawn = {"truth": problems.truth} | {k: r.weights for k, r in found["recovered"].items()}
        for marker, (name, weights) in zip(["k_", "C0o", "C1s", "C2^"], drawn.items()):
            values = np.asarray(linalg.svd(weights[0]).s)
            style = {"color": marker[:-1], "marker": marker[-1], "markersize": 4}
            ax.plot(1 + np.arange(size), values, linewidth=0.6, label=name, **style)
        ax.set(xlabel="number", ylabel="singular value of the first problem")
        ax.legend(frameon=False, fontsize="small")

    body = viz.text(intro) + viz.table(rows, header=header)
    body += viz.figure(draw, alt="singular values of truth and estimates", size=(5.5, 3))
    return viz.Section("Low rank: recovery", body)


def paths(found: dict) -> viz.Section:
    """Plot the singular values of the first problem against the steps."""

    def draw(axes):
        for ax, (name, (_, path)) in zip(axes, found["runs"].items()):
            lane = int(np.argmin(abs(PENALTIES - float(found["recovered"][name].penalty[0]))))
            steps, values = zip(*((step, np.asarray(s[lane])) for step, s in path))
            ax.plot(steps, np.maximum(values, 1e-6), color="C0", linewidth=0.7)
            ax.set(title=name, xlabel="step", ylabel="singular values", yscale="log")

    text = viz.text("All singular values are equal at the start; most vanish at the end.")
    figure = viz.figure(draw, alt="singular values against steps", size=(8, 3), grid=(1, 2))
    return viz.Section("Low rank: from the tie", text + figure)


def derivatives(found: dict) -> viz.Section:
    """Compare second derivatives of the nuclear norm, and Newton steps, at ties."""
    errors = [(place, dtype, *map(percent, pair)) for place, dtype, *pair in found["products"]]
    header = ("singular values", "precision", "funcdl", 'jnp.linalg.norm(·, "nuc")')
    body = viz.text(
        "Relative error of a Hessian-vector product of the nuclear norm. The reference is a "
        "fourth-order difference of NumPy's own gradient in float64."
    ) + viz.table(errors, header=header)
    steps = [(place, *(f"{x:.2f}" for x in values)) for place, *values in found["newton"]]
    header = ("start", "objective at the start", "after a step, funcdl", "jax")
    body += viz.text(
        "One Newton step on the first problem, by conjugate gradients on the Hessian (a Hessian "
        "with NaN gives no step)."
    ) + viz.table(steps, header=header)
    return viz.Section("Low rank: second derivatives at ties", body)


def percent(error: float) -> str:
    """Format an error that may be NaN."""
    return "NaN" if np.isnan(error) else f"{error:.1%}" if error > 1e-3 else f"{error:.0e}"
