"""Sizes and times are printed in units that fit."""

from __future__ import annotations

import pytest

from fmritok.quantities import duration, size


@pytest.mark.parametrize(("n_bytes", "text"), [
    (0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (12_340, "12.3 kB"),
    (3_250_000, "3.2 MB"), (999_600_000, "1.0 GB"), (512e9, "512 GB"), (2.5e12, "2.5 TB"),
    (4e18, "4,000 PB"),
])  # fmt: skip
def test_sizes(n_bytes, text):
    assert size(n_bytes) == text


@pytest.mark.parametrize(("seconds", "text"), [
    (0.2, "under 1 s"), (8.4, "8 s"), (59.7, "1 min"), (125, "2 min"), (3590, "1 h"),
    (3600 * 3 + 1200, "3 h 20 min"), (86400 * 2, "2 d"), (86400 * 2 + 3600 * 5, "2 d 5 h"),
])  # fmt: skip
def test_times(seconds, text):
    assert duration(seconds) == text
