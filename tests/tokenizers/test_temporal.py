"""Every step on time courses, against what is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import butter, sosfreqz

from fmritok.errors import RunError
from fmritok.tokenizers.temporal import bandpass, resample, resampled_frames, standardize


def sine(hz, tr, n_frames):
    return np.sin(2 * np.pi * hz * np.arange(n_frames) * tr)


def test_standardize_subtracts_before_it_divides(rng):
    series = (1000 + 5 * rng.standard_normal((3, 400))).astype(np.float32)
    exact = series.astype(np.float64)
    exact = (exact - exact.mean(1, keepdims=True)) / exact.std(1, keepdims=True)
    assert standardize(series).all()
    np.testing.assert_allclose(series, exact, atol=1e-4)


def test_standardize_makes_still_places_zero():
    series = np.full((2, 50), 0.1, np.float32)
    series[1, 7] = 0.2
    assert standardize(series).tolist() == [False, True]
    assert (series[0] == 0).all()


@pytest.mark.parametrize("hz", [0.002, 0.02, 0.05, 0.2])
def test_the_band_passes_what_its_filter_says(hz):
    tr, n_frames = 0.72, 4000
    found = bandpass(sine(hz, tr, n_frames)[None].astype(np.float32), tr, 0.01, 0.1)[0]
    sos = butter(5, (0.01, 0.1), "bandpass", fs=1 / tr, output="sos")
    gain = np.abs(sosfreqz(sos, worN=[hz], fs=1 / tr)[1][0]) ** 2  # forwards and backwards
    middle = slice(1000, 3000)
    np.testing.assert_allclose(found[middle], gain * sine(hz, tr, n_frames)[middle], atol=2e-3)


def test_the_band_needs_frames_and_a_fast_enough_sampling():
    with pytest.raises(RunError, match=r"at least 34 frames, got 20\..*--set network\.band=null"):
        bandpass(np.zeros((1, 20), np.float32), 2.0, 0.01, 0.1)
    with pytest.raises(RunError, match=r"got 10\..*--set TOKENIZER\.tr=null"):
        resample(np.zeros((1, 10), np.float32), 1.0, 2.0, "pchip")
    with pytest.raises(RunError, match="below 5 s .*got 6 s"):
        bandpass(np.zeros((1, 200), np.float32), 6.0, 0.01, 0.1)


def test_linear_resampling_equals_interp(rng):
    series = rng.standard_normal((4, 101)).astype(np.float32)
    found = resample(series, 0.72, 0.5, "linear")
    at = np.arange(145) * 0.5
    assert found.shape == (4, 145) == (4, resampled_frames(101, 0.72, 0.5))
    for x, y in zip(series, found, strict=True):
        np.testing.assert_allclose(y, np.interp(at, np.arange(101) * 0.72, x), atol=1e-5)


def test_pchip_never_overshoots_a_step():
    step = np.repeat([0.0, 1.0], 20)[None].astype(np.float32)
    found = resample(step, 2.0, 0.5, "pchip")
    assert found.min() >= 0
    assert found.max() <= 1
    assert (np.diff(found[0]) >= -1e-7).all()


def test_slower_sampling_removes_what_would_fold_back():
    tr, n_frames = 0.5, 2000
    fast = sine(0.8, tr, n_frames)[None].astype(np.float32)  # above 0.5 Hz, the new Nyquist
    slow = sine(0.1, tr, n_frames)[None].astype(np.float32)
    assert np.abs(resample(fast, tr, 1.0, "pchip", antialias=False)[0, 200:-200]).max() > 0.5
    assert np.abs(resample(fast, tr, 1.0, "pchip")[0, 200:-200]).max() < 0.01
    kept = resample(slow, tr, 1.0, "pchip")[0, 200:-200]
    np.testing.assert_allclose(kept, sine(0.1, 1.0, 1000)[200:-200], atol=0.03)


@pytest.mark.parametrize("target", [0.5, 1.0, 2.0])
def test_an_impulse_stays_at_its_second(target):
    series = np.zeros((1, 200), np.float32)
    series[0, 80] = 1  # at 57.6 s
    found = resample(series, 0.72, target, "pchip")
    assert abs(np.argmax(found[0]) * target - 57.6) <= target / 2 + 1e-9


def test_nothing_is_sampled_beyond_the_end():
    for n_frames, tr, target in [(100, 0.72, 1.0), (7, 2.0, 3.0), (490, 0.735, 2.0), (10, 1, 1)]:
        n = resampled_frames(n_frames, tr, target)
        assert (n - 1) * target <= (n_frames - 1) * tr + 1e-6 < n * target + 1e-6
