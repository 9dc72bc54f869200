"""Probes: labels by column, scores beside those of permuted labels, and the command."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from fmritok.cli import main
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.tables.annotations import write_annotations
from fmritok.trainer.data.labels import labels_of, runs_where
from fmritok.trainer.data.split import Split
from fmritok.trainer.data.windows import RunIndex
from fmritok.trainer.errors import CheckpointError, ConfigError, LeakageError
from fmritok.trainer.evaluation.features import load_encoder, run_features, spread_windows
from fmritok.trainer.evaluation.probe import probe
from fmritok.trainer.evaluation.scores import Row, few_units, scores_table, write_scores
from fmritok.trainer.recipe import build_config, override
from fmritok.trainer.training.loop import Trainer

SMALL = ["data.window=8", "data.batch_size=4", "model.width=16", "model.layers=1",
         "model.mlp_width=16", "train.steps=2"]  # fmt: skip


def _runs(n_subjects=24):
    """Two runs of each subject, siblings in pairs; the last subject's family is not known."""
    subject = [f"{100 + i // 2}" for i in range(2 * n_subjects)]
    runs = pd.DataFrame(
        {"run_id": [f"{s}_{i % 2}" for i, s in enumerate(subject)], "dataset": "demo",
         "subject": subject, "session": "1", "site": "",
         "task": ["rest", "motor"] * n_subjects,
         "family": [f"F{i // 4}" for i in range(2 * n_subjects)]}
    )  # fmt: skip
    phenotypes = pd.DataFrame(
        {"dataset": "demo", "subject": [f"{100 + i}" for i in range(n_subjects)],
         "sex": ["M", "F"] * (n_subjects // 2), "age": np.arange(n_subjects) + 20.0,
         "same": "x", "group": [1, 2] * (n_subjects // 2)}
    )  # fmt: skip
    return runs, phenotypes


def test_where_leaves_the_runs_that_fulfil_it():
    runs, _ = _runs(4)
    assert runs_where(runs, []) is runs
    assert runs_where(runs, ["task=rest"])["run_id"].tolist() == [f"{100 + i}_0" for i in range(4)]
    several = runs_where(runs, ["subject=100", "task=rest", "subject=103"])
    assert several["run_id"].tolist() == ["100_0", "103_0"]
    for wrong, words in (("task", "COLUMN=VALUE"), ("motion=1", "got 'motion=1'"),
                         ("task=sleep", "task among motor, rest, got sleep")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            runs_where(runs, [wrong])


def test_labels_follow_their_columns():
    runs, phenotypes = _runs()
    phenotypes.loc[3, ["sex", "age"]] = ["", np.nan]
    sex, age, task, group = (
        labels_of(t, runs, phenotypes) for t in ("sex", "age", "task", "group")
    )
    assert [x.kind for x in (sex, age, task, group)] == ["classes", "number", "classes", "classes"]
    assert [x.unit for x in (sex, age, task)] == ["subject", "subject", "run"]
    assert [len(x.values) for x in (sex, age, task)] == [23, 23, 48]
    assert (sex.of_row[6:8] == -1).all()
    for labels, column in ((sex, "sex"), (age, "age")):
        known = labels.of_row >= 0
        wanted = runs.merge(phenotypes, on=["dataset", "subject"])[column][known]
        assert labels.values[labels.of_row[known]].tolist() == wanted.tolist()
    assert task.values[task.of_row].tolist() == runs["task"].tolist()
    with pytest.raises(ConfigError, match=r"--target: expected one of sex, age, .* task"):
        labels_of("iq", runs, phenotypes)
    with pytest.raises(ConfigError, match=r"two or more different labels in same, got x"):
        labels_of("same", runs, phenotypes)


def test_a_planted_effect_is_found_and_noise_is_not():
    runs, phenotypes = _runs(40)
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((80, 30))
    sex, age, task = (labels_of(t, runs, phenotypes) for t in ("sex", "age", "task"))
    signs = {"sex": (sex.values[sex.of_row] == "M") * 2.0 - 1, "task": np.tile([1.0, -1], 40)}
    for labels in (sex, task):
        for strength, low, high in ((0.0, 0.2, 0.8), (1.5, 0.85, 1.0)):
            x = noise.copy()
            x[:, 7] += strength * signs[labels.target]
            scores = probe(x, labels, runs, seeds=[0, 1])
            for score in scores:
                assert low <= score.figures["balanced_accuracy"] <= high
            assert scores[1].figures != scores[0].figures or strength
    x = noise.copy()
    x[:, 3] += 0.6 * age.values[age.of_row]
    figures = probe(x, age, runs, seeds=[0])[0].figures
    assert figures["r"] > 0.85
    assert figures["mae"] < 5
    assert figures["r2"] > 0.6


@pytest.mark.parametrize("target", ["age", pytest.param("sex", marks=pytest.mark.slow)])
def test_noise_scores_what_permuted_labels_score(target):
    """The mean over many cohorts without an effect is the printed chance, within its error."""
    generator = np.random.default_rng(0)
    figure = {"age": "r", "sex": "auc"}[target]
    found, chance = [], []
    for draw in range({"age": 40, "sex": 8}[target]):
        runs, phenotypes = _runs(20)
        phenotypes["age"] = generator.normal(30, 5, 20)
        labels = labels_of(target, runs.assign(family=""), phenotypes)
        x = np.repeat(generator.standard_normal((20, 12)), 2, axis=0)
        score = probe(x, labels, runs.assign(family=""), seeds=[draw], permutations=4)[0]
        found.append(score.figures[figure])
        chance.append(score.permuted[figure].mean())
    for values in (found, chance):
        error = np.std(values) / len(values) ** 0.5
        assert abs(np.mean(values) - {"r": 0.0, "auc": 0.5}[figure]) < 2.5 * error
    error = (np.var(found) + np.var(chance)) ** 0.5 / len(found) ** 0.5
    assert abs(np.mean(found) - np.mean(chance)) < 2.5 * error


def test_figures_are_means_over_folds_and_an_effect_is_beyond_chance(tmp_path):
    runs, phenotypes = _runs(30)
    runs["family"] = ""
    generator = np.random.default_rng(1)
    labels = [labels_of(name, runs, phenotypes) for name in ("age", "sex")]
    rows = []
    for one in labels:
        value = one.values if one.kind == "number" else (one.values == "M") * 12.0
        for strength in (0.0, 0.4):
            x = generator.standard_normal((60, 6))
            x[:, 2] += strength * value[one.of_row]
            scores = probe(x, one, runs, seeds=[0, 1], permutations=12)
            rows.append(Row(f"{strength}", [], one, scores))
            for score in scores:
                for name, values in score.of_folds.items():
                    assert len(values) == len(score.splits) == 5
                    assert score.figures[name] == pytest.approx(np.mean(values))
                    assert len(score.permuted[name]) == 12
    summary = write_scores(tmp_path, rows)
    assert json.loads((tmp_path / "probe.json").read_text()) == json.loads(json.dumps(summary))
    for row in summary:
        for name, figure in row["figures"].items():
            chance = figure["chance"]
            assert chance["permutations"] == 24
            assert (chance["limit"] < chance["mean"]) == (name == "mae")
            if row["encoder"] == "0.4":
                assert chance["p"] == pytest.approx(1 / 25)
            else:
                assert chance["p"] > 0.05
    with (tmp_path / "probe_folds.csv").open() as file:
        of_folds = list(csv.DictReader(file))
    assert len(of_folds) == 4 * 2 * 5
    values = [float(row["r"]) for row in of_folds[:5]]
    assert summary[0]["figures"]["r"]["values"][0] == pytest.approx(np.mean(values))
    with (tmp_path / "probe.csv").open() as file:
        assert all(row["r_chance"] or row["auc_chance"] for row in csv.DictReader(file))


def test_without_permutations_no_chance_is_shown(tmp_path):
    """Nor where no permutation changes anything: a label per family, all of other sizes."""
    runs, phenotypes = _runs(30)
    sizes = np.repeat(np.arange(8), [1, 2, 3, 4, 5, 6, 7, 2])
    runs["family"] = [f"F{i}" for i in np.repeat(sizes, 2)]
    runs.loc[runs["family"] == "F7", "family"] = "F6"
    phenotypes["age"] = phenotypes["subject"].map(
        dict(zip(runs["subject"], runs["family"].str[1:].astype(float), strict=True))
    )
    labels = labels_of("age", runs, phenotypes)
    x = np.random.default_rng(0).standard_normal((60, 4))
    for permutations in (0, 20):
        scores = probe(x, labels, runs, seeds=[0], folds=3, permutations=permutations)
        summary = write_scores(tmp_path, [Row("a", [], labels, scores)])
        assert summary[0]["figures"]["r"]["chance"] is None
        assert list(scores_table(summary).columns[6].cells) == ["-"]


def test_one_seed_has_no_standard_deviation_and_few_subjects_are_warned_of(tmp_path):
    for subjects, seeds in ((32, [0]), (24, [0, 1])):
        runs, phenotypes = _runs(subjects)
        labels = labels_of("age", runs, phenotypes)
        x = np.random.default_rng(0).standard_normal((len(runs), 4))
        scores = probe(x, labels, runs, seeds=seeds, folds=3)
        summary = write_scores(tmp_path, [Row("a", [], labels, scores)])
        (shown,) = scores_table(summary).columns[5].cells
        if len(seeds) == 1:
            assert (shown, summary[0]["figures"]["r"]["sd"]) == ("-", None)
            assert few_units(summary) is None
        else:
            assert float(shown) == round(summary[0]["figures"]["r"]["sd"], 3)
            assert few_units(summary) == (
                f"Few units: age ({len(labels.values)} subjects). "
                "Scores of fewer than 30 vary widely by chance."
            )


def test_relatives_on_both_sides_are_an_error(monkeypatch):
    runs, phenotypes = _runs()
    labels = labels_of("sex", runs, phenotypes)
    mixed = [np.arange(24) % 2 == fold for fold in range(2)]
    monkeypatch.setattr("fmritok.trainer.evaluation.probe.fold_splits", lambda *a, **k: mixed)
    with pytest.raises(LeakageError, match="Split by family"):
        probe(np.zeros((48, 3)), labels, runs, seeds=[0])


def test_windows_are_spread_evenly_over_a_run():
    assert spread_windows(20, window=8, crops=3) == [(0, 8), (6, 8), (12, 8)]
    assert spread_windows(9, window=8, crops=8) == [(0, 8), (1, 8)]
    assert spread_windows(5, window=8, crops=3) == [(0, 5)]


@pytest.fixture
def store(make_store):
    subjects = [f"{100 + i // 2}" for i in range(24)]
    location, _ = make_store([20, 9] * 12, n_tokens=3, dim=4, subjects=subjects)
    table = pd.DataFrame(
        {"dataset": "demo", "subject": sorted(set(subjects)), "sex": ["M", "F"] * 6}
    )
    write_annotations(location, {"phenotypes": table.assign(session="")})
    return location.url


def _train(store, out, *overrides):
    config = build_config(override({}, [*SMALL, *overrides]))
    group = TokenStore(store).group()
    Trainer(config, group, out=out, device=torch.device("cpu")).run()
    return group


@pytest.mark.parametrize(
    ("options", "window"),
    [({"name": "mtm"}, 8), ({"name": "mae"}, 8), ({"name": "distill"}, 5),
     ({"name": "distill", "apart": True}, 4)],
)  # fmt: skip
def test_features_are_means_over_windows_of_the_encoder_that_is_kept(
    store, tmp_path, options, window
):
    chosen = [f"objective.{key}={value}" for key, value in options.items()]
    group = _train(store, tmp_path / "a", *chosen, "train.steps=3")
    frozen = load_encoder(tmp_path / "a", group)
    again = load_encoder(tmp_path / "a", group)
    new = load_encoder(tmp_path / "a", group, untrained_seed=0)
    assert frozen.window == window
    assert len(frozen.source["sha256"]) == 64
    same, differs = [], []
    for a, b, c in zip(*(f.encoder.parameters() for f in (frozen, again, new)), strict=True):
        same.append(torch.equal(a, b))
        differs.append(not torch.equal(a, c))
    assert all(same)
    assert any(differs)
    index = RunIndex.of(group.runs, group.runs["run_id"].tolist())
    options = {"crops": 3, "device": torch.device("cpu")}
    whole = run_features(frozen, group, index, batch_size=7, **options)
    assert whole.shape == (24, 32)
    np.testing.assert_allclose(
        run_features(frozen, group, index, batch_size=1, **options), whole, rtol=1e-4, atol=1e-5
    )
    cells = run_features(frozen, group, index, pool="cells", **options)
    width = whole.shape[1] // 2
    apart = cells[:, :-width].reshape(len(cells), -1, width)
    assert apart.shape[1] == frozen.encoder.grid.n_cells > 1
    np.testing.assert_allclose(apart.mean(1), whole[:, :width], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cells[:, -width:], whole[:, width:], rtol=1e-4, atol=1e-5)
    assert np.ptp(apart, axis=1).max() > 1e-3


def test_other_tokens_are_refused(store, tmp_path):
    group = _train(store, tmp_path / "a")
    group.contract = {**group.contract, "provenance": {"tokenizer": "other"}}
    with pytest.raises(CheckpointError, match=r"provenance\.tokenizer = 'vae' \(as it was trained"):
        load_encoder(tmp_path / "a", group)


def test_the_command_writes_scores_and_folds_with_their_checksums(store, tmp_path):
    _train(store, tmp_path / "a")
    out = tmp_path / "probe"
    command = ["probe", "--store", store, "--training", str(tmp_path / "a"), "--target", "sex",
               "--untrained", "--seeds", "2", "--folds", "3", "--crops", "2", "--out", str(out),
               "--device", "cpu"]  # fmt: skip
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert done.output.count("Warning: Few units: sex (12 subjects)") == 1
    for word in ("balanced accuracy", "untrained", "auc", "by chance", "95 %"):
        assert word in done.output
    summary = json.loads((out / "probe.json").read_text())
    assert [row["encoder"] for row in summary] == ["mtm a", "untrained, as mtm a"]
    folds = json.loads((out / "folds.json").read_text())
    for row in summary:
        assert row["classes"] == {"F": 6, "M": 6}
        assert len(row["figures"]["auc"]["values"]) == 2
        for checksums in row["folds"].values():
            assert len(checksums) == 3
            for checksum in checksums:
                sides = [tuple(folds[checksum][x]["runs"]) for x in ("train", "validation")]
                assert Split(*sides).sha256 == checksum
    with (out / "probe.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    done = CliRunner().invoke(main, [*command, "--target", "iq"])
    assert done.exit_code == 2
    assert "expected one of sex" in done.output
    done = CliRunner().invoke(main, [*command, "--folds", "7"])
    assert done.exit_code == 2
    assert "got F: 6, M: 6. Probe more subjects, or choose --folds 6." in done.output
