"""Tables of participants and sessions: ids, ages, sexes, descriptions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cohorts import (
    LIN6,
    catalog_bids,
    questioned,
    write_derivative,
)

from fmritok.errors import CatalogError
from fmritok.pipeline.tables.remarks import Remark


def test_participants_keep_their_zeros_and_are_described(tmp_path):
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", "sub-007_task-rest")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tsex\tage\tsite_id\tgroup\tscore\n"
        "sub-007\t1\t89+\tA\tpatient\tn/a\nsub-008\t2\t30\tB\tcontrol\t3.5\n"
    )
    (tmp_path / "participants.json").write_text(json.dumps({
        "sex": {"Levels": {"1": "Male", "2": {"Description": "Female"}}},
        "score": {"Description": "a test", "Units": "points"},
    }))  # fmt: skip
    cohort = catalog_bids(tmp_path)
    assert cohort.phenotypes[["subject", "session", "sex", "age"]].values.tolist() == [
        ["007", "", "M", 89.0], ["008", "", "F", 30.0],
    ]  # fmt: skip
    np.testing.assert_array_equal(cohort.phenotypes["score"], [np.nan, 3.5])
    assert cohort.runs["site"].tolist() == ["A"]
    about = cohort.columns.set_index("column")
    assert about.loc["score", ["unit", "meaning"]].tolist() == ["points", "a test"]
    assert about.loc["age", "source"] == "participants.tsv: age"


@pytest.mark.parametrize("column", ["family", "family_id", "Family_ID"])
def test_siblings_are_of_one_family(tmp_path, column):
    for subject in ("1", "2", "3"):
        write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", f"sub-{subject}_task-rest")
    (tmp_path / "participants.tsv").write_text(
        f"participant_id\t{column}\nsub-1\t07\nsub-2\t07\nsub-3\tn/a\n"
    )
    cohort = catalog_bids(tmp_path)
    assert cohort.runs["family"].tolist() == ["07", "07", ""]
    assert cohort.phenotypes["family"].tolist() == ["07", "07", ""]
    about = cohort.columns.set_index("column")
    assert about.loc["family", "source"] == f"participants.tsv: {column}"


def test_ages_in_bins_are_not_years(tmp_path):
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", "sub-01_task-rest")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t20-25\n")
    table = catalog_bids(tmp_path).phenotypes
    assert "age" not in table
    assert table["age_as_given"].tolist() == ["20-25"]


def test_ages_and_sexes_that_cannot_be_told_are_missing_and_named(tmp_path):
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", "sub-01_task-rest")
    path = tmp_path / "participants.tsv"
    path.write_text(
        "participant_id\tage\tsex\nsub-01\t36 Y\tM\nsub-02\t18-38\t2\nSUB-03\t23,5\tn/a\n"
    )
    cohort = catalog_bids(tmp_path)
    np.testing.assert_array_equal(cohort.phenotypes["age"], [36, np.nan, 23.5])
    assert cohort.phenotypes["sex"].tolist() == ["M", "", ""]
    assert cohort.phenotypes["subject"].tolist() == ["01", "02", "03"]
    assert cohort.phenotypes["age_as_given"].tolist() == ["36 Y", "18-38", "23,5"]
    assert [reason for _, reason in questioned(cohort, tmp_path)] == [
        f"{Remark.SEX_UNKNOWN}: '2'", f"{Remark.AGE_UNKNOWN}: '18-38'", f"{Remark.COMMAS}: age",
    ]  # fmt: skip


def test_ages_in_months_are_converted(tmp_path):
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", "sub-01_task-rest")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t18\n")
    (tmp_path / "participants.json").write_text('{"age": {"Units": "months"}}')
    cohort = catalog_bids(tmp_path)
    assert cohort.phenotypes["age"].tolist() == [1.5]
    assert cohort.columns.set_index("column").loc["age", "unit"] == "years"
    assert questioned(cohort, tmp_path) == [("participants.tsv", Remark.AGE_UNIT)]


def test_one_row_for_each_session(tmp_path):
    for session in ("1", "2"):
        write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", f"sub-01_ses-{session}_task-rest")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tsession_id\tage\tsite\n"
        "sub-01\tses-1\t30\tA\nsub-01\tses-2\t31\tB\nsub-02\tn/a\t40\tC\n"
    )
    cohort = catalog_bids(tmp_path)
    assert cohort.phenotypes[["subject", "session", "age"]].values.tolist() == [
        ["01", "1", 30], ["01", "2", 31], ["02", "", 40],
    ]  # fmt: skip
    assert cohort.runs["site"].tolist() == ["A", "B"]
    assert cohort.questioned.empty


def test_tables_of_sessions_go_with_the_participants(tmp_path):
    tree = tmp_path / "derivatives" / "fmriprep"
    for session in ("1", "2"):
        write_derivative(tree, f"space-{LIN6}_desc-preproc", f"sub-01_ses-{session}_task-rest")
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nsub-01\tF\n")
    (tmp_path / "sub-01").mkdir()
    (tmp_path / "sub-01" / "sub-01_sessions.tsv").write_text(
        "session_id\tage\tmood\nses-1\t30\t5\nses-2\t31\tn/a\n"
    )
    (tmp_path / "sessions.json").write_text('{"mood": {"Description": "mood", "Units": "points"}}')
    cohort = catalog_bids(tmp_path)
    table = cohort.phenotypes
    assert table[["subject", "session", "sex"]].values.tolist() == [
        ["01", "", "F"], ["01", "1", ""], ["01", "2", ""],
    ]  # fmt: skip
    np.testing.assert_array_equal(table["age"], [np.nan, 30, 31])
    np.testing.assert_array_equal(table["mood"], [np.nan, 5, np.nan])
    about = cohort.columns.set_index("column")
    assert about.loc["mood", ["unit", "meaning"]].tolist() == ["points", "mood"]
    assert cohort.questioned.empty


def test_broken_participants(tmp_path):
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc")
    table = tmp_path / "participants.tsv"
    for text, words in (
        ("id\tage\n01\t3\n", "a column 'participant_id'"),
        ("participant_id\tage\nsub-01\t3\t4\n", "2 columns in the header and 3 below it"),
        ("participant_id\nsub-99\n", "not one subject with runs has a row"),
    ):
        table.write_text(text)
        with pytest.raises(CatalogError, match=words):
            catalog_bids(tmp_path)


def test_a_lone_quote_mark_swallows_no_participant(tmp_path):
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc")
    (tmp_path / "participants.tsv").write_text(
        'participant_id\tnote\tage\nsub-01\t"left\t23\nsub-02\tok"\t31\n'
    )
    assert catalog_bids(tmp_path).phenotypes["age"].tolist() == [23, 31]


@pytest.mark.parametrize(
    "about",
    [
        {"sex": {"Levels": ["M", "F"]}},
        {"sex": {"Levels": {"1": ["Male"], "2": None}}},
        {"sex": ["M"], "score": 3},
        {"score": {"Units": 7, "Description": {"en": "a test"}, "LongName": ["x"]}},
        {"score": {"Units": True, "Levels": "many"}},
    ],
)
def test_descriptions_of_an_unexpected_shape_explain_nothing(tmp_path, about):
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc")
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\tscore\nsub-01\tM\t3\n")
    (tmp_path / "participants.json").write_text(json.dumps(about))
    cohort = catalog_bids(tmp_path)
    assert cohort.phenotypes[["sex", "score"]].values.tolist() == [["M", 3]]
    units = cohort.columns.set_index("column").loc["score", ["unit", "meaning"]].tolist()
    assert units == ["7" if about.get("score") and "LongName" in str(about) else "", ""]
