"""A comparison trains every group under one protocol, and scores all on the same folds."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from stores import write_two_groups
from tiny import fmritok

from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.comparison.protocol import plan_comparison, unequal
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.results import read_results
from fmritok.trainer.recipe import read_recipe

TASK = """
name: small
target: sex
kind: binary
unit: subject
metric: auroc
split: {by: subject, folds: 2, seeds: 1}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_two_groups(tmp_path_factory.mktemp("store") / "tokens.zarr")


def plan(store, **options):
    tree = read_recipe("tiny")
    return plan_comparison(TokenStore(store), ["network", "cells"], ["mtm"], tree, **options)


def test_steps_seconds_and_tokens_are_equal(store):
    network, cells = plan(store, steps=7, seconds=40.0, overrides=["data.batch_size=8"])
    assert network.seen["steps"] == cells.seen["steps"] == 7
    assert network.config.data.window * 2.0 == cells.config.data.window * 1.0 == 40.0
    assert (cells.tokens, network.tokens) == (6 * 40, 4 * 4)
    assert cells.config.data.batch_size == 8
    assert network.seen["tokens"] == cells.seen["tokens"] == 7 * 8 * 240
    assert network.config.data.split_seed == cells.config.data.split_seed
    assert unequal([network, cells]) == []


def test_tokens_that_cannot_be_equal_are_named(store):
    several = plan(store, seconds=90.0, overrides=["data.batch_size=1", "model.patch=40"])
    assert several[0].seen["tokens"] != several[1].seen["tokens"]
    assert ["differ" in line for line in unequal(several)] == [True]


def test_what_cannot_be_compared_is_one_error(store, tmp_path):
    with pytest.raises(ConfigError, match="at most 96 s, the shortest run of group"):
        plan(store, seconds=100.0)
    with pytest.raises(ConfigError, match="a number of steps"):
        plan(store, overrides=["train.steps=null", "train.epochs=2"])
    other = write_two_groups(tmp_path / "tokens.zarr", n_subjects=2)
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.store.records import remove_record

    remove_record(Location(other), "cells", "demo_100_0")
    with pytest.raises(ConfigError, match="such as demo_100_0"):
        plan(other)


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        ({"target: sex": "target: sexx"}, (), "Did you mean sex?"),
        ({"folds: 2": "folds: 20"}, (), "20 or more subjects of every class"),
        (
            {"kind: binary": "kind: retrieval", "unit: subject": "unit: run", "auroc": "top1",
             "target: sex": "target: subject"},
            ("--finetune", "default"),
            "expected labels to train on",
        ),
    ],
)  # fmt: skip
def test_a_task_that_cannot_be_scored_is_refused_before_training(
    store, tmp_path, change, more, words
):
    text = TASK
    for old, new in change.items():
        text = text.replace(old, new)
    (tmp_path / "task.yaml").write_text(text)
    done = fmritok("compare", "--task", tmp_path / "task.yaml", "--store", store, "--group",
                   "network", "--steps", "2", "--seconds", "32", "--device", "cpu", "--out",
                   tmp_path / "out", *more)  # fmt: skip
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


def test_a_comparison_ends_with_a_table_and_a_picture_and_keeps_its_trainings(store, tmp_path):
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "finetune.yaml").write_text("train: {epochs: 1}\nhead: {hidden: 4}\n")
    arguments = ("compare", "--task", tmp_path / "task.yaml", "--store", store, "--group",
                 "network", "--group", "cells", "--steps", "2", "--seconds", "32", "--device",
                 "cpu", "--permutations", "0", "--set", "data.batch_size=2",
                 "--set", "model.width=16", "--finetune", tmp_path / "finetune.yaml",
                 "--out", tmp_path / "out", "--json")  # fmt: skip
    first = fmritok(*arguments)
    assert first.exit_code == 0, first.output
    table = pd.read_csv(tmp_path / "out" / "compare.csv")
    rows = [
        f"{group}, mtm, {how}" for group in ("network", "cells")
        for how in ("probe", "untrained probe", "fine-tuned", "from scratch")
    ]  # fmt: skip
    assert table["model"].tolist() == ["connectivity (pearson)", "dummy", *rows]
    pretrained = table["model"].str.endswith((", mtm, probe", "fine-tuned"))
    assert table["tokens"].notna().tolist() == pretrained.tolist()
    assert table["tokens"].nunique() == 1
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")
    out = json.loads(first.stdout)
    assert any("Tokens seen" in line for line in out["protocol"])
    assert any("on the task (epochs: at most 1)" in line for line in out["protocol"])
    tree, predictions = read_results(tmp_path / "out" / "scores")
    units = predictions["unit"] + predictions["fold"].astype(str)
    tested = [set(of_row) for _, of_row in units.groupby(predictions["row"])]
    assert all(rows == tested[0] for rows in tested)
    config = {row["row"]: row for row in tree["rows"]}["cells, mtm, fine-tuned"]
    assert config["at_most_epochs"] == 1
    folds = [*(tmp_path / "out").glob("finetune/*/folds/*.json")]
    assert len(folds) == 2 * 2 * 2
    metrics = tmp_path / "out" / "trainings" / "network-mtm" / "metrics.jsonl"
    before = metrics.read_bytes(), [fold.stat().st_mtime_ns for fold in folds]
    again = fmritok(*arguments)
    assert again.exit_code == 0, again.output
    assert (metrics.read_bytes(), [fold.stat().st_mtime_ns for fold in folds]) == before
    assert json.loads(again.stdout)["rows"] == out["rows"]
    other = fmritok(*arguments, "--steps", "3")
    assert other.exit_code == 1
    assert "compare in another folder with --out" in " ".join(other.output.split())
