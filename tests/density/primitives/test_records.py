"""Each record of a primitive is true: derivative, bounds, inverse and zero against the function."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logit

from funcdl.density._primitives.interval import UNBOUNDED
from funcdl.density._primitives.slope import linear
from funcdl.density._primitives.table import FACTS, PRIMITIVES, coverage, inverse_of, is_folding
from funcdl.density._program.program import program

INF = np.inf
# name -> (function, interval where it is defined and finite); each is one primitive
UNARY = {
    **{name: (getattr(jax.lax, name), (-3.0, 3.0)) for name in (
        "neg", "abs", "square", "cbrt", "exp", "exp2", "expm1", "tanh", "logistic", "erf", "erfc",
        "sin", "cos", "tan", "atan", "sinh", "cosh", "asinh")},
    **{name: (getattr(jax.lax, name), (0.05, 5.0)) for name in ("log", "sqrt", "rsqrt")},
    **{name: (getattr(jax.lax, name), (-0.95, 0.95))
       for name in ("asin", "acos", "atanh", "erf_inv")},
    "acosh": (jax.lax.acosh, (1.05, 5.0)),
    "log1p": (jax.lax.log1p, (-0.9, 5.0)),
    **({"log2": (jax.lax.log2, (0.05, 5.0))} if hasattr(jax.lax, "log2") else {}),
    "logit": (logit, (0.05, 0.95)),
    "relu": (jax.nn.relu, (-3.0, 3.0)),
    "copy": (jnp.copy, (-3.0, 3.0)),
    "integer_pow": (lambda x: jax.lax.integer_pow(x, 3), (-3.0, 3.0)),
    "integer_pow 4": (lambda x: jax.lax.integer_pow(x, 4), (-3.0, 3.0)),
    "integer_pow -1": (lambda x: jax.lax.integer_pow(x, -1), (0.1, 3.0)),
    "integer_pow -2": (lambda x: jax.lax.integer_pow(x, -2), (-3.0, -0.1)),
}  # fmt: skip
# name -> (function, one interval per operand)
NARY = {
    "add": (jax.lax.add, [(-3.0, 3.0)] * 2),
    "sub": (jax.lax.sub, [(-3.0, 3.0)] * 2),
    "mul": (jax.lax.mul, [(-3.0, 3.0), (0.2, 2.0)]),
    "div": (jax.lax.div, [(-3.0, 3.0), (0.2, 2.0)]),
    "pow": (jax.lax.pow, [(0.2, 3.0), (0.3, 2.0)]),
    "pow of large": (jax.lax.pow, [(1.2, 3.0), (-2.0, 2.0)]),
    "pow of small": (jax.lax.pow, [(0.1, 0.9), (-2.0, -0.1)]),
    "logaddexp": (jnp.logaddexp, [(-3.0, 3.0)] * 2),
    "max": (jax.lax.max, [(-3.0, 3.0)] * 2),
    "min": (jax.lax.min, [(-3.0, 3.0)] * 2),
    "clamp": (jax.lax.clamp, [(-2.0, -1.0), (-3.0, 3.0), (1.0, 2.0)]),
}
CASES = {**{name: (f, [domain]) for name, (f, domain) in UNARY.items()}, **NARY}
# the same record stands for two names, the moves test it, or an older jax does not have it
ELSEWHERE = {"add_any", "select_n", "log2"}


def points(domain, n, shift):
    """Numbers inside an interval, neither its ends nor its middle: there are the kinks."""
    return domain[0] + (domain[1] - domain[0]) * (np.arange(n) + 0.5 + shift) / n


def grid(domains):
    each = [points(d, 24 if len(domains) == 1 else 8, 0.1 * at) for at, d in enumerate(domains)]
    return [jnp.asarray(x) for x in zip(*itertools.product(*each))]


def intervals(domain):
    """Parts of a domain: the whole, either half, and what starts or ends at 0."""
    low, high = domain
    middle = (low + high) / 2
    parts = [(low, high), (low, middle), (middle, high)]
    return parts + [(low, 0.0), (0.0, high)] * (low < 0 < high)


def equation(name, domains):
    """The one equation of a function and its record."""
    f, _ = CASES[name]
    jaxpr = jax.make_jaxpr(f)(*(float(np.mean(d)) for d in domains))
    (step,) = program(jaxpr, range(len(domains)), [0]).equations
    assert step.name in PRIMITIVES, f"add a record of {step.name} to density/_primitives"
    return f, step, PRIMITIVES[step.name]


def gradients(f, x):
    return [jax.vmap(jax.grad(f, at))(*x) for at in range(len(x))]


def bounds_of(record, step, domains):
    """The bounds of a record over intervals, of the value and of each derivative, or None."""
    if record.bounds is None or record.slope_bounds is None:
        pytest.skip("the test of missing facts names what is missing")
    bounds = record.bounds(step.eqn.params, *domains)
    params = step.eqn.params
    return bounds, [record.slope_bounds(i, [*domains], bounds, params) for i in range(len(domains))]


def wide(name):
    """A function of one number, its values and derivatives on both sides of any pole or domain.

    The grid avoids 0, where kinks are; values that are infinite or undefined are left out.
    """
    f, _ = CASES[name]
    x = jnp.linspace(-6.03, 6.0, 1001)
    y, slope = (np.asarray(v) for v in (jax.vmap(f)(x), jax.vmap(jax.grad(f))(x)))
    finite = np.isfinite(y) & np.isfinite(slope)
    return np.asarray(x)[finite], y[finite], slope[finite]


def reaching(domain):
    """Intervals that reach outside the domain where a record was written for."""
    low, high = domain
    ends = [(-INF, 0.0), (0.0, INF), (-INF, low), (-INF, high), (low, INF), (high, INF)]
    return [UNBOUNDED, (-6.5, 6.5), (low - 2, high + 2), (low - 2, high), (low, high + 2), *ends]


def reversed_pairs(x, y):
    """Points farther than 1 apart whose values do not increase; none if y is increasing."""
    before, after = np.meshgrid(np.arange(len(x)), np.arange(len(x)), indexing="ij")
    wrong = (x[after] > x[before] + 1) & ~(y[after] > y[before])
    return [(x[i], x[j]) for i, j in np.argwhere(wrong)[:3]]


def test_every_record_with_a_derivative_is_tested():
    tested = {equation(name, domains)[1].name for name, (_, domains) in CASES.items()}
    untested = set(coverage()) - tested - ELSEWHERE
    assert not untested, f"add {sorted(untested)} to UNARY or NARY"
    without = tested - set(coverage())
    assert not without, f"add the slopes of {sorted(without)} to their records"


def test_no_fact_is_missing_without_a_reason():
    rows = [f"{'primitive':14}" + "".join(f"{fact:14}" for fact in FACTS)]
    rows += [
        f"{n:14}" + "".join(f"{x:14.12}" for x in row.values()) for n, row in coverage().items()
    ]
    print("\n".join(rows))
    gaps = [(n, fact) for n, row in coverage().items() for fact, known in row.items() if not known]
    assert not gaps, f"add these facts to their records, or why they are missing: {gaps}"


def test_a_reason_is_given_only_for_a_missing_fact():
    for name, record in PRIMITIVES.items():
        for fact in record.missing:
            assert getattr(record, fact) is None, f"{name} has {fact}"


@pytest.mark.parametrize("name", CASES)
def test_slopes_are_the_derivatives(name, x64):
    f, step, record = equation(name, CASES[name][1])
    x = grid(CASES[name][1])
    slopes = record.slopes(step.eqn.params, *x, f(*x))
    for slope, expected in zip(slopes, gradients(f, x), strict=True):
        value, log = linear(slope)
        np.testing.assert_allclose(
            value * (1 if log is None else jnp.exp(log)), expected, rtol=1e-9
        )


@pytest.mark.parametrize("name", CASES)
def test_bounds_hold_the_values_and_the_derivatives(name, x64):
    f, step, record = equation(name, CASES[name][1])
    for domains in itertools.product(*map(intervals, CASES[name][1])):
        x = grid(domains)
        y = np.asarray(f(*x))
        bounds, slope_bounds = bounds_of(record, step, domains)
        assert bounds[0] - 1e-12 <= y.min(), domains
        assert y.max() <= bounds[1] + 1e-12, domains
        for at, slope in enumerate(map(np.asarray, gradients(f, x))):
            low, high = slope_bounds[at]
            slope = slope[slope != 0] if record.choice else slope  # where this one is chosen
            if not len(slope):
                continue
            assert low - 1e-12 <= slope.min(), (at, domains)
            assert slope.max() <= high + 1e-12, (at, domains)
            # a bound of 0 is attained at single points, and these are not among them
            assert 0 not in (low, high) or (slope != 0).all(), (at, domains)


@pytest.mark.parametrize("name", UNARY)
def test_bounds_hold_outside_the_stated_domain(name, x64):
    _, step, record = equation(name, CASES[name][1])
    all_x, all_y, all_slopes = wide(name)
    for domain in reaching(UNARY[name][1]):
        inside = (domain[0] < all_x) & (all_x < domain[1])
        if not inside.any():
            continue
        (low, high), (slope_bounds,) = bounds_of(record, step, [domain])
        y, slope = all_y[inside], all_slopes[inside]
        why = f"over {domain}; a function with poles is UNBOUNDED across them"
        assert low - 1e-12 <= y.min(), f"bounds {low, high}, but a value is {y.min()} {why}"
        assert y.max() <= high + 1e-12, f"bounds {low, high}, but a value is {y.max()} {why}"
        assert slope_bounds[0] - 1e-12 <= slope.min(), f"slope {slope.min()}, {slope_bounds} {why}"
        assert slope.max() <= slope_bounds[1] + 1e-12, f"slope {slope.max()}, {slope_bounds} {why}"


@pytest.mark.parametrize("name", UNARY)
def test_a_function_whose_slope_has_one_sign_is_monotone_even_across_poles(name, x64):
    """Slope bounds of one sign prove injectivity, so a false one would make the proof false."""
    _, step, record = equation(name, CASES[name][1])
    all_x, all_y, _ = wide(name)
    for domain in reaching(UNARY[name][1]):
        inside = (domain[0] < all_x) & (all_x < domain[1])
        _, ((low, high),) = bounds_of(record, step, [domain])
        if low >= 0 or high <= 0:
            pairs = reversed_pairs(all_x[inside], all_y[inside] * (1 if low >= 0 else -1))
            assert not pairs, (
                f"slope_bounds {low, high} over {domain}, but the values at {pairs} are not in "
                "order; a function with poles is UNBOUNDED across them"
            )


@pytest.mark.parametrize("name", UNARY)
def test_an_inverse_leads_back_outside_the_stated_domain(name, x64):
    _, step, _ = equation(name, CASES[name][1])
    all_x, all_y, all_slopes = wide(name)
    for domain in reaching(UNARY[name][1]):
        inverse = inverse_of(step.name, step.eqn.params, 0, domain)
        inside = (domain[0] < all_x) & (all_x < domain[1]) & (np.abs(all_slopes) > 1e-6)
        if inverse is not None:
            found = inverse.function(step.eqn.params, jnp.asarray(all_y[inside]))
            np.testing.assert_allclose(found, all_x[inside], rtol=1e-7, atol=1e-7)


def test_digamma_is_not_taken_for_increasing():
    x = np.asarray([-0.5, 0.7, 1.4])
    assert reversed_pairs(x, np.asarray(jax.scipy.special.digamma(x)))


@pytest.mark.parametrize("name", CASES)
def test_an_inverse_leads_back_and_has_the_inverse_derivative(name, x64):
    f, step, record = equation(name, CASES[name][1])
    for domains in itertools.product(*map(intervals, CASES[name][1])):
        x = grid(domains)
        for at, domain in enumerate(domains):
            inverse = inverse_of(step.name, step.eqn.params, at, domain)
            others = [v for i, v in enumerate(x) if i != at]
            if inverse is None:
                assert record.folds or "inverse" in record.missing, domain
                continue
            keep = np.abs(gradients(f, x)[at]) > 1e-6
            y, others = np.asarray(f(*x))[keep], [v[keep] for v in others]
            assert ((inverse.image[0] < y) & (y < inverse.image[1])).all()
            found, slope = jax.vmap(
                jax.value_and_grad(lambda y, *o, i=inverse: i.function(step.eqn.params, y, *o))
            )(jnp.asarray(y), *others)
            np.testing.assert_allclose(found, x[at][keep], rtol=1e-7, atol=1e-7)
            np.testing.assert_allclose(slope * gradients(f, x)[at][keep], 1, rtol=1e-6)


@pytest.mark.parametrize("name", UNARY)
def test_zero_is_kept_where_the_record_says_so(name, x64):
    f, step, record = equation(name, CASES[name][1])
    zero = np.zeros(1, bool)
    mask = record.support and record.support(step.eqn.params, zero)
    is_kept = mask is not None or step.name == "copy"
    assert is_kept == (float(f(0.0)) == 0), f"support=keeps_zero, and only if f(0) = {f(0.0)} is 0"


@pytest.mark.parametrize("name", ["abs", "square", "cosh", "cos", "relu", "integer_pow 4", "clamp"])
def test_a_folding_operation_has_two_numbers_with_one_image(name, x64):
    f, step, _ = equation(name, CASES[name][1])
    assert is_folding(step.name, step.eqn.params, UNBOUNDED)
    fixed = [d[0] for d in CASES[name][1]]
    at = 1 if name == "clamp" else 0
    y = [float(f(*fixed[:at], x, *fixed[at + 1 :])) for x in (-7.0, -6.9, 6.9, 7.0)]
    y += [float(f(0.5 - np.pi)), float(f(np.pi - 0.5))] if name == "cos" else []
    assert len({round(v, 9) for v in y}) < len(y)


def test_bounds_of_nothing_known_are_unbounded_or_the_image():
    for name, (_, domains) in CASES.items():
        _, step, record = equation(name, domains)
        if record.bounds is None:
            continue
        low, high = record.bounds(step.eqn.params, *[(-INF, INF)] * len(domains))
        assert not low > high, name
