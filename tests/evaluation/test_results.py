"""Results are written whole, with intervals and paired differences, and read back."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from people import a_task, some_units

from fmritok.trainer.errors import ConfigError, TrainingError
from fmritok.trainer.evaluation import results, summary
from fmritok.trainer.evaluation.heads import linear
from fmritok.trainer.evaluation.results import FILES, read_results, results_table, write_results
from fmritok.trainer.evaluation.scoring import score_features
from fmritok.trainer.evaluation.summary import Results
from fmritok.trainer.evaluation.unit_features import Fixed
from fmritok.trainer.tasks.splits import folds_of
from fmritok.trainer.tasks.task import SplitRule, read_task


def _results(task=None, strength=1.5):
    units = some_units(task, 30)
    folds = folds_of(units, units.task.split)
    noise = np.random.default_rng(0).standard_normal((len(units), 4))
    x = noise.copy()
    numbers = units.labels.values if units.task.kind == "regression" else units.codes
    x[:, 0] += strength * (numbers - numbers.mean()) / numbers.std()
    rows = score_features(units, folds, "good", Fixed(x, units.ids), permutations=6)
    rows += score_features(units, folds, "noise", Fixed(noise, units.ids))
    rows += score_features(units, folds, "dummy", None)
    return Results(units, tuple(folds), tuple(rows), {"overlap": None})


@functools.cache
def _of_sex(strength):
    return _results(strength=strength)


@pytest.mark.parametrize(
    "task", [a_task(), a_task("age", "regression"), a_task("site", "multiclass")]
)
def test_what_is_written_is_read_back_and_follows_from_the_predictions(task, tmp_path):
    from sklearn.metrics import accuracy_score, roc_auc_score

    results = _results(task)
    tree = write_results(tmp_path / "out", results, draws=60)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(FILES)
    again, predictions = read_results(tmp_path / "out")
    assert again == json.loads(json.dumps(tree))
    assert read_task(str(tmp_path / "out" / "task.yaml")).target == task.target
    assert len(predictions) == 3 * 2 * 30
    assert {"unit", "fold", "seed", "truth", "score"} <= set(predictions)
    figures = {row["row"]: row["figures"] for row in tree["rows"]}
    good = predictions[predictions["row"] == "good"]
    folds = [one for _, one in good.groupby(["seed", "fold"])]
    if task.kind == "regression":
        name, values = "r", [np.corrcoef(f["truth"], f["score"])[0, 1] for f in folds]
    elif task.kind == "binary":
        name, values = "auroc", [roc_auc_score(f["truth"] == "M", f["score"]) for f in folds]
    else:
        name, values = "acc", [accuracy_score(f["truth"], f["predicted"]) for f in folds]
    assert figures["good"][name]["mean"] == pytest.approx(np.mean(values))
    assert np.ravel(figures["good"][name]["folds"]) == pytest.approx(values)
    low, high = figures["good"][name]["interval"]
    assert low <= figures["good"][name]["mean"] <= high
    assert low < 1
    assert figures["good"][name]["chance"]["permutations"] == 6
    permuted = [one.permuted[name] for one in results.rows[0].predictions]
    assert figures["good"][name]["chance"]["mean"] == pytest.approx(np.mean(permuted))
    assert figures["dummy"][name]["chance"] is None
    assert len({fold["sha256"] for fold in tree["folds"]}) == 6
    table = results_table(tree)
    assert len(table.columns[0]._cells) == 3 * len(figures["good"])
    assert {f"{name.replace('_', ' ')} *"} == {c for c in table.columns[1]._cells if "*" in c}
    assert table.caption == "* main metric of the task"


def test_differences_are_paired(tmp_path):
    tree = write_results(tmp_path, _of_sex(1.5), draws=200)
    (difference,) = [d for d in tree["differences"] if (d["row"], d["minus"]) == ("noise", "good")]
    figures = {row["row"]: row["figures"]["auroc"] for row in tree["rows"]}
    assert difference["mean"] == pytest.approx(figures["noise"]["mean"] - figures["good"]["mean"])
    assert difference["interval"][1] < 0
    assert len(tree["differences"]) == 3


def test_intervals_draw_families_and_not_their_members(tmp_path, monkeypatch):
    drawn = []
    whole = summary.drawn_counts
    monkeypatch.setattr(
        summary, "drawn_counts", lambda names, **more: drawn.append(names) or whole(names, **more)
    )
    write_results(tmp_path, _of_sex(1.5), draws=10)
    family = _of_sex(1.5).units.labels.family
    assert len(set(family)) == 15
    assert [names.tolist() for names in drawn] == [family.tolist()]


@pytest.mark.parametrize(
    ("by", "inner"),
    [("family", "family"), ("subject", "subject"), ("site", "site"), ("leave-site-out", "site")],
)
def test_inner_folds_keep_together_what_the_folds_of_the_task_do(by, inner):
    units, seen = some_units(a_task(split=SplitRule(by, 3, 1))), []

    def head(problem, features):
        seen.append(problem.group.tolist())
        return linear(problem, features)

    x = np.random.default_rng(0).standard_normal((len(units), 4))
    score_features(units, folds_of(units, units.task.split), "x", Fixed(x, units.ids), head=head)
    groups = {"family": units.labels.family, "subject": units.subject, "site": units.site}
    assert seen == [groups[inner].tolist()] * 3


def test_results_that_do_not_fit_together_are_refused(tmp_path):
    write_results(tmp_path / "a", _of_sex(1.5), draws=10)
    write_results(tmp_path / "b", _of_sex(0.5), draws=10)
    (tmp_path / "a" / "predictions.csv").write_bytes(
        (tmp_path / "b" / "predictions.csv").read_bytes()
    )
    with pytest.raises(ConfigError, match=r"written together, got another predictions\.csv"):
        read_results(tmp_path / "a")
    (tmp_path / "b" / "task.yaml").unlink()
    for folder in (tmp_path / "b", tmp_path / "none"):
        with pytest.raises(ConfigError, match="written together, got"):
            read_results(folder)


def test_an_interrupted_writing_leaves_no_scores(tmp_path, monkeypatch):
    write_results(tmp_path, _of_sex(1.5), draws=10)

    def full(path, content):
        if path.name == "splits.json":
            raise OSError(28, "No space left on device")
        path.write_text(content)

    monkeypatch.setattr(results, "write_whole", full)
    with pytest.raises(TrainingError, match="Results .* No space left"):
        write_results(tmp_path, _of_sex(0.5), draws=10)
    with pytest.raises(ConfigError):
        read_results(tmp_path)


def test_labels_that_are_constant_in_every_fold_are_one_error():
    units = some_units(a_task("age", "regression"))
    folds = folds_of(units, units.task.split)
    units.labels.values[:] = 30.0
    rows = score_features(units, folds, "dummy", None)
    with pytest.raises(ConfigError, match="one in which r can be computed"):
        write_results("never", Results(units, tuple(folds), tuple(rows)), draws=5)
