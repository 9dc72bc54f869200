"""Mean tokens are those of the stored values, of runs and of windows of events."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from people import a_task

from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.baselines.material import mean_tokens, parcel_series
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.tasks.units import units_of

SUBJECTS = ["100", "100", "101", "101", "102", "102"]


def _opened(make_store, **options):
    location, written = make_store([20, 26] * 3, n_tokens=3, dim=4, subjects=SUBJECTS, **options)
    group = TokenStore(location.url).group("vae")
    return group, {run: group[run] for run in written}


def test_of_runs_they_are_mean_and_standard_deviation_averaged_over_the_unit(make_store):
    group, values = _opened(make_store)
    people = pd.DataFrame({"dataset": "demo", "subject": ["100", "101", "102"], "session": "",
                           "sex": ["M", "F", "M"]})  # fmt: skip
    units = units_of(a_task(), group.runs, people)
    found = mean_tokens(group, units)
    assert found.shape == (3, 24)
    for subject, features in zip(units.ids, found, strict=True):
        runs = [x for run, x in values.items() if run.startswith(f"demo_{subject[5:]}")]
        wanted = np.mean([np.concatenate([x.mean(0).ravel(), x.std(0).ravel()]) for x in runs], 0)
        np.testing.assert_allclose(features, wanted, atol=2e-3)
    with pytest.raises(ConfigError, match="one number for each parcel and frame.*got 4 features"):
        parcel_series(group, units)


def test_of_windows_they_are_the_mean_less_that_of_the_run(make_store):
    group, values = _opened(make_store)
    events = pd.DataFrame(
        [(run, onset, 1.0, kind) for run in values for onset, kind in ((1, "a"), (5, "b"))],
        columns=["run_id", "onset", "duration", "trial_type"],
    )  # fmt: skip
    task = a_task("trial_type", "binary", "window", delay=0.0, window=3.6)
    units = units_of(task, group.runs, pd.DataFrame({"dataset": [], "subject": []}), events)
    found = mean_tokens(group, units)
    assert found.shape == (12, 12)
    for name, features in zip(units.ids, found, strict=True):
        run, _, first = name.partition("@")
        x = values[run]
        wanted = x[int(first) : int(first) + 5].mean(0) - x.mean(0)
        np.testing.assert_allclose(features, wanted.ravel(), atol=2e-3)
