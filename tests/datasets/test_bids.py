"""fMRIPrep's derivatives: spaces, masks, sidecars, confounds, events, participants, surfaces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cohorts import NATIVE, left_out, questioned, write_cifti, write_gifti, write_header

from fmritok.errors import CatalogError
from fmritok.pipeline.datasets import get_adapter
from fmritok.pipeline.datasets.bids_files import BidsFolders, parse_name
from fmritok.pipeline.tables.remarks import Reason, Remark

RUN = "sub-01_ses-1_task-rest_run-1"
LIN6, C2009 = "MNI152NLin6Asym", "MNI152NLin2009cAsym"


def func(root: Path, run: str = RUN) -> Path:
    entities = dict(pair.split("-") for pair in run.split("_"))
    session = f"ses-{entities['ses']}/" if "ses" in entities else ""
    return root / f"sub-{entities['sub']}" / session / "func"


def volume(root: Path, entities: str, run: str = RUN, **options) -> Path:
    return write_header(func(root, run) / f"{run}_{entities}_bold.nii.gz", **options)


def catalog(root: Path, **options):
    return get_adapter("bids")(root, **options)


def test_the_best_space_is_taken_and_the_others_are_listed(tmp_path):
    for space in (f"space-{C2009}_res-2", f"space-{LIN6}_res-2", f"space-{LIN6}", "space-T1w"):
        volume(tmp_path, f"{space}_desc-preproc")
    volume(tmp_path, "desc-preproc")
    volume(tmp_path, f"space-{C2009}_desc-preproc", "sub-02_task-rest")
    cohort = catalog(tmp_path)
    assert cohort.runs[["run_id", "space", "session"]].values.tolist() == [
        [f"bids_{RUN}", LIN6, "1"], ["bids_sub-02_task-rest", C2009, ""],
    ]  # fmt: skip
    assert "_res-2_" in cohort.runs["source"][0]
    reasons = {
        Path(p).name.removeprefix(f"{RUN}_"): r for p, r in left_out(cohort, tmp_path).items()
    }
    better = "another space, resolution or processing of the run is preferred"
    assert reasons == {
        f"space-{C2009}_res-2_desc-preproc_bold.nii.gz": better,
        f"space-{LIN6}_desc-preproc_bold.nii.gz": better,
        "space-T1w_desc-preproc_bold.nii.gz": (
            f"in an unsupported space. Supported: {LIN6}, {C2009}"
        ),
        "desc-preproc_bold.nii.gz": "in the scan's own space",
    }


def test_single_echoes_and_denoised_copies_are_no_runs_of_their_own(tmp_path):
    run = "sub-01_task-rest"
    volume(tmp_path, f"space-{LIN6}_desc-preproc", run)
    volume(tmp_path, f"space-{LIN6}_desc-denoised", run)
    write_header(func(tmp_path, run) / f"sub-01_task-rest_echo-1_space-{LIN6}_bold.nii.gz")
    cohort = catalog(tmp_path)
    assert cohort.runs["source"].str.contains("desc-preproc").tolist() == [True]
    assert cohort.left_out["reason"].str.contains("a single echo").sum() == 1


def test_only_denoised_volumes_are_taken_too(tmp_path):
    volume(tmp_path, f"space-{C2009}_res-2_desc-denoised")
    assert catalog(tmp_path).runs["problem"].tolist() == [""]


def test_raw_data_are_refused_with_the_next_step(tmp_path):
    write_header(func(tmp_path) / f"{RUN}_bold.nii.gz", affine=NATIVE)
    with pytest.raises(CatalogError, match="native space: preprocess it with fMRIPrep"):
        catalog(tmp_path)


def test_the_mask_is_that_of_the_same_space_and_resolution(tmp_path):
    volume(tmp_path, f"space-{LIN6}_res-2_desc-preproc")
    mask = f"{RUN}_space-{LIN6}_res-2_desc-brain_mask.nii.gz"
    for name in (mask, f"{RUN}_space-{C2009}_res-2_desc-brain_mask.nii.gz"):
        write_header(func(tmp_path) / name, shape=(9, 9, 9))
    volume(tmp_path, f"space-{LIN6}_desc-preproc", "sub-02_task-rest")
    assert catalog(tmp_path).runs["mask"].tolist() == [str(func(tmp_path) / mask), ""]


def test_the_sidecar_wins_over_the_header(tmp_path):
    path = volume(tmp_path, f"space-{LIN6}_desc-preproc", tr=1.0)
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    sidecar.write_text('{"RepetitionTime": 2.2}')
    assert catalog(tmp_path).runs["tr"].tolist() == [2.2]
    assert catalog(tmp_path, tr=3.0).runs["tr"].tolist() == [3.0]


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
    path = volume(tmp_path, f"space-{LIN6}_desc-preproc", tr=1.5)
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    sidecar.write_text(content)
    cohort = catalog(tmp_path)
    assert cohort.runs[["tr", "problem"]].values.tolist() == [[1.5, ""]]
    assert questioned(cohort, tmp_path) == [(sidecar.relative_to(tmp_path).as_posix(), remark)]
    assert catalog(tmp_path, tr=3.0).runs[["tr", "problem"]].values.tolist() == [[3.0, ""]]


def test_a_sidecar_in_latin_1_is_read(tmp_path):
    path = volume(tmp_path, f"space-{LIN6}_desc-preproc", tr=1.0)
    content = '{"RepetitionTime": "2.2", "InstitutionName": "Universit\xe9"}'.encode("latin-1")
    path.with_name(path.name.replace(".nii.gz", ".json")).write_bytes(content)
    cohort = catalog(tmp_path)
    assert cohort.runs["tr"].tolist() == [2.2]
    assert questioned(cohort, tmp_path) == []


def values_of(folders: BidsFolders, path) -> dict:
    return {name: value for name, (value, _) in folders.sidecar(parse_name(path)).items()}


def test_fields_of_sidecars_are_merged_and_the_most_specific_wins(tmp_path):
    tree = tmp_path / "derivatives" / "fmriprep"
    path = volume(tree, f"space-{LIN6}_desc-preproc")
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
    volume(tree, f"space-{LIN6}_desc-preproc", tr=0.0)
    (tmp_path / "task-rest_bold.json").write_text('{"RepetitionTime": 1.5}')
    (tmp_path / "task-nback_bold.json").write_text('{"RepetitionTime": 9.9}')
    for root in (tmp_path, tree):
        (tmp_path / "sub-01").mkdir(exist_ok=True)
        assert catalog(root).runs[["tr", "problem"]].values.tolist() == [[1.5, ""]]


def test_motion_is_the_mean_framewise_displacement(tmp_path):
    volume(tmp_path, f"space-{LIN6}_desc-preproc")
    volume(tmp_path, f"space-{LIN6}_desc-preproc", "sub-02_task-rest")
    (func(tmp_path) / f"{RUN}_desc-confounds_timeseries.tsv").write_text(
        "csf\tframewise_displacement\trot_x\n1\tn/a\t0\n1\t0.1\t0\n1\t0.3\t0\n"
    )
    (
        func(tmp_path, "sub-02_task-rest") / "sub-02_task-rest_desc-confounds_regressors.tsv"
    ).write_text("csf\n1\n")
    cohort = catalog(tmp_path)
    np.testing.assert_allclose(cohort.runs["motion"], [0.2, np.nan])
    assert [reason for _, reason in questioned(cohort, tmp_path)] == [
        Remark.NO_MOTION.with_reason(Reason.NO_COLUMN)
    ]


def test_frames_whose_displacement_is_no_number_do_not_count_and_are_named(tmp_path):
    volume(tmp_path, f"space-{LIN6}_desc-preproc")
    (func(tmp_path) / f"{RUN}_desc-confounds_timeseries.tsv").write_text(
        "framewise_displacement\tx\nn/a\t0\n0,1\t0\nnan\t0\n0,3\n"
    )
    cohort = catalog(tmp_path)
    np.testing.assert_allclose(cohort.runs["motion"], [0.2])
    assert [reason for _, reason in questioned(cohort, tmp_path)] == [
        Remark.SHORT_ROWS, Remark.BAD_MOTION,
    ]  # fmt: skip


def test_events_of_the_raw_data(tmp_path):
    run = "sub-01_task-faces_run-01"
    tree = tmp_path / "derivatives" / "fmriprep"
    volume(tree, f"space-{LIN6}_desc-preproc", run)
    volume(tree, f"space-{LIN6}_desc-preproc", "sub-02_task-faces")
    volume(tree, f"space-{LIN6}_desc-preproc", "sub-01_task-rest")
    func(tmp_path, run).mkdir(parents=True)
    (func(tmp_path, run) / f"{run}_events.tsv").write_text(
        "onset\tduration\ttrial_type\n10.5\tn/a\tface\n0.5\t2\thouse\nn/a\t1\tnone\n"
    )
    (tmp_path / "task-faces_events.tsv").write_text("onset\tduration\n1\t2\n")
    events = catalog(tmp_path).events
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
    volume(tree, f"space-{LIN6}_desc-preproc", name)
    func(tmp_path, raw).mkdir(parents=True)
    (func(tmp_path, raw) / f"{raw}_events.tsv").write_text("onset\tduration\n1\t2\n")
    (func(tmp_path, raw) / f"{raw}_bold.json").write_text('{"RepetitionTime": 1.9}')
    cohort = catalog(tmp_path)
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
    volume(tree, f"space-{LIN6}_desc-preproc", name)
    func(tmp_path, raw).mkdir(parents=True)
    path = func(tmp_path, raw) / f"{raw}_events.tsv"
    path.write_text("onset\tduration\n1\t2\n")
    cohort = catalog(tmp_path)
    assert cohort.events.empty
    near = (path.relative_to(tmp_path).as_posix(), Remark.NEARLY_EVENTS)
    assert questioned(cohort, tmp_path) == [near]


def test_events_of_other_runs_and_tasks_are_not_nearly_a_runs(tmp_path):
    tree = tmp_path / "derivatives" / "fmriprep"
    for run in ("sub-01_task-faces_run-1", "sub-01_task-rest_run-1"):
        volume(tree, f"space-{LIN6}_desc-preproc", run)
    for run in ("task-faces_run-2", "task-nback_run-1", "task-rest_acq-b_run-1"):
        func(tmp_path, "sub-01_task-x").mkdir(parents=True, exist_ok=True)
        (func(tmp_path, "sub-01_task-x") / f"sub-01_{run}_events.tsv").write_text("onset\n1\n")
    cohort = catalog(tmp_path)
    assert cohort.events.empty
    assert cohort.questioned.empty


def test_two_files_of_one_run_are_refused_whatever_their_zeros(tmp_path):
    for run in ("sub-01_task-faces_run-1", "sub-01_task-faces_run-01"):
        volume(tmp_path, f"space-{LIN6}_desc-preproc", run)
    runs = catalog(tmp_path).runs
    assert len(runs) == 1
    assert "expected one file" in runs["problem"][0]


def test_labels_may_have_dots(tmp_path):
    volume(tmp_path, f"space-{LIN6}_res-2.5_desc-preproc", "sub-A.01_task-rest")
    runs = catalog(tmp_path).runs
    assert runs[["run_id", "subject", "problem"]].values.tolist() == [
        ["bids_sub-A-01_task-rest", "A.01", ""]
    ]


def test_images_without_a_bids_name_are_left_out_by_name(tmp_path):
    ending = f"space-{LIN6}_desc-preproc_bold"
    volume(tmp_path, f"space-{LIN6}_desc-preproc")
    names = {
        f"sub-01_task-rest_run1_{ending}.nii.gz": "its name does not follow BIDS",
        f"task-rest_{ending}.nii.gz": "its name does not follow BIDS",
        f"sub-01_task-two_{ending}.NII.GZ": "its extension is in capitals: rename it",
    }
    for name in names:
        (func(tmp_path) / name).touch()
    (func(tmp_path) / "notes.txt").touch()
    found = left_out(catalog(tmp_path), tmp_path)
    assert {Path(p).name: reason for p, reason in found.items()} == names


def test_rows_of_events_that_cannot_be_told_are_named(tmp_path):
    run = "sub-01_task-faces"
    volume(tmp_path, f"space-{LIN6}_desc-preproc", run)
    path = func(tmp_path, run) / f"{run}_events.tsv"
    path.write_bytes(
        "onset\tduration\tword\ttrial_type\r\n"
        '0,5\t1\t"the\tNA\r\n2,25\tlong\tcat"\tnull\r\nNA\t1\tx\tB\r\n3\n'
        "4\t1\tx\tB\tC\r\nn/a\t1\tx\tB\r\n5\tn/a\tUniversit\xe9\tn/a\r\n".encode("utf-16")
    )
    cohort = catalog(tmp_path)
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
    volume(tmp_path, f"space-{LIN6}_desc-preproc", run)
    (func(tmp_path, run) / f"{run}_events.tsv").write_text(content)
    cohort = catalog(tmp_path)
    assert cohort.events.empty
    words = Remark.NO_EVENTS.with_reason(reason)
    assert questioned(cohort, tmp_path) == [(f"sub-01/func/{run}_events.tsv", words)]


def test_participants_keep_their_zeros_and_are_described(tmp_path):
    volume(tmp_path, f"space-{LIN6}_desc-preproc", "sub-007_task-rest")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tsex\tage\tsite_id\tgroup\tscore\n"
        "sub-007\t1\t89+\tA\tpatient\tn/a\nsub-008\t2\t30\tB\tcontrol\t3.5\n"
    )
    (tmp_path / "participants.json").write_text(json.dumps({
        "sex": {"Levels": {"1": "Male", "2": {"Description": "Female"}}},
        "score": {"Description": "a test", "Units": "points"},
    }))  # fmt: skip
    cohort = catalog(tmp_path)
    assert cohort.phenotypes[["subject", "session", "sex", "age"]].values.tolist() == [
        ["007", "", "M", 89.0], ["008", "", "F", 30.0],
    ]  # fmt: skip
    np.testing.assert_array_equal(cohort.phenotypes["score"], [np.nan, 3.5])
    assert cohort.runs["site"].tolist() == ["A"]
    about = cohort.columns.set_index("column")
    assert about.loc["score", ["unit", "meaning"]].tolist() == ["points", "a test"]
    assert about.loc["age", "source"] == "participants.tsv: age"


def test_ages_in_bins_are_not_years(tmp_path):
    volume(tmp_path, f"space-{LIN6}_desc-preproc", "sub-01_task-rest")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t20-25\n")
    table = catalog(tmp_path).phenotypes
    assert "age" not in table
    assert table["age_as_given"].tolist() == ["20-25"]


def test_ages_and_sexes_that_cannot_be_told_are_missing_and_named(tmp_path):
    volume(tmp_path, f"space-{LIN6}_desc-preproc", "sub-01_task-rest")
    path = tmp_path / "participants.tsv"
    path.write_text(
        "participant_id\tage\tsex\nsub-01\t36 Y\tM\nsub-02\t18-38\t2\nSUB-03\t23,5\tn/a\n"
    )
    cohort = catalog(tmp_path)
    np.testing.assert_array_equal(cohort.phenotypes["age"], [36, np.nan, 23.5])
    assert cohort.phenotypes["sex"].tolist() == ["M", "", ""]
    assert cohort.phenotypes["subject"].tolist() == ["01", "02", "03"]
    assert cohort.phenotypes["age_as_given"].tolist() == ["36 Y", "18-38", "23,5"]
    assert [reason for _, reason in questioned(cohort, tmp_path)] == [
        f"{Remark.SEX_UNKNOWN}: '2'", f"{Remark.AGE_UNKNOWN}: '18-38'", f"{Remark.COMMAS}: age",
    ]  # fmt: skip


def test_ages_in_months_are_converted(tmp_path):
    volume(tmp_path, f"space-{LIN6}_desc-preproc", "sub-01_task-rest")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t18\n")
    (tmp_path / "participants.json").write_text('{"age": {"Units": "months"}}')
    cohort = catalog(tmp_path)
    assert cohort.phenotypes["age"].tolist() == [1.5]
    assert cohort.columns.set_index("column").loc["age", "unit"] == "years"
    assert questioned(cohort, tmp_path) == [("participants.tsv", Remark.AGE_UNIT)]


def test_one_row_for_each_session(tmp_path):
    for session in ("1", "2"):
        volume(tmp_path, f"space-{LIN6}_desc-preproc", f"sub-01_ses-{session}_task-rest")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tsession_id\tage\tsite\n"
        "sub-01\tses-1\t30\tA\nsub-01\tses-2\t31\tB\nsub-02\tn/a\t40\tC\n"
    )
    cohort = catalog(tmp_path)
    assert cohort.phenotypes[["subject", "session", "age"]].values.tolist() == [
        ["01", "1", 30], ["01", "2", 31], ["02", "", 40],
    ]  # fmt: skip
    assert cohort.runs["site"].tolist() == ["A", "B"]
    assert cohort.questioned.empty


def test_tables_of_sessions_go_with_the_participants(tmp_path):
    tree = tmp_path / "derivatives" / "fmriprep"
    for session in ("1", "2"):
        volume(tree, f"space-{LIN6}_desc-preproc", f"sub-01_ses-{session}_task-rest")
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nsub-01\tF\n")
    (tmp_path / "sub-01").mkdir()
    (tmp_path / "sub-01" / "sub-01_sessions.tsv").write_text(
        "session_id\tage\tmood\nses-1\t30\t5\nses-2\t31\tn/a\n"
    )
    (tmp_path / "sessions.json").write_text('{"mood": {"Description": "mood", "Units": "points"}}')
    cohort = catalog(tmp_path)
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
    volume(tmp_path, f"space-{LIN6}_desc-preproc")
    table = tmp_path / "participants.tsv"
    for text, words in (
        ("id\tage\n01\t3\n", "a column 'participant_id'"),
        ("participant_id\tage\nsub-01\t3\t4\n", "2 columns in the header and 3 below it"),
        ("participant_id\nsub-99\n", "not one subject with runs has a row"),
    ):
        table.write_text(text)
        with pytest.raises(CatalogError, match=words):
            catalog(tmp_path)


def test_a_lone_quote_mark_swallows_no_participant(tmp_path):
    volume(tmp_path, f"space-{LIN6}_desc-preproc")
    (tmp_path / "participants.tsv").write_text(
        'participant_id\tnote\tage\nsub-01\t"left\t23\nsub-02\tok"\t31\n'
    )
    assert catalog(tmp_path).phenotypes["age"].tolist() == [23, 31]


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
    volume(tmp_path, f"space-{LIN6}_desc-preproc")
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\tscore\nsub-01\tM\t3\n")
    (tmp_path / "participants.json").write_text(json.dumps(about))
    cohort = catalog(tmp_path)
    assert cohort.phenotypes[["sex", "score"]].values.tolist() == [["M", 3]]
    units = cohort.columns.set_index("column").loc["score", ["unit", "meaning"]].tolist()
    assert units == ["7" if about.get("score") and "LongName" in str(about) else "", ""]


def test_several_pipelines_have_to_be_told_apart(tmp_path):
    for name in ("fmriprep", "xcp_d"):
        volume(tmp_path / "derivatives" / name, f"space-{LIN6}_desc-preproc")
    assert catalog(tmp_path).runs["source"].str.startswith("derivatives/fmriprep/").all()
    volume(tmp_path / "derivatives" / "fmriprep-23", f"space-{LIN6}_desc-preproc")
    with pytest.raises(CatalogError, match="fmriprep, fmriprep-23"):
        catalog(tmp_path)


def test_grayordinates_before_pairs_with_the_volumes_run_ids(tmp_path):
    volume(tmp_path, f"space-{LIN6}_desc-preproc")
    name = f"{RUN}_space-fsLR_den-91k_bold"
    write_cifti(func(tmp_path) / f"{name}.dtseries.nii", tr=2.0)
    (func(tmp_path) / f"{name}.json").write_text('{"RepetitionTime": 2.1}')
    write_cifti(func(tmp_path) / f"{RUN}_space-fsLR_den-170k_bold.dtseries.nii")
    for side in "LR":
        write_gifti(func(tmp_path) / f"{RUN}_hemi-{side}_space-fsaverage5_bold.func.gii")
        write_gifti(func(tmp_path) / f"{RUN}_hemi-{side}_space-fsnative_bold.func.gii")
    cohort = catalog(tmp_path, input="surface")
    run = cohort.runs.iloc[0]
    assert run["source"].endswith("den-91k_bold.dtseries.nii")
    assert (run["space"], run["tr"], run["right"], run["mask"]) == ("fsLR", 2.1, "", "")
    assert cohort.runs["run_id"].tolist() == catalog(tmp_path).runs["run_id"].tolist()
    reasons = cohort.left_out["reason"].str.split(":").str[0].value_counts()
    assert reasons["in an unsupported space. Supported"] == 3
    assert len(cohort.left_out) == 5


def test_pairs_of_hemispheres(tmp_path):
    names = {s: f"{RUN}_hemi-{s}_space-fsaverage5_bold" for s in "LR"}
    for name in names.values():
        write_gifti(func(tmp_path) / f"{name}.func.gii")
        (func(tmp_path) / f"{name}.json").write_text('{"RepetitionTime": 2.0}')
    run = catalog(tmp_path, input="surface").runs.iloc[0]
    assert run["path"].endswith(f"{names['L']}.func.gii")
    assert run["right"].endswith(f"{names['R']}.func.gii")
    assert (run["space"], run["tr"], run["problem"], run["n_frames"]) == ("fsaverage5", 2.0, "", 4)
    for side, other in (("R", "L"), ("L", "R")):
        for name in names.values():
            write_gifti(func(tmp_path) / f"{name}.func.gii")
        (func(tmp_path) / f"{names[side]}.func.gii").unlink()
        run = catalog(tmp_path, input="surface").runs.iloc[0]
        assert f"no file of hemi-{side}" in run["problem"]
        assert f"hemi-{other}" in run["path"]
