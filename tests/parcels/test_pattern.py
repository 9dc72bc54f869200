"""Patterns find files by the names in their braces, by BIDS names, and datasets in HDF5 files."""

from __future__ import annotations

import h5py
import pytest

from fmritok.errors import CatalogError
from fmritok.pipeline.parcels.pattern import find_series


def find(root, pattern):
    found = find_series(root, pattern, root / "parcels.yaml")
    return {one.path.relative_to(root).as_posix(): one.problem or one.entities for one in found}


@pytest.fixture
def tree(tmp_path):
    for name in (
        "NYU/0010001/sfnwmrda0010001_session_1_rest_1_cc200_TCs.1D",
        "NYU/0010001/sfnwmrda0010001_session_1_rest_2_cc200_TCs.1D",
        "KKI/0010002/sfnwmrda0010002_session_1_rest_1_aal_TCs.1D",
        "rois/Pitt_a_0050003_rois.1D",
        ".hidden/Pitt_a_0050004_rois.1D",
        "sub-01/ses-a/func/sub-01_ses-a_task-rest_run-1_space-x_seg-4S_stat-mean_timeseries.tsv",
        "sub-02/func/sub-02_task-rest_seg-4S_stat-mean_timeseries.tsv",
        "sub-02/func/sub-02_task-rest_seg-4S_stat-coverage_bold.tsv",
        "other/words_timeseries.tsv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_names_in_braces(tree):
    pattern = "{site}/{subject}/sfnwmrda{subject}_session_{session}_rest_{run}_cc200_TCs.1D"
    first = "NYU/0010001/sfnwmrda0010001_session_1_rest_1_cc200_TCs.1D"
    found = find(tree, pattern)
    assert len(found) == 2
    assert found[first] == {"site": "NYU", "subject": "0010001", "session": "1", "run": "1"}


def test_stars_folders_and_limits(tree):
    assert find(tree, "**/{subject}_rois.1D") == {
        "rois/Pitt_a_0050003_rois.1D": {"subject": "Pitt_a_0050003"}
    }
    assert find(tree, "rois/*_{subject:[0-9]{7}}_rois.1D") == {
        "rois/Pitt_a_0050003_rois.1D": {"subject": "0050003"}
    }


def test_bids_names_need_no_braces(tree):
    found = find(tree, "**/*_timeseries.tsv")
    assert list(found.values()) == [
        "no BIDS name with a subject: give a pattern with {subject}",
        {"subject": "01", "session": "a", "task": "rest", "run": "1"},
        {"subject": "02", "task": "rest"},
    ]


def test_datasets_of_one_file(tmp_path):
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file["sub-01/rest"] = [[1.0, 2.0]]
        file["sub-02/rest"] = [[1.0, 2.0]]
        file["sub-02/mask"] = [[1.0, 2.0]]
    (tmp_path / "bad.h5").write_bytes(b"no file")
    found = find(tmp_path, "*.h5/sub-{subject}/rest")
    assert found.pop("bad.h5").startswith("Run file the file: expected a whole HDF5 file")
    assert found == {"all.h5/sub-01/rest": {"subject": "01"},
                     "all.h5/sub-02/rest": {"subject": "02"}}  # fmt: skip
    assert find(tmp_path, "all.h5/{subject}/task") == {
        "all.h5": "no dataset in it fits {subject}/task, but it has sub-01/rest, sub-02/mask, "
        "sub-02/rest"
    }
    # a name without braces is looked for when the run is read
    assert find(tmp_path, "{subject}.h5/task")["all.h5/task"] == {"subject": "all"}


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{site}/*.tsv", "expected {subject}, got {site}"),
        ("{subject/*.tsv", "a brace without its partner"),
        ("{subject:[}_x.tsv", "names in braces"),
    ],
)
def test_patterns_without_a_subject_or_a_brace_are_refused(tmp_path, pattern, words):
    with pytest.raises(CatalogError, match=words):
        find(tmp_path, pattern)
