"""``fmritok probe`` from trainings to scores: rows, folds, overlap, and what it refuses."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from probed import probed_store, quick_training
from tiny import fmritok

from fmritok.trainer.evaluation.results import read_results
from fmritok.trainer.probing import rows


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probed")
    store = probed_store(folder)
    quick_training(store, folder / "a", "data.validation_fraction=0.5")
    return folder


def _probe(made, out, *more):
    return fmritok("probe", "--store", made / "tokens.zarr", "--from", made / "a", "--crops", 2,
                   "--seeds", 2, "--folds", 3, "--permutations", 4, "--device", "cpu",
                   "--cache", made / "cache", "--out", out, *more)  # fmt: skip


def test_all_heads_and_untrained_twins_are_rows_on_the_same_folds(made, tmp_path):
    heads = ["--head", "linear", "--head", "logistic", "--head", "knn"]
    done = _probe(made, tmp_path, "--task", "demo-sex", "--untrained", *heads)
    assert done.exit_code == 0, done.output
    assert done.output.count("Warning: Few units: demo-sex (12 subjects)") == 1
    tree, predictions = read_results(tmp_path)
    names = [row["row"] for row in tree["rows"]]
    assert names == [f"{who} ({head})" for head in ("linear", "logistic", "knn")
                     for who in ("mtm a", "untrained, as mtm a")]  # fmt: skip
    assert len(tree["folds"]) == 6
    for _, own in predictions.groupby("row"):
        assert own.groupby("seed")["unit"].nunique().tolist() == [12, 12]
        same = own.sort_values(["seed", "unit"])["fold"].tolist()
        first = predictions[predictions["row"] == names[0]].sort_values(["seed", "unit"])
        assert same == first["fold"].tolist()
    trained, untrained = tree["rows"][:2]
    assert trained["figures"]["auroc"]["mean"] > 0.9
    assert trained["figures"]["auroc"]["chance"]["permutations"] == 4
    assert len(trained["source"]["sha256"]) == 64
    assert untrained["source"]["seeds"] == [0, 1]
    # half of the families were held out of the training
    assert trained["overlap"]["seen"] == tree["overlap"]["seen"] == 6
    assert "has seen 6 of 12 tested subjects" in done.output
    assert "overlap" not in untrained


def test_every_fold_of_every_row_is_told(made, tmp_path, monkeypatch):
    """Two tasks and heads, trained and untrained, with and less the confounds, in two folds."""
    told = []
    monkeypatch.setattr(rows, "report", lambda *progress: told.append(progress))
    done = _probe(made, tmp_path, "--target", "sex", "--target", "trial_type", "--event-delay", 0,
                  "--event-window", 2.88, "--untrained", "--head",
                  "linear", "--head", "knn", "--regress", "age", "--seeds", 1, "--folds", 2,
                  "--permutations", 0)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert sorted(set(told)) == [(number, 32, "folds") for number in range(33)]
    assert told == sorted(told)


def test_several_tasks_and_targets_have_a_folder_each(made, tmp_path):
    done = _probe(made, tmp_path, "--task", "demo-age", "--target", "sex", "--target", "trial_type",
                  "--event-delay", 0, "--event-window", 2.88, "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert [tree["task"] for tree in printed] == ["demo-age", "sex", "trial_type"]
    for tree in printed:
        assert read_results(tmp_path / tree["task"])[0] == tree
    age, sex, trials = printed
    assert (age["kind"], age["metric"], age["unit"]) == ("regression", "r", "subject")
    assert (sex["kind"], sex["metric"], sex["classes"]) == ("binary", "auroc", {"F": 6, "M": 6})
    assert (trials["unit"], trials["n_units"]) == ("window", 24)
    assert trials["rows"][0]["figures"]["auroc"]["mean"] > 0.9


def test_runs_of_a_subject_are_found_by_the_features(made, tmp_path):
    done = _probe(made, tmp_path, "--task", "fingerprint", "--untrained")
    assert done.exit_code == 0, done.output
    tree, _ = read_results(tmp_path)
    assert [row["row"] for row in tree["rows"]] == ["mtm a", "untrained, as mtm a"]
    assert 0 <= tree["rows"][0]["figures"]["top1"]["mean"] <= 1
    assert tree["rows"][0]["overlap"]["test_subjects"] == 12


def test_confounds_are_regressed_out_and_given_sides_are_tested(made, tmp_path):
    done = _probe(made, tmp_path / "a", "--target", "sex", "--regress", "age")
    assert done.exit_code == 0, done.output
    rows = read_results(tmp_path / "a")[0]["rows"]
    assert [row["row"] for row in rows] == ["mtm a (linear)", "mtm a (linear) less age"]
    done = _probe(made, tmp_path / "b", "--target", "sex", "--held-out", made / "a")
    assert done.exit_code == 0, done.output
    tree, predictions = read_results(tmp_path / "b")
    held = json.loads(next((made / "a" / "checkpoints").glob("*/runs.json")).read_text())
    subjects = {run.split("_")[1] for run in held["validation"]}
    assert set(predictions["unit"]) == {f"demo/{subject}" for subject in subjects}
    assert (tree["overlap"]["seen"], tree["rows"][0]["overlap"]["seen"]) == (0, 0)


def test_another_pretraining_is_compared_with_the_tested_subjects(made, tmp_path):
    everybody = quick_training(str(made / "tokens.zarr"), tmp_path / "all",
                               "data.validation_fraction=0")  # fmt: skip
    done = _probe(made, tmp_path / "a", "--target", "sex", "--pretraining", everybody)
    assert done.exit_code == 0, done.output
    tree, _ = read_results(tmp_path / "a")
    assert tree["overlap"]["seen"] == 12
    assert tree["rows"][0]["overlap"] == tree["overlap"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "Missing option '--task' or '--target'"),
        (["--target", "sexx"], "Did you mean sex?"),
        (["--task", "demo-sexx"], "Did you mean demo-sex"),
        (["--target", "age", "--head", "logistic"], "expected classes, got numbers"),
        (["--target", "sex", "--folds", "7"], "got F: 6, M: 6. Tokenize more subjects, or choose "
         "--folds 6."),
        (["--target", "sex", "--where", "task=sleep"], "task among rest, got sleep"),
        (["--target", "sex", "--regress", "motion"], "Column motion"),
        (["--target", "subject", "--regress", "age"], "runs are only compared, got --regress"),
        (["--target", "trial_type", "--trial-type", "left"], "two or more different labels"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_one_error(made, tmp_path, options, words):
    done = _probe(made, tmp_path / "out", *options)
    assert done.exit_code == 2, done.output
    assert words in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


def test_the_old_names_of_options_work(made, tmp_path):
    done = fmritok("probe", "--store", made / "tokens.zarr", "--training", made / "a", "--target",
                   "sex", "--seeds", 1, "--folds", 2, "--crops", 1, "--device", "cpu", "--no-cache",
                   "--permutations", 0, "--out", tmp_path)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert pd.read_csv(tmp_path / "scores.csv")["row"].unique().tolist() == ["mtm a (linear)"]
