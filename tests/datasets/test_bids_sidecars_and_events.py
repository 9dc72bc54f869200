"""Files beside fMRIPrep's runs: sidecars, confounds, events."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cohorts import BIDS_RUN as RUN
from cohorts import (
    LIN6,
    catalog_bids,
    func_folder,
    questioned,
    write_derivative,
)

from fmritok.pipeline.datasets.bids_files import BidsFolders, parse_name
from fmritok.pipeline.tables.remarks import Reason, Remark


def test_the_sidecar_wins_over_the_header(tmp_path):
    path = write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", tr=1.0)
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    sidecar.write_text('{"RepetitionTime": 2.2}')
    assert catalog_bids(tmp_path).runs["tr"].tolist() == [2.2]
    assert catalog_bids(tmp_path, tr=3.0).runs["tr"].tolist() == [3.0]


NO_TR = "RepetitionTime in the sidecar is no number: it is not used"


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        ("{", Remark.NO_SIDECAR.with_reason(Reason.NO_JSON)),
        ("[2.0]", Remark.NO_SIDECAR.with_reason(Reason.NO_FIELDS)),
        (
            '{"RepetitionTime": 1500}',
            "the sidecar's RepetitionTime of 1500 s is impossible (these look "
            "like milliseconds): the header's is used",
        ),
        ('{"RepetitionTime": NaN}', NO_TR),
        ('{"RepetitionTime": [2]}', NO_TR),
        ('{"RepetitionTime": true}', NO_TR),
    ],
)
def test_a_sidecar_that_cannot_be_used_leaves_the_headers_time_or_the_given_one(
    tmp_path, content, remark
):
    path = write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", tr=1.5)
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    sidecar.write_text(content)
    cohort = catalog_bids(tmp_path)
    assert cohort.runs[["tr", "problem"]].values.tolist() == [[1.5, ""]]
    assert questioned(cohort, tmp_path) == [(sidecar.relative_to(tmp_path).as_posix(), remark)]
    assert catalog_bids(tmp_path, tr=3.0).runs[["tr", "problem"]].values.tolist() == [[3.0, ""]]


def test_a_sidecar_in_latin_1_is_read(tmp_path):
    path = write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", tr=1.0)
    content = '{"RepetitionTime": "2.2", "InstitutionName": "Universit\xe9"}'.encode("latin-1")
    path.with_name(path.name.replace(".nii.gz", ".json")).write_bytes(content)
    cohort = catalog_bids(tmp_path)
    assert cohort.runs["tr"].tolist() == [2.2]
    assert questioned(cohort, tmp_path) == []


def values_of(folders: BidsFolders, path) -> dict:
    return {name: value for name, (value, _) in folders.sidecar(parse_name(path)).items()}


def test_fields_of_sidecars_are_merged_and_the_most_specific_wins(tmp_path):
    tree = tmp_path / "derivatives" / "fmriprep"
    path = write_derivative(tree, f"space-{LIN6}_desc-preproc")
    texts = {
        path.with_name(path.name.replace(".nii.gz", ".json")): {"StartTime": 1},
        tree / "task-rest_bold.json": {"StartTime": 0, "RepetitionTime": 2},
        tree / "task-rest_run-01_bold.json": {"EchoTime": 0.03},
        tree / "bold.json": {"RepetitionTime": 9, "FlipAngle": 70},
        tmp_path / "task-rest_bold.json": {"RepetitionTime": 8, "VolumeTiming": [0]},
    }
    for place, fields in texts.items():
        place.write_text(json.dumps(fields))
    fields = values_of(BidsFolders(tree, tmp_path), path)
    assert fields == {"StartTime": 1, "RepetitionTime": 2, "EchoTime": 0.03, "FlipAngle": 70}
    (tree / "task-rest_bold.json").unlink()
    (tree / "bold.json").unlink()
    fields = values_of(BidsFolders(tree, tmp_path), path)
    assert fields == {"StartTime": 1, "EchoTime": 0.03, "RepetitionTime": 8, "VolumeTiming": [0]}


def test_the_repetition_time_is_inherited_from_the_task_of_the_raw_data(tmp_path):
    tree = tmp_path / "derivatives" / "fmriprep"
    write_derivative(tree, f"space-{LIN6}_desc-preproc", tr=0.0)
    (tmp_path / "task-rest_bold.json").write_text('{"RepetitionTime": 1.5}')
    (tmp_path / "task-nback_bold.json").write_text('{"RepetitionTime": 9.9}')
    for root in (tmp_path, tree):
        (tmp_path / "sub-01").mkdir(exist_ok=True)
        assert catalog_bids(root).runs[["tr", "problem"]].values.tolist() == [[1.5, ""]]


def test_motion_is_the_mean_framewise_displacement(tmp_path):
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc")
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", "sub-02_task-rest")
    (func_folder(tmp_path) / f"{RUN}_desc-confounds_timeseries.tsv").write_text(
        "csf\tframewise_displacement\trot_x\n1\tn/a\t0\n1\t0.1\t0\n1\t0.3\t0\n"
    )
    (
        func_folder(tmp_path, "sub-02_task-rest") / "sub-02_task-rest_desc-confounds_regressors.tsv"
    ).write_text("csf\n1\n")
    cohort = catalog_bids(tmp_path)
    np.testing.assert_allclose(cohort.runs["motion"], [0.2, np.nan])
    assert [reason for _, reason in questioned(cohort, tmp_path)] == [
        Remark.NO_MOTION.with_reason(Reason.NO_COLUMN)
    ]


def test_frames_whose_displacement_is_no_number_do_not_count_and_are_named(tmp_path):
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc")
    (func_folder(tmp_path) / f"{RUN}_desc-confounds_timeseries.tsv").write_text(
        "framewise_displacement\tx\nn/a\t0\n0,1\t0\nnan\t0\n0,3\n"
    )
    cohort = catalog_bids(tmp_path)
    np.testing.assert_allclose(cohort.runs["motion"], [0.2])
    assert [reason for _, reason in questioned(cohort, tmp_path)] == [
        Remark.SHORT_ROWS, Remark.BAD_MOTION,
    ]  # fmt: skip


def test_events_of_the_raw_data(tmp_path):
    run = "sub-01_task-faces_run-01"
    tree = tmp_path / "derivatives" / "fmriprep"
    write_derivative(tree, f"space-{LIN6}_desc-preproc", run)
    write_derivative(tree, f"space-{LIN6}_desc-preproc", "sub-02_task-faces")
    write_derivative(tree, f"space-{LIN6}_desc-preproc", "sub-01_task-rest")
    func_folder(tmp_path, run).mkdir(parents=True)
    (func_folder(tmp_path, run) / f"{run}_events.tsv").write_text(
        "onset\tduration\ttrial_type\n10.5\tn/a\tface\n0.5\t2\thouse\nn/a\t1\tnone\n"
    )
    (tmp_path / "task-faces_events.tsv").write_text("onset\tduration\n1\t2\n")
    events = catalog_bids(tmp_path).events
    assert events["run_id"].tolist() == [f"bids_{run}"] * 2 + ["bids_sub-02_task-faces"]
    assert events["onset"].tolist() == [0.5, 10.5, 1.0]
    np.testing.assert_array_equal(events["duration"], [2.0, np.nan, 2.0])
    assert events["trial_type"].tolist() == ["house", "face", ""]


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("sub-01_task-faces_run-1", "sub-01_task-faces_run-01"),
        ("sub-01_task-faces_run-001", "sub-01_task-faces_run-1"),
        ("sub-01_task-faces_acq-b_run-1", "sub-01_acq-b_task-faces_run-1"),
        ("sub-01_task-faces_acq-b_run-1", "sub-01_task-faces"),
    ],
)
def test_indices_are_compared_by_number_and_the_order_of_entities_does_not_matter(
    tmp_path, name, raw
):
    tree = tmp_path / "derivatives" / "fmriprep"
    write_derivative(tree, f"space-{LIN6}_desc-preproc", name)
    func_folder(tmp_path, raw).mkdir(parents=True)
    (func_folder(tmp_path, raw) / f"{raw}_events.tsv").write_text("onset\tduration\n1\t2\n")
    (func_folder(tmp_path, raw) / f"{raw}_bold.json").write_text('{"RepetitionTime": 1.9}')
    cohort = catalog_bids(tmp_path)
    assert cohort.events["onset"].tolist() == [1.0]
    assert cohort.runs["tr"].tolist() == [1.9]
    assert questioned(cohort, tmp_path) == []


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("sub-01_task-faces", "sub-01_task-Faces"),
        ("sub-01_task-faces01", "sub-01_task-faces1"),
        ("sub-01_task-faces_run-1", "sub-01_task-faces_acq-mb_run-1"),
        ("sub-01_task-faces", "sub-01_task-faces_dir-AP"),
        ("sub-01_task-faces", "sub-01_task-faces_echo-1"),
        ("sub-01_task-faces", "sub-01_task-faces_rec-x_part-mag"),
        ("sub-01_ses-1_task-faces", "sub-01_ses-01_task-faces"),
        ("sub-01_ses-1_task-faces", "sub-01_ses-1_task-faces_run-1"),
    ],
)
def test_events_of_a_nearly_fitting_name_are_named_and_not_used(tmp_path, name, raw):
    tree = tmp_path / "derivatives" / "fmriprep"
    write_derivative(tree, f"space-{LIN6}_desc-preproc", name)
    func_folder(tmp_path, raw).mkdir(parents=True)
    path = func_folder(tmp_path, raw) / f"{raw}_events.tsv"
    path.write_text("onset\tduration\n1\t2\n")
    cohort = catalog_bids(tmp_path)
    assert cohort.events.empty
    near = (path.relative_to(tmp_path).as_posix(), Remark.NEARLY_EVENTS)
    assert questioned(cohort, tmp_path) == [near]


def test_events_of_other_runs_and_tasks_are_not_nearly_a_runs(tmp_path):
    tree = tmp_path / "derivatives" / "fmriprep"
    for run in ("sub-01_task-faces_run-1", "sub-01_task-rest_run-1"):
        write_derivative(tree, f"space-{LIN6}_desc-preproc", run)
    for run in ("task-faces_run-2", "task-nback_run-1", "task-rest_acq-b_run-1"):
        func_folder(tmp_path, "sub-01_task-x").mkdir(parents=True, exist_ok=True)
        (func_folder(tmp_path, "sub-01_task-x") / f"sub-01_{run}_events.tsv").write_text(
            "onset\n1\n"
        )
    cohort = catalog_bids(tmp_path)
    assert cohort.events.empty
    assert cohort.questioned.empty


def test_rows_of_events_that_cannot_be_told_are_named(tmp_path):
    run = "sub-01_task-faces"
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", run)
    path = func_folder(tmp_path, run) / f"{run}_events.tsv"
    path.write_bytes(
        "onset\tduration\tword\ttrial_type\r\n"
        '0,5\t1\t"the\tNA\r\n2,25\tlong\tcat"\tnull\r\nNA\t1\tx\tB\r\n3\n'
        "4\t1\tx\tB\tC\r\nn/a\t1\tx\tB\r\n5\tn/a\tUniversit\xe9\tn/a\r\n".encode("utf-16")
    )
    cohort = catalog_bids(tmp_path)
    assert cohort.events["onset"].tolist() == [0.5, 2.25, 3.0, 5.0]
    assert cohort.events["trial_type"].tolist() == ["NA", "null", "", ""]
    np.testing.assert_array_equal(cohort.events["duration"], [1, np.nan, np.nan, np.nan])
    assert [reason for _, reason in questioned(cohort, tmp_path)] == [
        Remark.SHORT_ROWS, Remark.LONG_ROWS, Remark.BAD_ONSETS, Remark.BAD_DURATIONS,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", Reason.BINARY), ("start\tduration\n1\t2\n", Reason.NO_COLUMN),
     ("onset\tduration\na\tb\n", Reason.NO_ONSETS)],
)  # fmt: skip
def test_files_without_onsets_are_no_events(tmp_path, content, reason):
    run = "sub-01_task-faces"
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", run)
    (func_folder(tmp_path, run) / f"{run}_events.tsv").write_text(content)
    cohort = catalog_bids(tmp_path)
    assert cohort.events.empty
    words = Remark.NO_EVENTS.with_reason(reason)
    assert questioned(cohort, tmp_path) == [(f"sub-01/func/{run}_events.tsv", words)]
