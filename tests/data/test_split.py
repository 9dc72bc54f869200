"""Subjects are split, never windows; siblings stay together; leakage is an error."""

from __future__ import annotations

import json

import pytest

from fmritok.trainer.data.split import (
    Split,
    check_no_leakage,
    families,
    split_runs,
    with_subjects,
)
from fmritok.trainer.errors import CheckpointError, ConfigError, LeakageError


def _cohort(run_table, n=40, per_family=2):
    subjects = [f"{100 + i // 2}" for i in range(n)]  # two runs each
    table = run_table([50] * n, subjects=subjects)
    table["family"] = [f"F{i // (2 * per_family)}" for i in range(n)]
    return table


def test_families_stay_together_and_about_the_fraction_is_held_out(run_table):
    table = _cohort(run_table)
    for seed in range(5):
        split = split_runs(table, fraction=0.3, seed=seed)
        held_out = table[table["run_id"].isin(split.validation)]
        assert sorted(split.train + split.validation) == sorted(table["run_id"])
        assert set(held_out["family"]).isdisjoint(
            table[table["run_id"].isin(split.train)]["family"]
        )
        assert held_out["subject"].nunique() == 6


def test_the_split_depends_on_seed_and_subjects_not_on_the_order_of_rows(run_table):
    table = _cohort(run_table)
    split = split_runs(table, fraction=0.3, seed=1)
    assert split_runs(table.sample(frac=1, random_state=0), fraction=0.3, seed=1) == split
    assert split_runs(table, fraction=0.3, seed=2) != split


@pytest.mark.parametrize("fraction", [0.001, 0.15, 0.999])
def test_two_families_are_enough_for_both_sides(run_table, fraction):
    split = split_runs(_cohort(run_table, 8), fraction=fraction, seed=0)
    assert len(split.train) == len(split.validation) == 4


def test_one_subject_or_fraction_zero_leaves_nothing_to_validate_on(run_table):
    assert split_runs(run_table([9], subjects=["1"]), fraction=0.5, seed=0).validation == ()
    assert split_runs(_cohort(run_table), fraction=0, seed=0).validation == ()


def test_one_subject_with_two_family_ids_links_both_families(run_table):
    table = run_table([9] * 4, subjects=["1", "1", "2", "3"])
    table["family"] = ["A", "B", "B", ""]
    assert len(set(families(table)[:3])) == 1
    assert families(table)[3] != families(table)[0]


def test_equal_names_in_two_datasets_are_different_people(run_table):
    table = run_table([9, 9], subjects=["1", "1"])
    table["family"] = "A"
    table["dataset"] = ["hcp", "ukb"]
    assert len(set(families(table))) == 2


def test_leakage_is_an_error_that_names_who(run_table):
    table = _cohort(run_table)
    ids = table["run_id"].tolist()
    with pytest.raises(LeakageError, match=r"Split by subject: .*demo/100 on both"):
        check_no_leakage(table, Split((ids[0],), (ids[1],)))
    with pytest.raises(LeakageError, match=r"Split by family: .*on both"):
        check_no_leakage(table, Split((ids[0],), (ids[2],)))
    with pytest.raises(LeakageError, match=r"Split by run: "):
        check_no_leakage(table, Split((ids[0],), (ids[0],)))


def test_a_split_file_that_was_changed_is_refused(run_table, tmp_path):
    split = split_runs(_cohort(run_table), fraction=0.3, seed=1)
    file = tmp_path / "split.json"
    file.write_text(split.to_json())
    assert Split.from_json(file) == split
    tree = json.loads(file.read_text())
    tree["train"]["runs"].append(tree["validation"]["runs"].pop())
    file.write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match=r"split\.json: expected sha256"):
        Split.from_json(file)
    with pytest.raises(CheckpointError, match="readable"):
        Split.from_json(tmp_path / "none.json")


def test_fewer_subjects_are_nested_whole_and_leave_validation_alone(run_table):
    table = _cohort(run_table)
    split = split_runs(table, fraction=0.3, seed=1)
    available = table[table["run_id"].isin(split.train)]["subject"].nunique()
    before: set[str] = set()
    for n in range(1, available + 1):
        fewer = with_subjects(table, split, subjects=n, seed=1)
        assert fewer.validation == split.validation
        assert set(fewer.train) > before
        taken = table[table["subject"].isin(table[table["run_id"].isin(fewer.train)]["subject"])]
        assert taken["subject"].nunique() == n
        assert sorted(taken["run_id"]) == list(fewer.train), "all runs of a subject, or none"
        before = set(fewer.train)
    assert before == set(split.train)
    five = with_subjects(table, split, subjects=5, seed=1)
    shuffled = table.sample(frac=1, random_state=0)
    assert with_subjects(shuffled, split, subjects=5, seed=1) == five
    assert with_subjects(table, split, subjects=5, seed=2) != five
    with pytest.raises(ConfigError, match=rf"at most the {available} subjects .* got"):
        with_subjects(table, split, subjects=available + 1, seed=1)


def test_named_sites_are_held_out_with_the_families_of_their_subjects(run_table):
    table = _cohort(run_table, 24).assign(site="s0")
    table.loc[0, "site"] = "s1"  # one run of a family of four
    table.loc[20:, "site"] = "s2"  # another family
    split = split_runs(table, fraction=0.3, seed=0, hold_out="site=s1,s2")
    assert split.validation == tuple(sorted(table["run_id"][[0, 1, 2, 3, 20, 21, 22, 23]]))
    check_no_leakage(table, split)


@pytest.mark.parametrize(
    "wrong", ["s1", "scanner=s1", "site=", "site=s9", "site=s0,s1,s2", "site=s0,s9"]
)
def test_other_names_of_who_is_held_out_are_refused(run_table, wrong):
    table = _cohort(run_table, 8).assign(site=["s0", "s1", "s2", "s0"] * 2)
    with pytest.raises(ConfigError, match=r"data\.hold_out"):
        split_runs(table, fraction=0.3, seed=0, hold_out=wrong)


def test_runs_without_a_site_cannot_be_held_out_by_site(run_table):
    table = _cohort(run_table, 8).assign(site="")
    with pytest.raises(ConfigError, match="got 'site=s0', and no run has a site"):
        split_runs(table, fraction=0.3, seed=0, hold_out="site=s0")
