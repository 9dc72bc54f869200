"""Probes of windows locked to events: found where the response is, and nowhere else."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from stores import write_store
from trainers import trainer_on_cpu

from fmritok.cli import main
from fmritok.pipeline.store.documents.seal import read_document
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.tables.annotations import read_annotation, write_annotations
from fmritok.pipeline.store.tables.switch import replace_tables
from fmritok.trainer.evaluation.results import read_results

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


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    subjects = [f"{100 + i}" for i in range(SUBJECTS)]
    location = Location(tmp_path_factory.mktemp("store") / "tokens.zarr")
    write_store(location, [FRAMES] * SUBJECTS, n_tokens=3, dim=4, subjects=subjects,
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


@pytest.fixture(scope="module")
def training(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "a"
    trainer_on_cpu(SMALL, TokenStore(store).group(), folder).run()
    return folder


def _probe(store, training, *options):
    out = training.parent / "probe"
    command = ["probe", "--store", store, "--training", training, "--target", "trial_type",
               "--seeds", 1, "--folds", 3, "--permutations", 0, "--no-cache", "--out", out,
               "--device", "cpu", *options]  # fmt: skip
    done = CliRunner().invoke(main, [str(each) for each in command])
    return done, read_results(out)[0] if done.exit_code == 0 else {}


def _means(tree, metric="balanced_accuracy"):
    return [row["figures"][metric]["mean"] for row in tree["rows"]]


def test_event_windows_follow_the_blood_response(store, training):
    done, tree = _probe(store, training, "--event-window", "6", "--untrained")
    assert done.exit_code == 0, done.output
    names = [row["row"] for row in tree["rows"]]
    assert names == ["mtm a (linear)", "untrained, as mtm a (linear)"]
    assert (tree["unit"], tree["n_units"], tree["n_subjects"]) == ("window", 40, 10)
    assert tree["classes"] == {"left": 20, "right": 20}
    assert tree["excluded"] == {}
    assert min(_means(tree)) > 0.9
    for fold in json.loads((training.parent / "probe" / "splits.json").read_text()):
        runs = [{unit.partition("@")[0] for unit in fold[side]} for side in ("train", "test")]
        assert not runs[0] & runs[1]
        assert sorted(runs[0] | runs[1]) == TokenStore(store).group().runs["run_id"].tolist()
    before, tree = _probe(store, training, "--event-window", "6", "--event-delay", "-2")
    assert before.exit_code == 0, before.output
    assert _means(tree)[0] < 0.75


def test_windows_are_whole_patches_of_the_model(store, training, monkeypatch):
    from fmritok.trainer.probing import passes

    whole, lengths = passes.encode, []

    def spy(encoders, group, index, windows, **options):
        lengths.extend(windows.n_frames.tolist())
        yield from whole(encoders, group, index, windows, **options)

    monkeypatch.setattr(passes, "encode", spy)
    _probe(store, training, "--event-window", "6")
    assert set(lengths) == {8}  # 6 s are 8.3 frames, the model's patches have 4


def test_windows_beyond_the_run_are_counted(store, training):
    done, tree = _probe(store, training, "--event-delay", "20")
    assert done.exit_code == 0, done.output
    assert tree["excluded"]["window reaches beyond the run"]["count"] == 10
    assert tree["n_units"] == 30


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--trial-type", "left"], 2, "two or more different labels, got left"),
        (["--trial-type", "left", "--trial-type", "jump"], 2, "labels, got left"),
        (["--event-window", "100"], 1, "Choose other runs, a shorter window"),
        (["--where", "task=motor"], 2, "task among rest, got motor"),
        (["--where", "subject=103"], 2, "3 or more families of every class"),
        (["--event-window", "0"], 2, "0.0 is not in the range"),
    ],
)
def test_wrong_options_of_event_probes_are_refused(store, training, options, status, words):
    done, _ = _probe(store, training, *options)
    assert done.exit_code == status
    assert words in " ".join(done.output.split())


def test_a_store_without_events_says_so(store, training, tmp_path):
    copy = str(shutil.copytree(store, tmp_path / "tokens.zarr"))
    _write_events(copy, [("another_run", 5.0, 2.0, "left")])
    done, _ = _probe(copy, training)
    assert done.exit_code == 2
    assert "Events of task trial_type: expected some during the chosen runs, got none" in " ".join(
        done.output.split()
    )


def test_where_chooses_runs(store, training):
    options = [f"--where=subject={100 + i}" for i in range(6)]
    done, tree = _probe(store, training, *options)
    assert done.exit_code == 0, done.output
    assert (tree["n_subjects"], tree["n_units"]) == (6, 24)
