"""Figures draw plain results on the axes they are given, and touch nothing global."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from funcdl import viz
from funcdl.operators import EigenPairs, SpectralDensity
from funcdl.stats.gaussian import Gaussian
from funcdl.train import History

RNG = np.random.default_rng(0)


def history(count=60, values=None):
    loss = np.exp(-np.arange(count) / 20) if values is None else values
    return History(np.arange(1, count + 1), {"loss": loss}, [(20, {"loss": 0.4})], 0.0, 0.0)


PAIRS = EigenPairs(
    np.asarray([5.0, -3.0, 1.0]),
    np.eye(3),
    np.asarray([0.1, 0.2, 0.3]),
    np.asarray([True, True, False]),
    9,
)
SPECTRUM = SpectralDensity(
    RNG.normal(size=(4, 6)).astype(np.float32), np.full((4, 6), 1 / 6, np.float32), 0.1, 24
)
PLANES = Gaussian(np.zeros((2, 2), np.float32), np.stack([np.eye(2, dtype=np.float32)] * 2))
COUNTS = np.asarray([[3, 0, 1], [0, 4, 0], [0, 0, 0]])

DRAWINGS = {
    "curve": lambda ax: viz.curve(ax, history(), "loss"),
    "eigenvalues": lambda ax: viz.eigenvalues(ax, PAIRS),
    "density": lambda ax: viz.spectral_density(ax, SPECTRUM, points=50),
    "confusion": lambda ax: viz.confusion(ax, COUNTS),
    "ellipses": lambda ax: viz.ellipses(ax, PLANES),
    "bars": lambda ax: viz.bars(ax, ["a", "b"], np.asarray([1.0, 10.0]), label="norm"),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_is_drawn_on_the_given_axes_and_returned(name):
    ax = Figure().subplots()
    style = matplotlib.rcParams.copy()
    assert DRAWINGS[name](ax) is ax
    assert ax.lines or ax.collections or ax.patches
    assert ax.get_xlabel()
    assert matplotlib.rcParams.copy() == style


def test_no_figure_needs_pyplot_or_chooses_a_backend():
    code = """
import sys
sys.path[:0] = sys.argv[1:]
from test_figures import DRAWINGS, matplotlib, viz
for name, draw in DRAWINGS.items():
    viz.figure(draw, alt=name)
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.get_backend(auto_select=False) is None
"""
    folder = str(__file__).rsplit("/", 1)[0]
    subprocess.run([sys.executable, "-c", code, folder], check=True)


def test_importing_viz_does_not_import_matplotlib():
    code = "import sys, funcdl.viz; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def points(line):
    return np.stack(line.get_data())


def test_a_curve_shows_every_step_its_running_mean_and_the_validation():
    found = viz.curve(Figure().subplots(), history(), "loss", window=10)
    raw, mean, validation = map(points, found.lines)
    values = history().metrics["loss"]
    np.testing.assert_array_equal(raw, [history().steps, values])
    np.testing.assert_allclose(mean[1], [values[i : i + 10].mean() for i in range(51)])
    np.testing.assert_array_equal(mean[0], np.arange(10, 61))
    np.testing.assert_array_equal(validation, [[20], [0.4]])


def test_a_loss_gets_a_logarithmic_axis_only_where_it_is_positive():
    assert viz.curve(Figure().subplots(), history(), "loss").get_yscale() == "log"
    signed = history(values=np.linspace(1, -1, 60))
    assert viz.curve(Figure().subplots(), signed, "loss").get_yscale() == "linear"


def test_the_curve_of_an_ensemble_is_the_mean_of_its_members():
    lanes = np.stack([np.ones(60), np.full(60, 3.0)], axis=1)
    found = viz.curve(Figure().subplots(), history(values=lanes), "loss")
    np.testing.assert_array_equal(points(found.lines[0])[1], np.full(60, 2.0))


def test_a_long_curve_stays_light_and_keeps_its_range():
    values = np.linspace(1, 2, 100_000)
    found = viz.curve(Figure().subplots(), history(100_000, values), "loss")
    x, y = points(found.lines[0])
    assert len(x) <= 600
    assert x[-1] == 100_000
    np.testing.assert_allclose([y[0], y[-1]], [1, 2], atol=0.002)


def test_eigenvalues_that_did_not_converge_are_set_apart_with_bars_as_long_as_residuals():
    ax = viz.eigenvalues(Figure().subplots(), PAIRS)
    sound, loose = ax.containers
    assert (sound.get_label(), loose.get_label()) == ("converged", "not converged")
    assert sound.lines[0].get_color() != loose.lines[0].get_color()
    np.testing.assert_array_equal(points(loose.lines[0]), [[3], [1]])
    ((low, high),) = (np.asarray(s)[:, 1] for s in loose.lines[2][0].get_segments())
    np.testing.assert_allclose((low, high), (0.7, 1.3))


def test_the_density_integrates_to_one_inside_its_band():
    ax = viz.spectral_density(Figure().subplots(), SPECTRUM)
    grid, value = points(ax.lines[0])
    np.testing.assert_allclose(np.trapezoid(value, grid), 1, atol=1e-3)
    band = ax.collections[0].get_paths()[0].vertices
    top = np.asarray([band[np.isclose(band[:, 0], x), 1].max() for x in grid[::40]])
    assert (top >= value[::40] * (1 - 1e-6)).all()


def test_a_spectrum_of_one_value_can_be_drawn():
    one = SPECTRUM._replace(nodes=np.zeros_like(SPECTRUM.nodes))
    ax = viz.spectral_density(Figure().subplots(), one, points=50)
    assert np.isfinite(points(ax.lines[0])).all()


def test_a_confusion_matrix_writes_its_counts_and_shades_shares():
    ax = viz.confusion(Figure().subplots(), COUNTS)
    assert sorted((t.get_position(), t.get_text()) for t in ax.texts) == [
        ((0, 0), "3"),
        ((1, 1), "4"),
        ((2, 0), "1"),
    ]
    shares = np.asarray(ax.collections[0].get_array()).reshape(3, 3)
    np.testing.assert_allclose(shares, [[0.75, 0, 0.25], [0, 1, 0], [0, 0, 0]])


def test_images_of_one_or_three_channels_are_drawn_with_their_titles():
    for shape in [(2, 4, 4), (2, 4, 4, 1), (2, 4, 4, 3)]:
        axes = Figure().subplots(1, 2)
        viz.images(axes, np.zeros(shape), ["a", "b"])
        assert [ax.get_title() for ax in axes] == ["a", "b"]
        assert all(len(ax.images) == 1 for ax in axes)
