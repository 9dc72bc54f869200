"""``inspect`` lists runs and phenotype columns, for people and for programs."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from tiny import fmritok

from fmritok.pipeline.store.tables.annotations import write_annotations

RUNS = ["demo_100_run0", "demo_101_run1", "demo_102_run2"]


@pytest.fixture
def store(make_store):
    location, _ = make_store([20, 12, 16], subjects=["100", "101", "102"], n_tokens=2, dim=2)
    phenotypes = pd.DataFrame(
        {
            "dataset": "demo", "subject": ["100", "101", "102"], "session": "",
            "sex": ["F", "M", "F"], "age": [31.5, float("nan"), 22.0],
        }
    )  # fmt: skip
    columns = pd.DataFrame(
        {
            "dataset": "demo", "column": ["sex", "age"], "dtype": ["text", "number"],
            "unit": ["", "years"], "source": "participants.tsv", "meaning": "",
        }
    )  # fmt: skip
    write_annotations(location, {"phenotypes": phenotypes, "phenotype_columns": columns})
    return location.url


def listed(store: str, *options: str) -> list[str]:
    result = fmritok("inspect", "--store", store, *options)
    assert result.exit_code == 0, result.output
    return [run for run in RUNS if run in result.output]


def test_the_summary_lists_no_runs(store):
    assert listed(store) == []


@pytest.mark.parametrize(("options", "found"), [
    (["--runs"], RUNS),
    (["--subject", "101"], RUNS[1:2]),
    (["--subject", "101", "--subject", "102"], RUNS[1:]),
    (["--where", "run_id=demo_100_run0"], RUNS[:1]),
    (["--runs", "--group", "vae", "--where", "status=done"], RUNS),
    (["--where", "status=failed"], []),
])  # fmt: skip
def test_runs_are_listed_and_filtered(store, options, found):
    assert listed(store, *options) == found
    told = json.loads(fmritok("inspect", "--store", store, "--json", *options).output)
    assert [run["run_id"] for run in told["runs"]] == found


@pytest.mark.parametrize(("options", "said"), [
    (["--subject", "7"], "Error: subject=7: expected a subject of the store's runs (100, 101"),
    (["--where", "sex=F"], "COLUMN=VALUE with one of run_id"),
    (["--where", "task"], "COLUMN=VALUE with one of run_id"),
    (["--group", "flatmap"], "one of vae"),
])  # fmt: skip
def test_filters_of_unknown_columns_or_values_are_refused(store, options, said):
    result = fmritok("inspect", "--store", store, *options)
    assert result.exit_code == 2, result.output
    assert said in result.output


def test_phenotype_columns_are_counted(store):
    sex, age = json.loads(fmritok("inspect", "--store", store, "--json").output)["phenotypes"]
    assert (sex["subjects"], sex["of"], sex["different"]) == (3, 3, 2)
    assert sex["values"] == {"F": 2, "M": 1}
    assert (age["subjects"], age["of"], age["different"]) == (2, 3, 2)
    assert (age["min"], age["max"], age["unit"]) == (22.0, 31.5, "years")
    for options in ((), ("--phenotypes",)):
        text = fmritok("inspect", "--store", store, *options).output
        assert "F (2), M (1)" in text
        assert "22 .. 31.5" in text
        assert "2 of 3" in text
