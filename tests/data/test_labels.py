"""Labels of runs and subjects by column, and the choice of runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fmritok.trainer.data.labels import labels_of, runs_where
from fmritok.trainer.errors import ConfigError


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
         "session": "", "sex": ["M", "F"] * (n_subjects // 2), "age": np.arange(n_subjects) + 20.0,
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


def test_a_run_has_the_value_of_its_own_session():
    runs, phenotypes = _runs()
    runs["session"] = ["1", "2"] * 24
    later = phenotypes.assign(session="2", age=phenotypes["age"] + 10, sex="")
    phenotypes = pd.concat([phenotypes.assign(session="1"), later], ignore_index=True)
    age, sex, group = (labels_of(name, runs, phenotypes) for name in ("age", "sex", "group"))
    assert (age.unit, sex.unit) == ("run", "subject")
    assert age.values[age.of_row].tolist() == [20 + i // 2 + 10 * (i % 2) for i in range(48)]
    assert sex.values[sex.of_row].tolist() == [["M", "F"][i // 2 % 2] for i in range(48)]
    assert sorted(set(group.values)) == ["1", "2"]


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
    with pytest.raises(ConfigError, match=r"^Label iq: expected one of sex, age, .* task"):
        labels_of("iq", runs, phenotypes)
    with pytest.raises(ConfigError, match="Column same: .* two or more different labels, got x"):
        labels_of("same", runs, phenotypes)
