"""When frames were taken: header, sidecars and cohort agree, or what differs is said."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from cohorts import write_header
from images import bids_path, grayordinates, write_image, write_pair

from fmritok.pipeline.datasets import get_adapter
from fmritok.pipeline.headers.run_header import run_header
from fmritok.pipeline.headers.sidecar import Sidecar, read_sidecar
from fmritok.pipeline.headers.timing import lone_times, repetition_time

IMAGE, JSON = Path("/d/bold.nii.gz"), Path("/d/bold.json")


def sidecar(**fields) -> Sidecar:
    return read_sidecar({name: (value, JSON) for name, value in fields.items()})


def decided(header: float, **options):
    fields = options.pop("fields", {})
    return repetition_time(header, IMAGE, sidecar=sidecar(**fields), **options)


def texts(questions) -> str:
    return " / ".join(text for _, text in questions)


def test_the_sidecar_comes_before_the_header_and_a_conflict_is_named():
    assert decided(2.0, fields={"RepetitionTime": 2.0}).questions == ()
    assert decided(2.0005, fields={"RepetitionTime": 2.0}).questions == ()
    found = decided(1.0, fields={"RepetitionTime": 2.2})
    assert (found.tr, found.problem) == (2.2, "")
    assert found.questions == ((JSON, "the sidecar says 2.2 s between frames, the header 1 s: the "
                                "sidecar's is used"),)  # fmt: skip
    assert decided(math.nan, fields={"RepetitionTime": 2.2}).questions == ()


@pytest.mark.parametrize(
    ("header", "told", "tr", "words"),
    [
        (
            2.0,
            2000,
            2.0,
            "2000 s is impossible (these look like milliseconds): the header's is used",
        ),
        (3.0, 0, 3.0, "of 0 s is impossible: the header's is used"),
        (3.0, "two", 3.0, "RepetitionTime in the sidecar is no number"),
        (3.0, [3.0], 3.0, "RepetitionTime in the sidecar is no number"),
        (3.0, True, 3.0, "RepetitionTime in the sidecar is no number"),
    ],
)
def test_a_sidecar_that_cannot_be_gives_way_to_the_header(header, told, tr, words):
    found = decided(header, fields={"RepetitionTime": told})
    assert (found.tr, found.problem) == (tr, "")
    assert found.questions[0][0] == JSON
    assert words in texts(found.questions)


@pytest.mark.parametrize("header", [math.nan, 1.0, 3.0, 2000.0])
def test_where_the_header_cannot_settle_it_the_advice_names_the_sidecar(header):
    problem = decided(header, fields={"RepetitionTime": 2000}).problem
    assert f"Repetition time in {JSON}: expected 0.1 to 20 s, got 2000 s. " in problem
    assert "Correct RepetitionTime in the sidecar (these look like milliseconds), or" in problem


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (math.nan, "got none. Repair the header, or give tr in seconds (--tr)."),
        (720.0, "got 720 s. Repair the header (these look like milliseconds), or"),
        (0.002, "got 0.002 s. Repair the header (these look like seconds, taken for milli"),
        (50.0, "got 50 s. Repair the header, or"),
    ],
)
def test_without_a_sidecar_the_advice_names_the_image(header, words):
    problem = decided(header).problem
    assert f"Repetition time in {IMAGE}: expected 0.1 to 20 s, {words}" in problem


def test_what_the_user_gives_comes_first():
    assert decided(math.nan, given=2.0, fields={"RepetitionTime": 2000}).problem == ""
    assert decided(3.0, given=2.0, fields={"RepetitionTime": 3}).tr == 2.0
    assert (
        "given as tr (--tr): expected 0.1 to 20 s, got 2000 s" in decided(3.0, given=2000).problem
    )


def test_times_that_scans_of_the_cohort_do_not_have():
    assert decided(0.72, usual=(0.72,)).questions == ()
    found = decided(2.0, usual=(0.8, 0.72))
    assert (found.tr, found.problem) == (2.0, "")
    assert texts(found.questions) == (
        "a repetition time of 2 s, where scans of this cohort have 0.8 or 0.72 s"
    )
    assert (
        "expected 0.72 s, as scans of this cohort have, got 1 s, the default of tools that lose it"
        in (decided(1.0, usual=(0.72,)).problem)
    )
    assert decided(1.0, usual=(1.0,)).problem == ""
    assert decided(1.0).problem == ""
    found = decided(1.0, usual=(1.5,), instead=1.5)
    assert found.tr == 1.5
    assert "the 1.5 s of this cohort are used" in texts(found.questions)


@pytest.mark.parametrize("name", ["VolumeTiming", "FrameTimesStart"])
def test_lists_of_times_have_to_be_even(name):
    even = [1.5 * k + 0.002 * (k % 2) for k in range(40)]
    found = decided(1.0, fields={name: even}, n_frames=40)
    assert found.tr == pytest.approx(1.5, rel=1e-4)
    assert found.problem == ""
    sparse = sorted(6.0 * k + j for k in range(20) for j in (0, 1))
    for more in ({}, {"given": 3.0}):
        problem = decided(1.0, fields={name: sparse}, **more).problem
        assert (
            f"Times of the frames in {JSON}: expected equal distances, got {name} with gaps of "
            in (problem)
        )
        assert "1 to 5 s" in problem
    # an error that adds up is no jitter
    slow = list(np.cumsum([0] + [2.0 + 0.01 * k for k in range(40)]))
    assert "equal distances" in decided(2.0, fields={name: slow}).problem


def test_lists_of_times_that_say_something_else():
    fields = {"VolumeTiming": [0.0, 2.0, 4.0], "RepetitionTime": 2.5}
    found = decided(2.5, fields=fields, n_frames=5)
    assert found.tr == 2.5
    assert "VolumeTiming and RepetitionTime differ: RepetitionTime is used" in texts(
        found.questions
    )
    assert "the times of another number of frames" in texts(found.questions)
    found = decided(2.0, fields={"VolumeTiming": [5.0, 7.0, 9.0]}, n_frames=3)
    assert "does not begin at 0" in texts(found.questions)
    for value in ("x", [1.0], [0, "a"], [0.0, 0.0], [0, math.nan], [0, 10**400], {}):
        found = decided(2.0, fields={"VolumeTiming": value})
        assert (found.tr, found.problem) == (2.0, "")
        assert "VolumeTiming in the sidecar is no list of times" in texts(found.questions)


def test_other_fields_that_contradict_a_repetition_time():
    for fields, words in (
        ({"RepetitionTimePreparation": 4.0}, "RepetitionTimePreparation is not the time between"),
        ({"RepetitionTimeExcitation": 4.0}, "RepetitionTimeExcitation is not the time between"),
        ({"RepetitionTime": 2.0, "DelayTime": 3.0}, "DelayTime is as long as RepetitionTime"),
        ({"RepetitionTime": 2.0, "SliceTiming": [0, 990.0]}, "a slice that was taken later than"),
    ):
        assert words in texts(decided(2.0, fields=fields).questions)
    fine = {"RepetitionTime": 2.0, "DelayTime": 1.0, "SliceTiming": [1.0, 0.0, 1.9],
            "RepetitionTimePreparation": 2.0}  # fmt: skip
    assert decided(2.0, fields=fine).questions == ()


def test_times_of_one_run_among_many():
    def table(*seconds):
        return pd.DataFrame({"task": "rest", "tr": seconds, "problem": "",
                             "path": [f"/{i}" for i in range(len(seconds))]})  # fmt: skip

    def lone(*seconds):
        return [path.name for path, _ in lone_times(table(*seconds))]

    assert lone(2.0, 2.0, 2.0) == []
    assert lone(2.0, 2.0, 3.0) == ["2"]
    assert lone(2.0, 3.0) == ["0", "1"]
    assert lone(2.0) == []
    assert lone(2.0, 2.0, 3.0, 3.0) == []
    assert lone(2.0, 2.0, 2.0, 1.0, 1.0) == ["3", "4"]
    other = table(2.0, 3.0).assign(task=["rest", "faces"])
    assert lone_times(other) == []


def events_run(root, *, onsets=(0.5, 3.0), **fields):
    path = write_image(bids_path(root))
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(
        json.dumps({"RepetitionTime": 2.0} | fields)
    )
    rows = "".join(f"{onset}\t1\n" for onset in onsets)
    (path.parent / "sub-01_task-rest_events.tsv").write_text(f"onset\tduration\n{rows}")
    return get_adapter("bids")(root)


def test_onsets_count_from_the_time_that_the_first_frame_stands_for(tmp_path):
    cohort = events_run(tmp_path, StartTime=0.5, SliceTimingCorrected=True)
    assert cohort.events["onset"].tolist() == [0.0, 2.5]
    assert cohort.questioned["reason"].tolist() == ["StartTime is subtracted from onsets of events"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"SliceTimingCorrected": True}, "SliceTimingCorrected without StartTime"),
        ({"StartTime": 9.0}, "StartTime is not within the first frame: it is not used"),
        (
            {"NumberOfVolumesDiscardedByUser": 4},
            "NumberOfVolumesDiscardedByUser: check that onsets",
        ),
        ({"NumberOfVolumesDiscardedByScanner": 4}, "ByScanner: check that onsets of events count"),
        ({"onsets": (0.5, 8.0)}, "events begin after the end of the run"),
    ],
)
def test_what_is_doubtful_about_onsets_is_named_where_there_are_events(tmp_path, fields, words):
    cohort = events_run(tmp_path, **fields)
    assert words in cohort.questioned["reason"].item()
    assert cohort.events["onset"].tolist() == list(fields.get("onsets", (0.5, 3.0)))
    (bids_path(tmp_path).parent / "sub-01_task-rest_events.tsv").unlink()
    assert len(get_adapter("bids")(tmp_path).questioned) == 0


def test_hcp_knows_its_scanners(tmp_path):
    def run(name, tr, subject="100206"):
        folder = tmp_path / subject / "MNINonLinear" / "Results" / name
        write_header(folder / f"{name}.nii.gz", tr=tr)

    for name, tr in (("rfMRI_REST1_LR", 0.72), ("rfMRI_REST1_7T_PA", 1.0), ("rfMRI_REST1_AP", 0.8),
                     ("rfMRI_REST2_RL", 1.0), ("tfMRI_WM_LR", 2.0)):  # fmt: skip
        run(name, tr)
    cohort = get_adapter("hcp")(tmp_path)
    problems = cohort.runs.set_index("run_id")["problem"]
    assert problems[problems != ""].index.tolist() == ["hcp_100206_rfMRI_REST2_RL"]
    assert "expected 0.72 s, as scans of this cohort have, got 1 s" in problems.max()
    assert cohort.questioned["reason"].tolist() == [
        "a repetition time of 2 s, where scans of this cohort have 0.72 s"
    ]
    assert (get_adapter("hcp")(tmp_path, tr=0.72).runs["problem"] == "").all()


def test_uk_biobank_has_one_time(tmp_path):
    for eid, tr in (("1000001", 0.735), ("1000002", 1.0), ("1000003", 0.8)):
        folder = tmp_path / f"{eid}_20227_2_0" / "fMRI" / "rfMRI.ica"
        write_header(folder / "filtered_func_data_clean_standard.nii.gz", tr=tr)
    cohort = get_adapter("ukb")(tmp_path)
    assert [problem != "" for problem in cohort.runs["problem"]] == [False, True, False]
    assert "of 0.8 s" in cohort.questioned["reason"].item()


def test_sites_of_adhd200_are_questioned_where_their_time_was_used_instead(tmp_path):
    for site, subject, tr in (("KKI", "0010001", 3.0), ("NYU", "0010002", 1.0)):
        name = f"snwmrda{subject}_session_1_rest_1.nii.gz"
        write_header(tmp_path / site / subject / name, tr=tr)
    cohort = get_adapter("adhd200")(tmp_path)
    assert cohort.runs["tr"].tolist() == [3.0, 2.0]
    reasons = cohort.questioned["reason"].tolist()
    assert reasons[0] == "a repetition time of 3 s, where scans of this cohort have 2.5 s"
    assert "the 2 s of this cohort are used" in reasons[1]


def test_a_run_of_a_bids_cohort_that_differs_from_the_others(tmp_path):
    for sub in ("01", "02", "03"):
        write_image(bids_path(tmp_path, sub), tr=1.0 if sub == "03" else 2.0)
    cohort = get_adapter("bids")(tmp_path)
    assert cohort.questioned["path"].tolist() == [str(bids_path(tmp_path, "03"))]
    assert len(get_adapter("bids")(tmp_path, tr=2.0).questioned) == 0


def test_a_sidecar_of_many_runs_is_named_once(tmp_path):
    for sub in ("01", "02"):
        write_image(bids_path(tmp_path, sub))
    (tmp_path / "task-rest_bold.json").write_text('{"RepetitionTime": 2000}')
    questioned = get_adapter("bids")(tmp_path).questioned
    assert questioned["path"].tolist() == [str(tmp_path / "task-rest_bold.json")]


def test_steps_of_grayordinates(tmp_path):
    path = tmp_path / "r.dtseries.nii"
    assert run_header(grayordinates(path)).tr == 2.0
    assert run_header(grayordinates(path, step=720, exponent=-3)).tr == 0.72
    found = run_header(grayordinates(path, unit="HERTZ"))
    assert np.isnan(found.tr)
    assert "not in seconds" in found.questions[0]
    found = run_header(grayordinates(path, start=3.0))
    assert "another time than 0 (SeriesStart)" in found.questions[0]


def test_steps_of_hemispheres_are_in_milliseconds(tmp_path):
    values = np.random.default_rng(0).random((4, 6))
    left, right = write_pair(tmp_path, values, values, tr=None)
    image = nib.load(left)
    for step, tr in (("2000", 2.0), ("2", 0.002)):
        for array in image.darrays:
            array.meta = nib.gifti.GiftiMetaData({"TimeStep": step})
        nib.save(image, left)
        assert run_header(left, right).tr == tr
    problem = repetition_time(tr, left).problem
    assert "(these look like seconds, taken for milliseconds)" in problem
