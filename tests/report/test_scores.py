"""Folders of results are joined by task: baselines on top, differences paired, pictures by kind."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from people import a_task, scored_row, some_units
from people import write_scores as write
from scipy.stats import binomtest

from fmritok.pictures.style import house_style
from fmritok.trainer.evaluation.results import read_results
from fmritok.trainer.evaluation.summary import Results, summary
from fmritok.trainer.report.paired import paired_difference
from fmritok.trainer.report.score_figures import _wilson, draw_predictions, draw_rows
from fmritok.trainer.report.scores import join_scores
from fmritok.trainer.tasks.splits import folds_of
from fmritok.trainer.tasks.task import SplitRule

KINDS = [a_task(), a_task("age", "regression"), a_task("site", "multiclass")]


@pytest.mark.parametrize("task", KINDS, ids=lambda task: task.kind)
def test_folders_of_a_task_share_a_table_with_baselines_on_top(task, tmp_path):
    model = write(tmp_path / "a", task, name="probe")
    baseline = write(tmp_path / "b", task, name="connectivity (pearson)", strength=0.2, dummy=True)
    (joined,) = join_scores([model, baseline])
    assert [row.name for row in joined.rows] == ["connectivity (pearson)", "dummy", "probe"]
    assert joined.best.name == "probe"
    assert joined.reference.baseline
    # the difference of two folders is that of their scores
    means = {row.name: row.figure(joined.metric)["mean"] for row in joined.rows}
    (difference,) = [d for d in joined.differences if d["row"] == "probe"]
    reference = means[joined.reference.name] or 0.0
    if means[joined.reference.name] is not None:
        assert difference["mean"] == pytest.approx(means["probe"] - reference)
        low, high = difference["interval"]
        assert low <= difference["mean"] <= high
    with house_style():
        figure, caption = draw_predictions(joined)
        assert len(draw_rows(joined).axes[0].get_yticklabels()) == 3
    assert "probe" in caption
    assert len(figure.axes) == {"binary": 3, "multiclass": 2, "regression": 2}[task.kind]


def test_permuted_labels_are_never_the_best_model(tmp_path):
    model = write(tmp_path / "a", a_task(), name="finetune (all)", strength=0.1)
    control = write(tmp_path / "b", a_task(), name="permuted labels", strength=2.0)
    (joined,) = join_scores([model, control])
    assert joined.best.name == "finetune (all)"
    assert len(joined.rows) == 2


@pytest.mark.parametrize("metric", ["auroc", "mae_sd"])
def test_differences_of_folders_are_those_of_rows_of_one_folder(metric, tmp_path):
    """Both draw families, and standard deviations are those of the training units."""
    task = a_task() if metric == "auroc" else a_task("age", "regression")
    task = replace(task, metric=metric)
    parts = [write(tmp_path / name, task, name=name, strength=strength, seed=seed)
             for name, strength, seed in (("probe", 1.5, 0), ("tokens", 0.5, 1))]  # fmt: skip
    both = [read_results(part) for part in parts]
    units = some_units(task, 30)
    folds = folds_of(units, task.split)
    rows = [scored_row(units, folds, name, strength, seed)
            for name, strength, seed in (("tokens", 0.5, 1), ("probe", 1.5, 0))]  # fmt: skip
    wanted = summary(Results(units, tuple(folds), tuple(rows)))["differences"][0]
    (probe, tokens), tree = (table for _, table in both), both[0][0]
    found = paired_difference(probe, tokens, tree)
    assert found["mean"] == pytest.approx(wanted["mean"])
    assert found["interval"] == pytest.approx(wanted["interval"])


def test_classes_are_text_whatever_they_look_like(tmp_path):
    task = a_task("group", classes={"01": ("1",), "NA": ("2",)})
    (joined,) = join_scores([write(tmp_path / "a", task), write(tmp_path / "b", task, seed=1)])
    assert set(joined.best.predictions["truth"]) == {"01", "NA"}
    assert joined.differences[0]["mean"] is not None
    with house_style():
        figure, _ = draw_predictions(joined)
    assert np.asarray(figure.axes[0].images[0].get_array()).sum(1) == pytest.approx(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("scores") / "a", a_task())


def test_the_same_row_of_two_folders_has_two_names(folder, tmp_path):
    (joined,) = join_scores([folder, shutil.copytree(folder, tmp_path / "b")])
    assert [row.name for row in joined.rows] == ["probe", "probe (b)"]
    assert any("No baseline" in note for note in joined.notes)
    (difference,) = joined.differences
    assert difference["mean"] == 0
    assert difference["interval"] == [0, 0]


def test_rows_of_other_folds_are_not_compared(folder, tmp_path):
    other = write(tmp_path / "b", a_task(split=SplitRule("family", 2, 1)), name="tokens")
    (joined,) = join_scores([folder, other])
    assert joined.differences == []
    assert any("not paired" in note for note in joined.notes)


def test_the_confusion_matrix_counts_predictions(folder):
    (joined,) = join_scores([folder])
    with house_style():
        figure, _ = draw_predictions(joined)
    shares = figure.axes[0].images[0].get_array()
    table = joined.best.predictions
    men = table[table["truth"] == "M"]
    classes = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    at = classes.index("M")
    assert shares[at, at] == pytest.approx((men["predicted"] == "M").mean())
    assert np.asarray(shares).sum(1) == pytest.approx(1)


def test_the_calibration_has_intervals_where_all_or_none_are_true():
    shares, counts = np.array([0.0, 0.3, 1.0]), np.array([8, 10, 8])
    low, high = _wilson(shares, counts)
    for share, n, a, b in zip(shares, counts, low, high, strict=True):
        wanted = binomtest(round(share * n), n).proportion_ci(0.95, method="wilson")
        assert (a, b) == pytest.approx((wanted.low, wanted.high), abs=1e-4)
