"""One valid call of every public function: its arguments by name, then those of what it returns."""

import functools
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcdl import curvature, data, flows, losses, nn, operators, stats, train


class Call(NamedTuple):
    """``function(**arguments)``, or positional ones where it takes ``*names``."""

    arguments: dict[str, Any]
    then: tuple[tuple[str, Any], ...] = ()  # the arguments of the function that it returns


KEY = jax.random.key(0)
A = jnp.asarray([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]])
V = jnp.asarray([1.0, -2.0, 0.5])
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)), jnp.float32)
LABELS = jnp.asarray([0, 1, 2, 0, 1, 2])
WEIGHTS = jnp.ones(6)
PARAMS = {"kernel": jnp.asarray([[1.0, 0.0, 0.5], [0.0, -1.0, 0.5]]), "bias": jnp.zeros(3)}
BATCH = (X, LABELS)
SPD = operators.from_dense(A, psd=True)


def model(params, batch):
    """One dense layer."""
    return batch[0] @ params["kernel"] + params["bias"][None]


def head(z, batch):
    """The cross-entropy of its outputs."""
    return losses.softmax_cross_entropy(z, batch[1])


def loss(params, batch):
    """Both together."""
    return head(model(params, batch), batch)


OBJECTIVE = train.objective(lambda key, batch: PARAMS, loss)
PROGRAM = train.program(OBJECTIVE, optax.sgd(0.1))
RUN = PROGRAM.init(KEY, BATCH)
BATCHES = data.Batches(BATCH, 3)
MODEL = nn.Model(
    lambda key, x: nn.Variables(PARAMS, {}),
    lambda params, state, x, key=None: (x @ params["kernel"] + params["bias"][None], state),
)
VARIABLES = nn.Variables(PARAMS, {})
NET = flows.mlp(4)
FLOW = flows.planar(1)
MIX = jnp.asarray([0.0, 0.5])
SQUARE, VECTOR = Call({"a": A}), (("x", V),)
quadratic = lambda x: (x**2).sum() + jnp.sin(x).sum()
tanh = lambda x: x + 0.5 * jnp.tanh(x)
normal = lambda x: -0.5 * (x**2).sum()
_f = {"f": model, "loss": head}
_over = {**_f, "params": PARAMS, "data": BATCH}
_then = (("params", PARAMS), ("batch", BATCH))
_probes = {"A": SPD, "key": KEY, "probes": 4}
_solver = {"A": SPD, "b": V, "tol": 1e-4, "max_steps": 9}


def _laplace():
    precision = operators.materialize(curvature.ggn(model, head, PARAMS, BATCH))
    return curvature.laplace(precision, PARAMS, examples=6, prior_precision=1.0)


def _linalg() -> dict:
    names = "det eigh frobenius_norm inf_norm nuclear_norm one_norm polar spectral_norm sqrtm svd"
    low = {"a": A, "k": 1}
    ranked = {"a": A, "tol": 1e-5}
    return {
        **dict.fromkeys((*names.split(), "cond"), SQUARE),
        **dict.fromkeys(("linearly_independent", "orth", "pinv", "rank"), Call(ranked)),
        **dict.fromkeys(("eigenspace", "low_rank_approximation", "projector"), Call(low)),
        "singular_subspace": Call(low),
        "lasso": Call({"a": A, "b": V, "penalty": 0.1, "tol": 1e-3, "max_steps": 9}),
        "lasso_path": Call({"a": A, "b": V, "penalties": jnp.ones(2), "tol": 1e-3, "max_steps": 9}),
        "least_squares": Call({"a": A, "b": V, "tol": 1e-5}),
        "matrix_function": Call({"f": jnp.exp, "a": A}),
        "norm": Call({"x": V, "p": 2}),
        "pca": Call({"x": X, "k": 1}),
        "pca_randomized": Call({"key": KEY, "x": X, "k": 1, "power": 1, "oversample": 1}),
        "randomized_svd": Call({"key": KEY, "a": A, "k": 1, "power": 1, "oversample": 1}),
        "ridge": Call({"a": A, "b": V, "penalty": 0.1}),
        "schatten_norm": Call({"a": A, "p": 2}),
        "spectral_sum": Call({"f": jnp.exp, "a": A}),
    }


def _operators() -> dict:
    density = operators.spectral_density(SPD, key=KEY, probes=2, steps=2)
    return {
        "banded": Call({"diagonals": A, "symmetric": True, "psd": False}),
        "cayley": Call({"params": A - A.T}),
        "circulant": Call({"column": V}),
        "cond": Call({"A": SPD, "key": KEY, "tol": 1e-3, "max_matvecs": 9}),
        **dict.fromkeys(("cg", "lsmr", "minres", "solve"), Call({**_solver, "precondition": None})),
        **dict.fromkeys(("diagonal", "frobenius", "trace"), Call(_probes)),
        **dict.fromkeys(("hutch_pp", "xtrace"), Call({**_probes, "probes": 3})),
        "eigsh": Call(
            {"A": SPD, "k": 1, "key": KEY, "tol": 1e-3, "which": "LA", "max_matvecs": 30}
        ),
        "from_dense": Call({"matrix": A, "symmetric": True, "psd": True}),
        "from_diagonal": Call({"d": V, "psd": False}),
        "from_function": Call({"f": jnp.negative, "like": V, "symmetric": True, "psd": False}),
        "givens": Call({"n": 3, "i": 0, "j": 1, "angle": 0.5}),
        "householder": Call({"v": V}),
        "kronecker": Call({"a": SPD, "b": SPD}),
        "leading_eigenpair": Call({"A": SPD, "start": V, "steps": 4, "which": "LA", "tol": 1e-3}),
        "logdet": Call({**_probes, "probes": 2, "steps": 2, "damping": 0.1}),
        "low_rank_update": Call({"base": SPD, "u": A[:, :1], "v": A[:, :1]}),
        "materialize": Call({"A": SPD, "max_bytes": 10**6}),
        "orthogonal": Call({"params": jnp.ones((3, 3))}),
        "require_converged": Call({"result": operators.cg(SPD, V)}),
        "sample_mean": Call({"samples": V, "matvecs": 3}),
        "smoothed_density": Call({"density": density, "grid": V, "width": 0.1}),
        "space": Call({"like": V}),
        "spectral_density": Call({"A": SPD, "key": KEY, "probes": 2, "steps": 2}),
        "spectral_mean": Call({"density": density, "f": jnp.exp}),
        "toeplitz": Call({"column": V, "row": V}),
    }


def _autodiff() -> dict:
    solve = lambda a: a
    return {
        "check_second_order": Call({"f": quadratic}, VECTOR),
        **dict.fromkeys(
            ("hessian", "hessian_matrix"),
            Call({"f": quadratic, "chunk": None, "max_bytes": 10**6}, VECTOR),
        ),
        "hvp": Call({"f": quadratic}, (*VECTOR, ("v", V))),
        "implicit_argmin": Call(
            {"solve": solve, "objective": lambda x, a: ((x - a) ** 2).sum()},
            (("a", V),),
        ),
        "implicit_fixed_point": Call(
            {"solve": solve, "step": lambda x, a: 0.5 * (x + a)}, (("a", V),)
        ),
        "implicit_root": Call({"solve": solve, "residual": lambda x, a: x - a}, (("a", V),)),
        "jacobian": Call({"f": jnp.sin, "chunk": None, "max_bytes": 10**6}, VECTOR),
        "laplacian": Call({"f": quadratic, "chunk": None}, VECTOR),
        "taylor": Call({"f": jnp.sin}, (*VECTOR, ("v", V), ("order", 2))),
    }


def _per_example() -> dict:
    of_loss = "grad grad_norm grad_second_moment gram uses"
    return {
        **dict.fromkeys(of_loss.split(), Call({"loss": loss}, _then)),
        "clipped_grad": Call({"loss": loss, "bound": 1.0}, _then),
        "fisher_factors": Call({"loss": loss, "max_bytes": 10**6}, _then),
        "ggn_diagonal": Call(_f, _then),
        "ggn_factors": Call({**_f, "max_bytes": 10**6}, _then),
        "jacobian_gram": Call({"f": model}, _then),
        "require_independent": Call({"f": model, "params": PARAMS, "batch": BATCH}),
    }


def _curvature() -> dict:
    of_loss = {"loss": loss, "params": PARAMS, "data": BATCH}
    return {
        "bezier": Call({"ends": (PARAMS, PARAMS), "bend": PARAMS, "t": 0.5}),
        "draw_label": Call({"draws": 1}, (("key", KEY), ("z", X), ("batch", BATCH))),
        **dict.fromkeys(("ekfac", "kfac"), Call({**_over, "max_bytes": 10**6})),
        "every_label": Call({"classes": 3}, (("batch", BATCH),)),
        "filter_normalized": Call({"key": KEY, "params": PARAMS}),
        **dict.fromkeys(("fisher_empirical", "ggn"), Call(_over)),
        "fisher_exact": Call({**_over, "outcomes": curvature.every_label(3)}),
        "fisher_mc": Call({**_over, "key": KEY, "draw": curvature.draw_label(1)}),
        "ggn_diagonal_preconditioner": Call({**_f, "damping": 0.1}),
        "hessian": Call(of_loss),
        "hutchinson_preconditioner": Call({"loss": loss, "key": KEY, "damping": 0.1}),
        "jacobian": Call({"f": model, "params": PARAMS, "data": BATCH}),
        "kfac_preconditioner": Call({**_f, "damping": 0.1}),
        "kl_clip": Call({"bound": 1.0}),
        "laplace": Call(
            {
                "A": operators.materialize(curvature.ggn(model, head, PARAMS, BATCH)),
                "params": PARAMS,
                "examples": 6,
                "prior_precision": 1.0,
            }
        ),
        "log_evidence": Call({"posterior": _laplace(), "loss": 1.0}),
        "loss_barrier": Call({"losses": V}),
        "loss_landscape": Call({**of_loss, "directions": (PARAMS,), "grid": V[:2]}),
        "mode_connectivity": Call(
            {
                "loss": loss,
                "ends": (PARAMS, jax.tree.map(lambda x: x + 1, PARAMS)),
                "data": BATCHES,
                "key": KEY,
                "steps": 2,
                "optimizer": optax.sgd(0.1),
            }
        ),
        "noise_scale": Call({"loss": loss, "params": PARAMS, "batch": BATCH}),
        "ntk": Call({"f": model, "params": PARAMS, "data": BATCH, "other": BATCH}),
        "preconditioned": Call(
            {
                "preconditioner": curvature.kfac_preconditioner(model, head, damping=0.1),
                "batch": BATCH,
                "every": 1,
                "decay": 0.5,
            }
        ),
        "predictive": Call({"posterior": _laplace(), "f": model, "data": BATCH}),
        "sharpness": Call({**of_loss, "key": KEY, "tol": 1e-2, "max_matvecs": 9}),
        "stability_ratio": Call({"sharpness": 1.0, "learning_rate": 0.1, "momentum": 0.0}),
        "subspace_overlap": Call({"vectors": A[:1], "others": A[1:2]}),
        "worst_loss": Call({**of_loss, "radius": 0.1, "key": KEY, "steps": 2}),
    }


def _stats() -> dict:
    moments = stats.moments(X)
    bernoulli, categorical = stats.bernoulli.Bernoulli(MIX[0]), stats.categorical.Categorical(V)
    gaussian = stats.gaussian.Gaussian(MIX, jnp.eye(2))
    student = stats.student_t.StudentT(MIX[:1], jnp.eye(1), jnp.float32(3))
    mixture = stats.mixture.start(KEY, X, 2)
    draws = lambda key: jax.random.normal(key, (2,))
    index, table = (0,), jnp.full((2, 2), -jnp.log(4.0))
    monte = {"sample": draws, "key": KEY, "samples": 3}
    mix = {"covariance": stats.mixture.full, "ridge": 1e-3}
    found = {
        "bayes": Call({"log_prior": jax.nn.log_softmax(MIX), "log_likelihood": MIX}),
        "covariance": Call({"x": X, "weights": WEIGHTS}),
        "expectation": Call({"f": quadratic, **monte}),
        "intrinsic_dimension": Call({"x": X}),
        "kmeans": Call({"key": KEY, "x": X, "c": 2, "tol": 1e-3, "max_steps": 3}),
        "kmeans_plus_plus": Call({"key": KEY, "x": X, "c": 2}),
        "lloyd": Call({"x": X, "centers": X[:2], "tol": 1e-3, "max_steps": 3}),
        "merge": Call({"a": moments, "b": moments}),
        "moments": Call({"x": X, "weights": WEIGHTS}),
    }
    for name, params, x in (
        ("bernoulli", bernoulli, jnp.asarray(1)),
        ("categorical", categorical, jnp.asarray(1)),
        ("gaussian", gaussian, X[0]),
        ("student_t", student, MIX[:1]),
        ("mixture", mixture, X[0]),
    ):
        label = "label" if name == "categorical" else "x"
        for f in ("cdf", "log_prob", "pdf", "pmf"):
            if hasattr(getattr(stats, name), f) and (name, f) != ("gaussian", "cdf"):
                found[f"{name}.{f}"] = Call({"params": params, label: x})
        found[f"{name}.sample"] = Call({"key": KEY, "params": params})
        if name in ("bernoulli", "categorical", "gaussian"):
            two = Call({"p": params, "q": params})
            found |= dict.fromkeys((f"{name}.kl", f"{name}.cross_entropy"), two)
            found[f"{name}.entropy"] = Call({"params": params})
    start = {"params": mixture, "x": X}
    fits = jax.vmap(lambda key: stats.mixture.fit(key, X, 2, max_steps=2))(jax.random.split(KEY, 2))
    return found | {
        "bernoulli.fit": Call({"x": LABELS % 2, "weights": WEIGHTS, "pseudo_count": 1.0}),
        "categorical.fit": Call(
            {"labels": LABELS, "c": 3, "weights": WEIGHTS, "pseudo_count": 1.0}
        ),
        "gaussian.fit": Call({"x": X, "weights": WEIGHTS}),
        "gaussian.conditional": Call({"params": gaussian, "indices": index, "values": MIX[:1]}),
        "gaussian.ellipsoid": Call({"params": gaussian, "probability": 0.5}),
        "gaussian.marginal": Call({"params": gaussian, "indices": index}),
        "gaussian.mutual_information": Call({"params": gaussian, "indices": index}),
        "gaussian.product": Call({"a": gaussian, "b": gaussian}),
        "student_t.fit": Call({"x": X, "tol": 1e-3, "max_steps": 3}),
        "mixture.best": Call({"fits": fits}),
        "mixture.em": Call({**start, **mix, "tol": 1e-3, "max_steps": 2}),
        "mixture.em_step": Call({**start, **mix}),
        "mixture.fit": Call({"key": KEY, "x": X, "c": 2, **mix, "tol": 1e-3, "max_steps": 2}),
        "mixture.responsibilities": Call({"params": mixture, "x": X[0]}),
        "mixture.start": Call({"key": KEY, "x": X, "c": 2, **mix}),
        **{
            f"joint_table.{f}": Call({"log_joint": table})
            for f in ("conditional_entropy", "joint_entropy", "mutual_information")
        },
        **{f"mi_bounds.{f}": Call({"scores": A}) for f in ("donsker_varadhan", "info_nce", "nwj")},
        "mi_bounds.leave_one_out": Call({"log_conditionals": A}),
        "monte_carlo.cross_entropy": Call({"log_q": normal, **monte}),
        "monte_carlo.entropy": Call({"log_p": normal, **monte}),
        "monte_carlo.kl": Call({"log_p": normal, "log_q": normal, **monte}),
        "neighbors.entropy": Call({"x": X, "k": 1}),
        "neighbors.mutual_information": Call({"x": X, "y": X[:, :1], "k": 1}),
    }


def _density() -> dict:
    series = {"g": lambda x: 0.1 * jnp.sin(x)}
    then = (("y", V),)
    return {
        "check": Call({"f": tanh, "x": V, "claim": None}),
        "inspect": Call({"f": tanh, "like": V}),
        **dict.fromkeys(("inverse", "inverse_and_log_det"), Call({"f": tanh, "like": V}, then)),
        **dict.fromkeys(
            ("log_abs_det_jacobian", "value_and_log_det", "value_and_log_volume"),
            Call({"f": tanh}, VECTOR),
        ),
        "lanczos_log_det": Call({"f": tanh}),
        **dict.fromkeys(("power_series_log_det", "roulette_log_det"), Call(series)),
        "pullback": Call({"log_q": normal, "f": tanh}, VECTOR),
        "pushforward": Call({"log_p": normal, "f": tanh, "like": V}, then),
        "pushforward_branches": Call(
            {"log_p": normal, "f": jnp.square, "inverses": (jnp.sqrt, lambda y: -jnp.sqrt(y))},
            (("y", jnp.abs(V)),),
        ),
        "reversible": Call({"layer": tanh, "checkpoints": 1, "tolerance": 1e-3}),
        "rule": Call({"f": tanh, "log_det": lambda x: x.sum(), "inverse": tanh}, VECTOR),
        "sample_and_log_prob": Call(
            {"sample": lambda key: jax.random.normal(key, (3,)), "log_p": normal, "f": tanh},
            (("key", KEY),),
        ),
    }


def _flows() -> dict:
    speed = {"velocity": lambda t, x: -x, "steps": 2, "t0": 0.0, "t1": 1.0}
    rational = {"widths": V, "heights": V, "slopes": jnp.ones(4)}
    return {
        "chain": Call({"*": (FLOW, FLOW)}),
        "cnn": Call({"*": (3,), "activation": jnp.tanh}),
        "mlp": Call({"*": (3,), "activation": jnp.tanh}),
        "continuous": Call({"conditioner": NET, "steps": 2}),
        **dict.fromkeys(("flow_ode", "flow_ode_hutchinson", "flow_ode_log_det"), Call(speed)),
        "from_function": Call({"f": tanh}),
        "glow": Call({"levels": 1, "steps": 1, "conditioner": flows.cnn(3)}),
        "image_coupling": Call({"conditioner": flows.cnn(3)}),
        "likelihood": Call({"flow": FLOW, "log_base": flows.standard_normal}),
        "masked_autoregressive": Call({"*": (2, 4)}),
        "spline_autoregressive": Call({"*": (2, 4), "bins": 3, "bound": 3.0}),
        "neural_spline": Call({"layers": 1, "conditioner": NET, "bins": 3, "bound": 3.0}),
        "planar": Call({"layers": 1}),
        "real_nvp": Call({"layers": 1, "conditioner": NET}),
        "repeat": Call({"flow": FLOW, "times": 2}),
        "rational_quadratic": Call({"x": MIX[0], **rational}),
        "rational_quadratic_inverse": Call({"y": MIX[0], **rational}),
        "sample_standard_normal": Call({"key": KEY, "like": V}),
        "squeeze": Call({"x": jnp.ones((2, 2, 1))}),
        "standard_normal": Call({"z": V}),
        "velocity": Call({"conditioner": NET}),
    }


def _losses() -> dict:
    logits = model(PARAMS, BATCH)
    same = Call({"predictions": X, "targets": X})
    masked = Call({"logits": logits, "labels": LABELS, "mask": WEIGHTS})
    return {
        **dict.fromkeys(("absolute_error", "squared_error"), same),
        "huber": Call({**same.arguments, "delta": 1.0}),
        **dict.fromkeys(
            ("accuracy", "softmax_cross_entropy"), Call({"logits": logits, "labels": LABELS})
        ),
        **dict.fromkeys(("masked_accuracy", "masked_softmax_cross_entropy"), masked),
        "sigmoid_cross_entropy": Call({"logits": X, "targets": X * 0 + 0.5}),
    }


def _nn() -> dict:
    image = jnp.ones((1, 4, 4, 1))
    pool = Call({"x": image, "window": (2, 2), "strides": (1, 1), "padding": "VALID"})
    return {
        **dict.fromkeys(("avg_pool", "max_pool"), pool),
        "conv": Call(
            {
                **{"x": image, "kernel": jnp.ones((2, 2, 1, 1)), "strides": 1},
                **{"padding": "SAME", "dilation": 1, "groups": 1},
            }
        ),
        "from_linen": Call(
            {"module": nn.models.MLP((3,)), "streams": ("dropout",), "switches": None}
        ),
        "summary": Call({"model": MODEL, "x": X}),
        "to_torch": Call({"variables": VARIABLES, "names": None, "images": None}),
        "export": Call({"model": MODEL, "variables": VARIABLES, "x": X, "platforms": ("cpu",)}),
    }


def _data() -> dict:
    key = {"key": KEY}
    return {
        "Batches": Call({"arrays": BATCH, "size": 3, "key": KEY, "transform": None}),
        "Stream": Call({"read": lambda step: iter([BATCH])}),
        "arrays": Call({"x": np.asarray(X), "labels": np.asarray(LABELS), "classes": 3}),
        "check": Call({"arrays": BATCH}),
        "orders": Call({"batches": BATCHES, "keys": jax.random.split(KEY, 2)}),
        "split": Call({"arrays": BATCH, "fraction": 0.5, **key}),
        "standardize": Call({"x": np.asarray(X), "names": ("a", "b")}),
        "unit_range": Call({"batch": (jnp.ones((2, 2), jnp.uint8), LABELS)}),
    }


@functools.cache
def _saved() -> str:
    folder = tempfile.mkdtemp()
    train.save(folder, RUN)
    return folder


def _train() -> dict:
    over = {"objective": OBJECTIVE, "variables": VARIABLES, "data": BATCH}
    fitted = {"program": PROGRAM, "run": RUN, "data": BATCHES}
    lanes = train.ensemble(PROGRAM, 2)
    rated = train.program(OBJECTIVE, lambda hyper: optax.sgd(hyper["learning_rate"]))
    return {
        "accumulated": Call({"k": 2}),
        "assert_deterministic": Call({**fitted, "steps": 1}),
        "augmented": Call({"objective": OBJECTIVE, "f": lambda key, batch: batch}),
        "averaged": Call({"program": PROGRAM, "decay": 0.9}),
        "average": Call({"run": train.averaged(PROGRAM, decay=0.9).init(KEY, BATCH)}),
        "checkpoint": Call({"folder": "checkpoints", "every": 1, "keep": 1, "facts": None}),
        "clipped_per_example": Call({"bound": 1.0, "noise": 0.0}),
        "diagnose": Call({"program": PROGRAM, "run": RUN, "batch": BATCH}),
        "early_stop": Call({"metric": "loss", "patience": 1, "mode": "min"}),
        "ensemble": Call({"program": PROGRAM, "n": 2}),
        "eval_loss": Call({"objective": OBJECTIVE, "state": {}}, _then),
        "evaluate": Call(over),
        "per_example": Call(over),
        "fit": Call({**fitted, "steps": 1, "validate": None, "callbacks": (), "chunk": 1}),
        "flight_record": Call({"run": train.flight_recorder(PROGRAM, length=2).init(KEY, BATCH)}),
        "flight_recorder": Call({"program": PROGRAM, "length": 2}),
        "fsdp": Call({"axis": "data"}),
        "gradient": Call({"objective": OBJECTIVE}),
        "grid": Call({"rate": [0.1, 0.2]}),
        "lane": Call({"run": lanes.init(KEY, BATCH), "i": 0}),
        "latest": Call({"folder": "nowhere"}),
        "learning_rate_range_test": Call(
            {
                **{"program": rated, "run": rated.init(KEY, BATCH, {"learning_rate": 0.1})},
                **{"data": BATCHES, "low": 1e-3, "high": 1e-1, "steps": 4},
            }
        ),
        "metrics_file": Call({"path": "metrics.jsonl"}),
        "mixed_precision": Call({"pair": OBJECTIVE, "dtype": jnp.bfloat16}),
        "noise_monitor": Call({"objective": OBJECTIVE, "share": 0.5}),
        "objective": Call({"init": lambda key, batch: PARAMS, "loss": loss}),
        "optimizers_by_path": Call({"optimizers": {"**": optax.sgd(0.1)}}),
        "outputs": Call({"model": MODEL, "state": {}}, (("params", PARAMS), ("batch", BATCH))),
        "predict": Call({"model": MODEL, "variables": VARIABLES, "x": X, "size": 3}),
        "program": Call(
            {"objective": OBJECTIVE, "optimizer": optax.sgd(0.1), "gradient": train.gradient}
        ),
        "progress": Call({"steps": 3}),
        "rematerialized": Call({"pair": OBJECTIVE, "segments": 1}),
        "restore": Call({"folder": _saved(), "like": RUN, "step": None}),
        "read_facts": Call({"folder": _saved(), "step": None}),
        "save": Call({"folder": "saved", "run": RUN, "step": 0, "facts": None, "keep": 1}),
        "sharpness_monitor": Call({"objective": OBJECTIVE, "share": 0.5, "steps": 2}),
        "snapshot": Call({"run": RUN}),
        "summary": Call({"program": PROGRAM, "batch": BATCH, "hyper": {}}),
        "supervised": Call({"model": MODEL, "loss": losses.softmax_cross_entropy, "metrics": {}}),
        "sweep": Call({"program": PROGRAM, "seeds": 2, "rate": [0.1]}),
        "trace_monitor": Call({"objective": OBJECTIVE, "share": 0.5, "probes": 2}),
        "unroll": Call({**fitted, "steps": 1, "segments": 1}),
    }


ROOMS = {
    **{"linalg": _linalg, "operators": _operators, "autodiff": _autodiff, "stats": _stats},
    **{"per_example": _per_example, "curvature": _curvature, "density": _density},
    **{"flows": _flows, "losses": _losses, "nn": _nn, "data": _data, "train": _train},
}


@functools.cache
def valid_calls(room: str) -> dict[str, Call]:
    """The calls of a room, by the names of its functions."""
    return ROOMS[room]()
