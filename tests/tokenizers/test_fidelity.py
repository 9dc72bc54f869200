"""The error of time courses: what counts, and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from fmritok.tokenizers.fidelity import TimeCourseError, spread_frames, time_course_error


def test_it_is_the_error_of_residuals_over_residuals(rng):
    exact = rng.normal(1000, 2, (20, 5, 300))
    wrong = exact + 0.1 * (exact - exact.mean(0)) * np.array([1, -1] * 150)
    found = time_course_error(wrong, exact)
    assert found.median == pytest.approx(0.1)
    assert found.percentile_95 == pytest.approx(0.1)


def test_a_constant_offset_does_not_count_and_features_that_never_change_are_left_out(rng):
    exact = rng.normal(0, 1, (20, 100))
    exact[:, :60] = 7
    values = exact + 3
    values[:, :60] += rng.normal(0, 1, (20, 60))
    assert time_course_error(values, exact).median < 1e-12
    with pytest.raises(ValueError, match="features that change"):
        time_course_error(values[:, :60], exact[:, :60])


def test_the_percentile_is_over_features(rng):
    exact = rng.normal(0, 1, (50, 1000))
    values = exact + rng.normal(0, 1, (50, 1000)) * np.where(np.arange(1000) < 900, 0.01, 1)
    found = time_course_error(values, exact)
    assert found.median == pytest.approx(0.01, rel=0.1)
    assert found.percentile_95 > 0.5
    assert str(TimeCourseError(0.0123, 1.5)) == "1.2 % (95th percentile of features: 150 %)"


def test_frames_are_spread_over_the_run():
    assert spread_frames(5) == [0, 1, 2, 3, 4]
    found = spread_frames(1200)
    assert (len(found), found[0], found[-1]) == (16, 0, 1199)
    assert set(np.diff(found)) <= {79, 80}
