"""Probes of windows locked to events: found where the response is, and nowhere else."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from fmritok.cli import main
from fmritok.pipeline.store.documents.seal import read_document
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.tables.annotations import read_annotation, write_annotations
from fmritok.pipeline.store.tables.switch import replace_tables
from fmritok.trainer.data.windows import RunIndex, Windows
from fmritok.trainer.evaluation.features import load_encoder, run_features, window_features
from fmritok.trainer.recipe import build_config, override
from fmritok.trainer.training.loop import Trainer

SMALL = ["data.window=8", "data.batch_size=4", "model.width=16", "model.layers=1",
         "model.mlp_width=16", "train.steps=1", "model.patch=4"]  # fmt: skip
TR, FRAMES, SUBJECTS = 0.72, 120, 10
ONSETS = np.arange(2.0, 80.0, 20.0)  # the last one's window reaches beyond the run
PATTERN = {"left": np.array([1.0, 0, 0, 1]), "right": np.array([0, 1.0, 1, 0])}


def _trial_types(run):
    return [("left", "right")[(run + k) % 2] for k in range(len(ONSETS))]


def _response(run, n):
    """Noise, and from 4 to 10 s after each onset the pattern of its trial type."""
    x = 0.3 * np.random.default_rng(run).standard_normal((n, 3, 4))
    for onset, name in zip(ONSETS, _trial_types(run), strict=True):
        first, last = (round((onset + lag) / TR) for lag in (4, 10))
        x[first:last] += PATTERN[name]
    return 3 + x


@pytest.fixture
def store(make_store):
    subjects = [f"{100 + i}" for i in range(SUBJECTS)]
    location, _ = make_store([FRAMES] * SUBJECTS, n_tokens=3, dim=4, subjects=subjects,
                             values=_response)  # fmt: skip
    rows = [
        (f"demo_{subject}_run{i}", onset, 2.0, name)
        for i, subject in enumerate(subjects)
        for onset, name in zip(ONSETS, _trial_types(i), strict=True)
    ]
    rows += [("another_run", 5.0, 2.0, "sleep"), (rows[0][0], 5.0, 2.0, "")]
    _write_events(location.url, rows)
    return location.url


def _write_events(url, rows):
    location = Location(url)
    root = read_document(location, "")
    if "events" in root.attributes["tables"]:  # rows of other runs would stay
        nothing = read_annotation(location, "events").iloc[:0]
        replace_tables(location, root, {"events": nothing})
    table = pd.DataFrame(rows, columns=["run_id", "onset", "duration", "trial_type"])
    write_annotations(location, {"events": table})


@pytest.fixture
def training(store, tmp_path):
    config = build_config(override({}, SMALL))
    group = TokenStore(store).group()
    Trainer(config, group, out=tmp_path / "a", device=torch.device("cpu")).run()
    return tmp_path / "a"


def _probe(store, training, *options):
    out = training.parent / "probe"
    command = ["probe", "--store", store, "--training", training, "--target", "trial_type",
               "--seeds", 1, "--folds", 3, "--out", out, "--device", "cpu", *options]  # fmt: skip
    done = CliRunner().invoke(main, [str(each) for each in command])
    rows = json.loads((out / "probe.json").read_text()) if done.exit_code == 0 else []
    return done, rows


def test_what_happened_is_read_from_where_the_response_is(store, training):
    done, rows = _probe(store, training, "--event-window", "6", "--untrained")
    assert done.exit_code == 0, done.output
    assert [row["encoder"] for row in rows] == ["mtm a", "untrained, as mtm a"]
    for row in rows:
        assert (row["unit"], row["n_units"]) == ("event", 40)
        assert row["classes"] == {"left": 20, "right": 20}
        assert row["window_s"] == [pytest.approx(8 * TR)] * 2
        assert (row["events_left_out"], row["runs"], row["delay_s"]) == (0, 10, 4.0)
        assert row["figures"]["balanced_accuracy"]["mean"] > 0.9
    folds = json.loads((training.parent / "probe" / "folds.json").read_text())
    for fold in folds.values():
        sides = [set(fold[side]["runs"]) for side in ("train", "validation")]
        assert not sides[0] & sides[1]
        assert sorted(sides[0] | sides[1]) == TokenStore(store).group().runs["run_id"].tolist()
    before, rows = _probe(store, training, "--event-window", "6", "--event-delay", "-2")
    assert before.exit_code == 0, before.output
    assert rows[0]["figures"]["balanced_accuracy"]["mean"] < 0.75


def test_windows_beyond_the_run_are_counted(store, training):
    done, rows = _probe(store, training, "--event-delay", "20")
    assert done.exit_code == 0, done.output
    assert (rows[0]["events_left_out"], rows[0]["n_units"]) == (10, 30)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--trial-type", "left"], 2, "two or more different labels in trial_type, got left"),
        (["--trial-type", "left", "--trial-type", "jump"], 1, "of trial type 'jump'"),
        (["--event-window", "100"], 1, "Choose other trial types, a shorter window"),
        (["--where", "task=motor"], 2, "task among rest, got motor"),
        (["--where", "subject=103"], 2, "3 or more families of every class"),
        (["--event-window", "0"], 2, "0.0 is not in the range"),
    ],
)
def test_what_cannot_be_asked(store, training, options, status, words):
    done, _ = _probe(store, training, *options)
    assert done.exit_code == status
    assert words in " ".join(done.output.split())


def test_a_store_without_events_says_so(store, training):
    _write_events(store, [("another_run", 5.0, 2.0, "left")])
    done, _ = _probe(store, training)
    assert done.exit_code == 2
    assert "some during the runs of vae, got none of 1 events" in " ".join(done.output.split())


def test_where_leaves_some_runs(store, training):
    options = [f"--where=subject={100 + i}" for i in range(6)]
    done, rows = _probe(store, training, *options)
    assert done.exit_code == 0, done.output
    assert (rows[0]["runs"], rows[0]["n_units"]) == (6, 24)


def test_features_of_windows_are_those_that_runs_average(store, training):
    group = TokenStore(store).group()
    frozen = load_encoder(training, group)
    index = RunIndex.of(group.runs, group.runs["run_id"].tolist())
    run, first = np.repeat(np.arange(SUBJECTS), 3), np.tile([0, 56, 112], SUBJECTS)
    windows = Windows.of(run, first, np.full(30, 8), np.zeros_like(run))
    options = {"device": torch.device("cpu")}
    each = window_features(frozen, group, index, windows, **options)
    whole = run_features(frozen, group, index, crops=3, **options)
    np.testing.assert_allclose(each.reshape(SUBJECTS, 3, -1).mean(1), whole, rtol=1e-5, atol=1e-6)
    assert np.abs(each[0] - each[1]).max() > 1e-3
