"""Subjects that a pretraining saw are found by any of their runs."""

from __future__ import annotations

from pathlib import Path

from people import a_task, people

from fmritok.trainer.tasks import division
from fmritok.trainer.tasks.division import SplitOptions, divide
from fmritok.trainer.tasks.split_file import Pretraining
from fmritok.trainer.tasks.units import units_of


def test_a_pretraining_on_other_runs_of_tested_subjects_is_named(monkeypatch):
    """Trained on resting runs, tested on motor runs of the same people."""
    runs, phenotypes = people()
    units = units_of(a_task(), runs, phenotypes, where=["task=motor"])
    seen = Pretraining("t", frozenset({"demo_103_0", "demo_110_0"}), frozenset({"demo_111_0"}))
    monkeypatch.setattr(division, "read_pretraining", lambda training: seen)
    folds, details = divide(units, SplitOptions(pretraining=Path("t")), runs)
    assert len(folds) == 6
    assert not set(units.runs["run_id"]) & seen.train
    assert details["overlap"]["subjects"] == ["demo/103", "demo/110"]
    assert (details["overlap"]["seen"], details["overlap"]["unknown_runs"]) == (2, 0)
