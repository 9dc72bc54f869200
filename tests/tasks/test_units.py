"""Units of a task: labels by their columns, and everything that is left out is counted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from people import a_task, people, some_units

from fmritok.trainer.errors import ConfigError
from fmritok.trainer.tasks.task import read_task
from fmritok.trainer.tasks.units import units_of, without_units


def test_subjects_get_the_labels_of_their_column():
    runs, phenotypes = people()
    shuffled = runs.sample(frac=1, random_state=0)
    units = units_of(a_task(classes={"F": ("F",), "M": ("M",)}), shuffled, phenotypes)
    assert units.ids.tolist() == sorted("demo/" + phenotypes["subject"])
    assert units.classes == ("F", "M")
    assert units.codes.tolist() == [1, 0] * 12
    of_run = units.labels.values[units.labels.of_row]
    wanted = units.runs.merge(phenotypes, on=["dataset", "subject"])["sex"]
    assert of_run.tolist() == wanted.tolist()
    assert set(units.site) == {"NYU", "UCLA", "KKI"}
    assert units.excluded == {}


def test_values_are_gathered_into_classes_and_the_others_counted():
    runs, phenotypes = people()
    phenotypes["dx"] = ["0", "1", "2", "3", "", "unclear"] * 4
    task = a_task("DX", classes={"well": ("0",), "ill": ("1", "2", "3")})
    units = units_of(task, runs, phenotypes)
    assert units.labels.values.tolist() == ["well", "ill", "ill", "ill"] * 4
    assert units.task.target == ("dx",)
    counts = {reason: one["count"] for reason, one in units.excluded.items()}
    assert counts == {"label missing": 4, "label of no class": 4}
    assert units.excluded["label missing"]["units"] == [f"demo/{i}" for i in (104, 110, 116, 122)]
    numbers = units_of(a_task("group", classes={"a": ("2",), "b": ("1",)}), runs, phenotypes)
    assert numbers.labels.values.tolist() == ["b", "a"] * 12


def test_a_value_of_the_runs_own_session_goes_first_and_contrary_ones_are_left_out():
    runs, phenotypes = people(24)
    runs.loc[1::2, "session"] = "2"
    later = phenotypes.iloc[:6].assign(session="2", age=lambda t: t["age"] + 5)
    both = pd.concat([phenotypes.assign(session="1"), later])
    units = units_of(a_task("age", "regression"), runs, both)
    assert len(units) == 18
    reason = units.excluded["labels differ between runs"]
    assert reason["count"] == 6
    assert reason["units"][0] == "demo/100"
    first = units_of(a_task("age", "regression"), runs, both, where=["session=1"])
    assert first.labels.values.tolist() == phenotypes["age"].tolist()
    second = units_of(a_task("age", "regression"), runs, both, where=["session=2"])
    assert second.labels.values[:6].tolist() == later["age"].tolist()
    assert second.labels.values[6:].tolist() == phenotypes["age"].tolist()[6:]


def test_runs_and_fingerprints():
    runs, phenotypes = people(6)
    states = units_of(a_task("task", "multiclass", "run"), runs, phenotypes)
    assert states.labels.values.tolist() == ["rest", "motor"] * 6
    assert states.labels.within[0].tolist() == states.subject.tolist()
    once = runs.drop(index=[0])
    found = units_of(a_task("subject", "retrieval", "run"), once, phenotypes)
    assert len(found) == 10
    assert found.excluded["no other run to be found"]["units"] == ["demo_100_1"]


def test_windows_of_events_are_units_of_their_own():
    runs, phenotypes = people(6)
    events = pd.DataFrame(
        [(run, onset, 2.0, kind) for run in runs["run_id"][1::2]
         for onset, kind in ((4, "left"), (20, "right"), (40, "left"), (79, "right"))],
        columns=["run_id", "onset", "duration", "trial_type"],
    )  # fmt: skip
    task = a_task("trial_type", "binary", "window")
    units = units_of(task, runs, phenotypes, events)
    assert len(units) == 18
    assert units.excluded["window reaches beyond the run"]["count"] == 6
    for i, row in enumerate(units.labels.of_row.tolist()):
        assert units.ids[row].startswith(units.runs["run_id"][i])
        name = units.events.trial_types[units.events.windows.label[i]]
        assert units.labels.values[row] == name
    with pytest.raises(ConfigError, match="Events of task mine: expected some"):
        units_of(task, runs, phenotypes, events.iloc[:0])


def _broken(case):
    runs, phenotypes = people()
    task, where = a_task(), []
    match case:
        case "unknown column":
            task = a_task("sexx")
        case "one class":
            task = a_task("same")
        case "no label":
            phenotypes["sex"] = ""
        case "three classes":
            phenotypes.loc[3, "sex"] = "other"
        case "no value of a class":
            task = a_task(classes={"a": ("A",), "b": ("B",)})
        case "text for numbers":
            task = a_task("sex", "regression")
        case "infinite":
            task = a_task("age", "regression")
            phenotypes.loc[2, "age"] = np.inf
        case "constant":
            task = a_task("age", "regression")
            phenotypes["age"] = 30.0
        case "labels of runs":
            task = a_task("task")
        case "logarithm":
            task = a_task("age", "regression", transform="log")
            phenotypes.loc[2, "age"] = -1
        case "other cohort":
            task = read_task("hcp-sex")
        case "no run":
            where = ["task=sleep"]
    return lambda: units_of(task, runs, phenotypes, where=where)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("unknown column", "Column sexx of task mine: .* got none of that name among sex.*Did you"
         " mean sex"),
        ("one class", "two or more different labels, got x"),
        ("no label", "two or more different labels, got none"),
        ("three classes", "two classes, got 3: F, M, other"),
        ("no value of a class", "values among A, B, got F, M"),
        ("text for numbers", "finite numbers, got M"),
        ("infinite", "finite numbers, got inf"),
        ("labels of runs", "got none; left out: 24 subjects, labels differ between runs"),
        ("constant", "two or more different labels, got 30.0"),
        ("logarithm", "numbers above 0.*got -1"),
        ("other cohort", "dataset hcp, got dataset demo. .*--where dataset=demo"),
        ("no run", "task among motor, rest, got sleep"),
    ],
)  # fmt: skip
def test_a_task_that_a_store_cannot_serve_says_why(case, words):
    with pytest.raises(ConfigError, match=words):
        _broken(case)()


def test_units_that_are_left_out_later_are_counted_too():
    units = some_units()
    fewer = without_units(units, np.arange(24) % 4 == 0, "motion missing")
    assert len(fewer) == 18
    assert fewer.excluded["motion missing"]["count"] == 6
    assert fewer.labels.values.tolist() == units.labels.values[np.arange(24) % 4 != 0].tolist()
    rows = fewer.labels.of_row >= 0
    names = "demo/" + fewer.runs["subject"][rows]
    assert fewer.ids[fewer.labels.of_row[rows]].tolist() == names.tolist()
    with pytest.raises(ConfigError, match="two or more different labels, got F"):
        without_units(units, units.labels.values == "M", "tried")


def test_the_error_of_units_that_are_all_left_out_says_why():
    units = some_units(None, 6)
    with pytest.raises(ConfigError, match="got none; left out: 6 subjects, fewer than 20 frames"):
        without_units(units, np.ones(6, bool), "fewer than 20 frames")
