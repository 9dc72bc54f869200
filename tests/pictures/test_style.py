"""The house style: robust limits of colours, axes that do not exaggerate, labels that lie apart."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from fmritok.pictures.style import (
    COLOURS,
    calm_limits,
    figure_of,
    house_style,
    label_lines,
    png,
    robust_limit,
)


def test_an_outlier_does_not_change_the_limit_of_colours():
    values = np.random.default_rng(0).standard_normal(10_000)
    before = robust_limit(values)
    values[0], values[1] = 1e6, np.nan
    assert robust_limit(values) == pytest.approx(before, rel=0.02)
    assert robust_limit([0.0, np.nan]) == 1.0


@pytest.mark.parametrize("values", [[0.98, 1.0], [100.0, 101.0], [-0.5, -0.49], [0.0, 0.0]])
def test_small_differences_look_small(values):
    axes = figure_of(3, 2).subplots()
    calm_limits(axes, values)
    low, high = axes.get_ylim()
    assert low <= min(values) <= max(values) <= high
    assert high - low >= 0.25 * max(map(abs, values))


def test_a_spike_at_the_start_does_not_squeeze_a_curve_but_references_are_shown():
    axes = figure_of(3, 2).subplots()
    calm_limits(axes, [50.0, *np.linspace(2.0, 1.0, 200)], [3.0])
    low, high = axes.get_ylim()
    assert low < 1.1
    assert 3.0 < high < 4.0


def test_labels_beside_lines_keep_their_order_and_do_not_overlap():
    axes = figure_of(4, 3).subplots()
    axes.set_ylim(0, 1)
    ends = [0.50, 0.505, 0.51, 0.1, 0.99, 1.0, 2.0]
    label_lines(axes, [(y, f"line {y}", COLOURS[0]) for y in ends])
    places = {note.get_text(): note.xy[1] for note in axes.texts}
    found = [places[f"line {y}"] for y in sorted(ends)]
    assert found == sorted(found)
    assert np.diff(found).min() > 0.06


def test_the_style_ends_with_the_picture():
    before = matplotlib.rcParams["axes.spines.top"]
    with house_style():
        assert not matplotlib.rcParams["axes.spines.top"]
        assert png(figure_of(1, 1, "title")).startswith(b"\x89PNG")
    assert matplotlib.rcParams["axes.spines.top"] == before


def test_colours_differ_in_lightness():
    """What is told apart by lightness is told apart by everybody, and in grey print."""

    def lightness(colour: str) -> float:
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return float(np.dot(rgb, [0.2126, 0.7152, 0.0722]))

    values = sorted(lightness(colour) for colour in COLOURS[:3])
    assert np.diff(values).min() > 0.05
