"""Tasks are read from YAML; what is wrong in one is an error that names it and near names."""

from __future__ import annotations

import pytest

from fmritok.trainer.errors import ConfigError
from fmritok.trainer.tasks.task import read_task, task_names, task_title, task_yaml

GOOD = "name: mine\ntarget: sex\nkind: binary\nunit: subject\nmetric: auroc\n"


@pytest.mark.parametrize("name", task_names())
def test_shipped_tasks_are_whole_and_written_as_they_are_read(name, tmp_path):
    task = read_task(name)
    assert task.name == name
    assert task_title(name).endswith(".")
    (tmp_path / "again.yaml").write_text(task_yaml(task))
    assert read_task(str(tmp_path / "again.yaml")) == task


def test_the_cohorts_have_their_tasks():
    names = set(task_names())
    for cohort, kinds in {
        "hcp": ["sex", "age", "fluid-intelligence", "task-states", "trial-types"],
        "ukb": ["sex", "age", "fluid-intelligence"],
        "adhd200": ["diagnosis", "diagnosis-4", "sex", "age"],
        "abide": ["diagnosis", "sex", "age"],
        "demo": ["sex", "age", "fluid-intelligence", "task-states", "trial-types"],
    }.items():
        assert {f"{cohort}-{kind}" for kind in kinds} <= names
    assert "fingerprint" in names
    assert len(read_task("hcp-task-states").cohort["task"]) == 7
    assert list(read_task("adhd200-diagnosis").classes) == ["TDC", "ADHD"]
    assert len(read_task("adhd200-diagnosis-4").classes) == 4


def test_an_unknown_name_is_told_near_ones():
    with pytest.raises(ConfigError, match=r"Did you mean hcp-sex\?"):
        read_task("hcp_sex")
    with pytest.raises(ConfigError, match="Did you mean adhd200-diagnosis"):
        read_task("ADHD200-diagnoses")
    with pytest.raises(ConfigError, match="List the tasks with `fmritok list tasks`"):
        read_task("zzzz")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "metrics: acc\n", "metrics of task .*Did you mean metric"),
        (GOOD.replace("auroc", "r"), "metric of task .* one of acc, balanced_accuracy.* got 'r'"),
        (GOOD.replace("binary", "class"), "kind of task .* one of binary"),
        (GOOD.replace("subject", "window"), "window for the target trial_type"),
        (GOOD.replace("target: sex", "target: trial_type"), "window for the target trial_type"),
        (GOOD.replace("unit: subject\n", ""), "unit of task .*: expected a value, got none"),
        (GOOD + "classes: {a: 1, b: 2, c: 3}\n", "two for a binary task, got a, b, c"),
        (GOOD + "classes: {a: [1, 2], b: 2}\n", "every value in one class, got 2 twice"),
        (GOOD + "classes: {a: [no], b: [yes]}\n", "yes and no in quotes, got .False"),
        (GOOD + "split: {by: families}\n", "split.by of task .* got 'families'"),
        (GOOD + "split: {folds: 1}\n", "split.folds of task .* a whole number from 2 on, got 1"),
        (GOOD + "split: {fold: 5}\n", "fold of task .*Did you mean folds"),
        (GOOD.replace("binary", "retrieval").replace("auroc", "map"), "run for retrieval"),
        (GOOD + "window: 0\n", "seconds above 0"),
        (GOOD + "window: long\n", "window of task .* seconds, got 'long'"),
        ("- a\n", "fields by name, got a list"),
        ("a: [", "valid YAML"),
    ],
)
def test_what_is_wrong_in_a_task_is_named(text, words, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_task(str(tmp_path / "mine.yaml"))


def test_a_file_that_is_no_text_is_one_error(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="mine.yaml: expected a text file, got 'utf-8' codec"):
        read_task(str(tmp_path / "mine.yaml"))
