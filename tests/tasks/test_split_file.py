"""Splits of others: files of ids, a pretraining's own sides, and who is in both."""

from __future__ import annotations

import json
import logging

import pytest
from people import a_task, people, some_units

from fmritok.trainer.errors import CheckpointError, ConfigError, LeakageError
from fmritok.trainer.tasks.split_file import Pretraining, held_out_fold, overlap, read_split
from fmritok.trainer.tasks.splits import folds_of
from fmritok.trainer.tasks.task import SplitRule

TRAIN = [f"{i}" for i in range(100, 112)]
VALIDATION = [f"{i}" for i in range(112, 116)]
TEST = [f"{i}" for i in range(116, 124)]


def _write(folder, form):
    sides = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    rows = [(name, side) for side, names in sides.items() for name in names]
    file = folder / f"split.{form}"
    if form == "json":
        file.write_text(json.dumps({"note": "of the paper", **sides}))
    elif form == "yaml":
        file.write_text("".join(f"{s}: [{', '.join(n)}]\n" for s, n in sides.items()))
    else:
        separator = {"csv": ",", "tsv": "\t"}[form]
        lines = [f"subject{separator}split", *(f"{n}{separator}{s}" for n, s in rows)]
        file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.parametrize("form", ["json", "yaml", "csv", "tsv"])
def test_given_sides_are_taken_as_they_are(form, tmp_path):
    units = some_units()
    fold, record = read_split(_write(tmp_path, form), units)
    for side, names in zip((fold.train, fold.validation, fold.test), (TRAIN, VALIDATION, TEST),
                           strict=True):  # fmt: skip
        assert units.ids[side].tolist() == [f"demo/{name}" for name in names]
    assert record["unknown_ids"]["count"] == record["units_on_no_side"]["count"] == 0


def test_ids_may_be_those_of_subjects_with_their_dataset_or_of_runs(tmp_path):
    file = tmp_path / "split.json"
    for unit, train, test in (("subject", "demo/100", "demo/105"), ("run", "100", "demo_105_1")):
        task = a_task("task", "multiclass", "run") if unit == "run" else a_task()
        units = some_units(task)
        others = ["demo/101"]
        file.write_text(json.dumps({"train": [train, *others], "test": [test]}))
        fold, record = read_split(file, units)
        assert fold.train.sum() == (4 if unit == "run" else 2)
        assert fold.test.sum() == 1
        assert record["units_on_no_side"]["count"] == len(units) - fold.train.sum() - 1


def test_zeros_at_the_beginning_of_an_id_are_kept(tmp_path):
    runs, phenotypes = people()
    for table in (runs, phenotypes):
        table["subject"] = "00" + table["subject"]
    from fmritok.trainer.tasks.units import units_of

    units = units_of(a_task(), runs, phenotypes)
    (tmp_path / "s.yaml").write_text("train: [00100, 00101]\ntest: [00104]\n")
    fold, _ = read_split(tmp_path / "s.yaml", units)
    assert units.ids[fold.test].tolist() == ["demo/00104"]


@pytest.mark.parametrize(
    ("sides", "error", "words"),
    [
        ({"train": TRAIN, "test": [*TEST, "101"]}, ConfigError, "101 in train and in test"),
        ({"train": [*TRAIN, "101"], "test": TEST}, ConfigError, "101 twice in train"),
        ({"train": TRAIN, "test": ["demo_101_0"]}, LeakageError, "Split by run"),
        ({"train": TRAIN, "test": ["demo/1"]}, ConfigError, "demo/1; none of 1 is known.*demo/1"),
        ({"train": TRAIN}, ConfigError, "a test side of units of task mine, got none"),
        ({"train": ["100", "102"], "test": TEST}, ConfigError, "two or more labels.*got M"),
        ({"first": TRAIN}, ConfigError, "got the fields first"),
        ({"train": "all"}, ConfigError, "got train: 'all'"),
    ],
)
def test_what_is_wrong_in_a_split_file_is_named(sides, error, words, tmp_path):
    (tmp_path / "split.json").write_text(json.dumps(sides))
    units = some_units()
    with pytest.raises(error, match=words):
        read_split(tmp_path / "split.json", units)


def test_unknown_ids_are_counted_and_named(tmp_path, caplog):
    (tmp_path / "split.json").write_text(json.dumps({"train": [*TRAIN, "9"], "test": TEST}))
    with caplog.at_level(logging.WARNING):
        _, record = read_split(tmp_path / "split.json", some_units())
    assert record["unknown_ids"] == {"count": 1, "ids": ["9"]}
    assert record["units_on_no_side"]["count"] == 4
    assert "1 of its ids are no unit of mine, such as 9" in caplog.text
    for name, text in (("none.json", None), ("s.csv", "a,b\n1,2\n"), ("t.csv", "id,split\n1,x\n")):
        if text:
            (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match="lists of ids under train"):
            read_split(tmp_path / name, some_units())


def test_subjects_that_a_pretraining_saw_are_named():
    runs, _ = people()
    units = some_units()
    folds = folds_of(units, SplitRule("family", 3, 1))
    seen = Pretraining("trainings/a", frozenset({"demo_103_0", "demo_104_1", "other_run"}),
                       frozenset({"demo_110_0", "demo_111_1"}))  # fmt: skip
    found = overlap(seen, units, folds, runs)
    assert found == {"training": "trainings/a", "test_subjects": 24, "seen": 2,
                     "subjects": ["demo/103", "demo/104"], "unknown_runs": 1}  # fmt: skip
    fold = held_out_fold(seen, units, runs)
    assert units.ids[fold.test].tolist() == ["demo/110", "demo/111"]
    assert units.ids[fold.train].tolist() == ["demo/103", "demo/104"]
    assert overlap(seen, units, [fold], runs)["seen"] == 0
    with pytest.raises(CheckpointError, match="none of 1 held-out runs is of one"):
        held_out_fold(seen._replace(validation=frozenset({"x"})), units, runs)
