"""Counts, sizes and times as they are printed."""

from __future__ import annotations

import numpy as np
import pytest

from fmritok.pipeline.commands.inspect_output import print_runs
from fmritok.quantities import counted, duration, size


@pytest.mark.parametrize(("number", "noun", "text"), [
    (0, "run", "0 runs"), (1, "run", "1 run"), (np.int64(1), "frame", "1 frame"),
    (1200.0, "step", "1,200 steps"), (2, "patch", "2 patches"), (1, "more class", "1 more class"),
    (2, "more class", "2 more classes"), (3, "family", "3 families"), (2, "day", "2 days"),
])  # fmt: skip
def test_a_noun_has_the_number_of_its_count(number, noun, text):
    assert counted(number, noun) == text


@pytest.mark.parametrize(("n_bytes", "text"), [
    (0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (12_340, "12.3 kB"),
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


def test_one_subject_of_two_cohorts_is_two(capsys):
    run = {"run_id": "a", "subject": "01", "session": "", "task": "rest", "site": "", "tr": 2.0,
           "groups": {}}  # fmt: skip
    print_runs([run | {"dataset": "here"}])
    assert "1 run of 1 subject\n" in capsys.readouterr().out
    print_runs([run | {"dataset": name} for name in ("here", "there")])
    assert "2 runs of 2 subjects" in capsys.readouterr().out
