"""Log-densities transformed by functions: pushforward, pullback, and sampling."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from funcdl._closure import as_partial
from funcdl._typing import Array, ArrayLike, Function, LogProb, PyTree, Sampler
from funcdl.density._arguments import prepared
from funcdl.density._inverse import StaticShapes, inverted_with_log_det, point, shapes
from funcdl.density._inversion import injectivity
from funcdl.density._inversion.invert import judge_each
from funcdl.density._log_det import value_and_log_det
from funcdl.density._trace import traced


def pushforward(log_p: LogProb, f: Function, like: PyTree | None = None) -> LogProb:
    r"""Return the log-density of :math:`Y = f(X)`.

    .. math:: \log p_Y(y) = \log p_X(f^{-1}(y)) + \log|\det \partial f^{-1}/\partial y|

    It is -inf outside the image of f, as far as bounds of the operations of f show the image; the
    image of ``softplus``, for instance, has no negative y. Its gradient is 0 there.

    Args:
        log_p: A function ``log_p(x) -> scalar``, the log-density of X.
        f: An injective function ``f(x, *args)``.
        like: Arrays or shapes of the form of x; by default x has the form of y.

    Returns:
        A function ``log_q(y, *args) -> scalar``.

    Raises:
        NotInjectiveError: If several points have the same image; ``pushforward_branches`` sums over
            them.

    >>> import jax.numpy as jnp
    >>> normal = lambda x: -0.5 * (x**2 + jnp.log(2 * jnp.pi))
    >>> pushforward(normal, jnp.exp)(2.0).round(5).item()  # the log-normal density at 2
    -1.85231
    """
    f, like = as_partial(f), shapes(like)

    def log_q(y, *args):
        g, given = prepared(f, point(like, y), args)
        x, log_det, reached = inverted_with_log_det(g, StaticShapes(like), y, given, True)
        return jnp.where(reached, log_p(x) + log_det, -jnp.inf)

    return log_q


def pullback(log_q: LogProb, f: Function) -> LogProb:
    r"""Return the log-density of X if :math:`f(X)` has the density q, without inverting f.

    .. math:: \log p_X(x) = \log q(f(x)) + \log|\det \partial f/\partial x|

    Args:
        log_q: A function ``log_q(y) -> scalar``, the log-density of f(X).
        f: An injective function ``f(x, *args)``.

    Returns:
        A function ``log_p(x, *args) -> scalar``.

    Raises:
        NotInjectiveError: If the structure shows that several points have the same image. The
            values of ``args`` are not tested, because that would cost time at every training step.

    >>> import jax.numpy as jnp
    >>> normal = lambda y: -0.5 * (y**2 + jnp.log(2 * jnp.pi))
    >>> pullback(normal, jnp.log)(2.0).round(5).item()
    -1.85231
    """
    transformed = value_and_log_det(f)

    def log_p(x, *args):
        _require_injective(f, x, args)
        y, log_det = transformed(x, *args)
        return log_q(y) + log_det

    return log_p


def sample_and_log_prob(sample: Sampler, log_p: LogProb, f: Function) -> Function:
    r"""Draw :math:`Y = f(X)` together with its log-density, without inverting f.

    Args:
        sample: A function ``sample(key) -> x``.
        log_p: A function ``log_p(x) -> scalar``, the log-density of X.
        f: An injective function ``f(x, *args)``.

    Returns:
        A function ``draw(key, *args) -> (y, log_q)``.

    Raises:
        NotInjectiveError: If the structure shows that several points have the same image.

    >>> import jax, jax.numpy as jnp
    >>> normal = lambda x: -0.5 * (x**2 + jnp.log(2 * jnp.pi))
    >>> draw = sample_and_log_prob(jax.random.normal, normal, jnp.exp)
    >>> y, log_q = draw(jax.random.key(0))
    >>> jnp.allclose(log_q, pushforward(normal, jnp.exp)(y), atol=1e-5).item()
    True
    """
    transformed = value_and_log_det(f)

    def draw(key, *args):
        x = sample(key)
        _require_injective(f, x, args)
        y, log_det = transformed(x, *args)
        return y, log_p(x) - log_det

    return draw


def pushforward_branches(log_p: LogProb, f: Function, inverses: Sequence[Function]) -> LogProb:
    r"""Return the log-density of :math:`Y = f(X)` for a map with several pre-images.

    .. math:: p_Y(y) = \sum_{x:\, f(x) = y} p_X(x) \, |\det \partial f/\partial x|^{-1}

    A branch counts where f maps its point back to y, up to rounding. Integers have no Jacobian, so
    the masses of discrete variables are summed.

    Args:
        log_p: A function ``log_p(x) -> scalar``: a log-density, or the logarithm of a mass.
        f: A function ``f(x, *args)``.
        inverses: One function ``inverse(y, *args) -> x`` per branch; together they give each
            pre-image once.

    Returns:
        A function ``log_q(y, *args) -> scalar``; -inf where no branch has a pre-image.

    Raises:
        ValueError: If ``inverses`` is empty.

    >>> import jax.numpy as jnp
    >>> normal = lambda x: -0.5 * (x**2 + jnp.log(2 * jnp.pi))
    >>> square = pushforward_branches(normal, jnp.square, [jnp.sqrt, lambda y: -jnp.sqrt(y)])
    >>> square(1.0).round(5).item()  # chi-squared with one degree of freedom
    -1.41894
    """
    if not inverses:
        raise ValueError("inverses is empty; expected one function per branch of the inverse")
    transformed = value_and_log_det(f)

    def log_q(y, *args):
        terms = []
        for inverse in inverses:
            x = inverse(y, *args)
            again, log_det = transformed(x, *args)
            is_own = _is_close(again, y, _rounding(lambda x: f(x, *args), x, again))
            terms.append(jnp.where(is_own, log_p(x) - log_det, -jnp.inf))
        return jax.nn.logsumexp(jnp.stack(terms))

    return log_q


def _require_injective(f: Function, x: PyTree, args: tuple) -> None:
    """Refuse a function whose structure shows that it is not injective.

    Raises:
        NotInjectiveError: Names the operation, file and line.
    """
    g, given = prepared(as_partial(f), x, args)
    jax.eval_shape(_judged, g, shapes(x), shapes(given))


@jax.jit
def _judged(f: Partial, x: PyTree, args: tuple) -> list:
    analysis = traced(f, x, args).analysis
    injectivity.require_square(analysis)
    for verdict in judge_each(analysis):
        if verdict.startswith("refuted: "):
            raise injectivity.NotInjectiveError(verdict.removeprefix("refuted: "))
    return []


def _is_close(a: PyTree, b: PyTree, rounding: PyTree) -> Array:
    """Tell whether two trees are equal up to rounding, integers exactly."""

    def close(x, y, error):
        if not _is_float(x):
            return (x == y).all()
        eps = jnp.finfo(jnp.result_type(x)).eps
        return (jnp.abs(x - y) <= 1e3 * (eps * jnp.abs(y) + error)).all()

    return jnp.stack(jax.tree.leaves(jax.tree.map(close, a, b, rounding))).all()


def _rounding(f: Function, x: PyTree, y: PyTree) -> PyTree:
    """Return by how much the image y of x changes if each number of x changes by its rounding."""
    # cos(pi / 2) is 0 up to the rounding of pi / 2, which the size of the image does not show
    errors = []
    for sign in (1, -1):
        near = jax.tree.map(lambda a, s=sign: a * (1 + s * _eps(a)) if _is_float(a) else a, x)
        errors.append(jax.tree.map(lambda a, b: jnp.abs(a - b) if _is_float(a) else 0, f(near), y))
    return jax.tree.map(jnp.maximum, *errors)


def _eps(x: ArrayLike) -> float:
    return float(jnp.finfo(jnp.result_type(x)).eps)


def _is_float(x: ArrayLike) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)
