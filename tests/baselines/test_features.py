"""Features of baselines equal nilearn's, are fitted on training units, and refuse NaN."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from nilearn.connectome import ConnectivityMeasure
from people import some_units

from fmritok.trainer.baselines.connectivity import connectivity
from fmritok.trainer.baselines.material import too_short
from fmritok.trainer.errors import ConfigError, TrainingError
from fmritok.trainer.evaluation.unit_features import Columns, Edges, Fixed, Residual
from fmritok.trainer.tasks.confounds import nuisance_table

TRAIN, TEST = np.arange(6), np.arange(6, 9)


def _series(rng, n_units=9, n_parcels=5):
    mix = rng.standard_normal((n_parcels, n_parcels))
    return [rng.standard_normal((60, n_parcels)) @ mix for _ in range(n_units)]


def test_correlations_are_pearsons(rng):
    series = _series(rng)
    features, details = connectivity(series, "pearson")
    x, x_test = features.fold(TRAIN, TEST)
    assert x.shape == (6, 10)
    lower = np.tril_indices(5, -1)
    for values, one in zip(np.concatenate([x, x_test]), series, strict=True):
        np.testing.assert_allclose(values, np.arctanh(np.corrcoef(one.T)[lower]), rtol=1e-4)
    assert details == {"connectivity": "pearson", "parcels": 5, "parcels_without_signal": 0}


def test_partial_correlations_are_nilearns(rng):
    series = _series(rng)
    x, _ = connectivity(series, "partial")[0].fold(TRAIN, TEST)
    theirs = ConnectivityMeasure(
        kind="partial correlation", vectorize=True, discard_diagonal=True, standardize=False
    ).fit_transform(series)
    np.testing.assert_allclose(np.tanh(x), theirs[:6], rtol=1e-3, atol=1e-5)


def test_the_tangent_space_is_that_of_the_training_units(rng):
    series = _series(rng)
    features, _ = connectivity(series, "tangent")
    x, x_test = features.fold(TRAIN, TEST)
    theirs = ConnectivityMeasure(kind="tangent", vectorize=True, standardize=False)
    np.testing.assert_allclose(x, theirs.fit_transform(series[:6]), atol=1e-6)
    np.testing.assert_allclose(x_test, theirs.transform(series[6:]), atol=1e-6)
    changed = [*series[:8], 5 * series[8][:, ::-1]]
    again, again_test = connectivity(changed, "tangent")[0].fold(TRAIN, TEST)
    np.testing.assert_array_equal(again, x)
    np.testing.assert_array_equal(again_test[:2], x_test[:2])
    other, _ = features.fold(TEST, TRAIN)
    assert not np.allclose(other, x_test)


def test_parcels_without_signal_are_completed_or_left_out_and_counted(rng):
    series = _series(rng)
    for one in series[:2]:
        one[:, 1] = 0.0
    features, details = connectivity(series, "pearson")
    assert details["parcels_without_signal"] == 1
    x, x_test = features.fold(TRAIN, TEST)
    assert x.shape[1] == 10
    assert np.isfinite(x).all()
    lower = np.tril_indices(5, -1)
    of_parcel = (lower[0] == 1) | (lower[1] == 1)
    np.testing.assert_allclose(x[0, of_parcel], x[2:, of_parcel].mean(0), rtol=1e-5)
    assert connectivity(series, "partial")[0].fold(TRAIN, TEST)[0].shape[1] == 6
    for one in series[2:]:
        one[:, :3] = 0.0
    with pytest.raises(ConfigError, match="three or more with a signal in every unit, got 2"):
        connectivity(series, "tangent")


def test_connections_that_most_training_units_lack_are_left_out():
    values = np.arange(27.0).reshape(9, 3)
    values[:4, 0] = values[7, 1] = np.nan
    x, x_test = Edges(values).fold(TRAIN, TEST)
    assert x.shape == (6, 2)
    assert x_test[1, 0] == values[:6, 1].mean()


def test_a_nan_names_its_unit():
    values = np.ones((3, 2))
    values[1, 0] = np.nan
    with pytest.raises(TrainingError, match="of b: expected finite numbers, got NaN .* 1 of 3"):
        Fixed(values, np.array(["a", "b", "c"]))


def test_confounds_are_regressed_by_the_training_units_alone(rng):
    table = pd.DataFrame({"x": rng.standard_normal(9), "site": list("aabbab") + ["a", "b", "new"]})
    confounds = Columns(table)
    c, c_test = confounds.fold(TRAIN, TEST)
    np.testing.assert_allclose(c.mean(0), 0, atol=1e-12)
    assert c.shape == (6, 3)
    assert (c_test[2, 1:] == 0).all()
    values = rng.standard_normal((9, 4)) + 3 * c_test[:1, :1]
    fixed = Fixed(values, np.array(list("abcdefghi")))
    x, x_test = Residual(fixed, confounds).fold(TRAIN, TEST)
    np.testing.assert_allclose(c.T @ x, 0, atol=1e-10)
    changed = values.copy()
    changed[6:] += 100
    again, again_test = Residual(Fixed(changed, fixed.ids), confounds).fold(TRAIN, TEST)
    np.testing.assert_array_equal(again, x)
    np.testing.assert_allclose(again_test, x_test + 100)


def test_nuisance_variables_are_those_that_are_there():
    from people import people

    _, phenotypes = people()
    units = some_units()
    found, left_out = nuisance_table(
        ["age", "sex", "site", "motion"], units, phenotypes, asked=False
    )
    assert list(found) == ["age", "site", "motion"]
    assert left_out == {"sex": "the target"}
    assert found["motion"].tolist() == phenotypes["mean_fd"].tolist()
    assert found["site"].tolist() == units.site.tolist()
    units.runs["motion"] = np.arange(len(units.runs)) / 10  # the runs' own goes first
    found, _ = nuisance_table(["motion"], units, phenotypes, asked=True)
    of_units = units.runs.groupby(units.labels.of_row)["motion"].mean()
    assert found["motion"].tolist() == of_units[of_units.index >= 0].tolist()
    units.runs["motion"] = np.nan
    phenotypes["mean_fd"] = np.nan
    phenotypes["age"] = 3
    phenotypes["far"] = [np.inf, *range(23)]
    _, left_out = nuisance_table(["age", "motion"], units, phenotypes, asked=False)
    assert left_out == {"age": "the same for all units", "motion": "known of 0% of the units"}
    for name, words in (("agee", "Did you mean age"), ("sex", "which is the target"),
                        ("motion", "a value of every unit, got known of 0%"),
                        ("age", "different values, got the same"),
                        ("far", "finite numbers, got infinity")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            nuisance_table([name], units, phenotypes, asked=True)


def test_units_with_few_frames_are_known():
    units = some_units()
    assert not too_short(units).any()
    units.runs.loc[units.runs["subject"] == "103", "n_frames"] = 9
    assert units.ids[too_short(units)].tolist() == ["demo/103"]
