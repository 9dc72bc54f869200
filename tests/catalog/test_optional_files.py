"""An optional file that cannot be read costs what it gives, is named, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cohorts import left_out, questioned, write_cifti, write_header, write_phenotypes

from fmritok.errors import CatalogError
from fmritok.pipeline.datasets import get_adapter
from fmritok.pipeline.tables.remarks import Reason, Remark


def dangling(path: Path) -> None:
    path.symlink_to(".git/annex/objects/xx/MD5E-s1--0")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(1000))


def pointer(path: Path) -> None:
    path.write_text("/annex/objects/MD5E-s100--d41d8cd98f00b204e9800998ecf8427e\n")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def deep(path: Path) -> None:
    path.write_text("[" * 200_000)


FAULTS = {
    dangling: Reason.LINK, os.mkfifo: Reason.IRREGULAR, os.mkdir: Reason.IRREGULAR,
    zeros: Reason.BINARY, pointer: Reason.POINTER,
}  # fmt: skip
#: What a table or text file of this kind is too large for, or deeper than; UKB's are streamed.
MORE = FAULTS | {huge: Reason.TOO_LARGE}


def spoil(path: Path, fault) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    fault(path)


@pytest.fixture
def bids(tmp_path):
    """Write a raw data set of two subjects with derivatives, all of it readable."""
    for subject in ("01", "02"):
        name = f"sub-{subject}_task-faces"
        func = tmp_path / "derivatives" / "fmriprep" / f"sub-{subject}" / "func"
        raw = tmp_path / f"sub-{subject}" / "func"
        raw.mkdir(parents=True)
        write_header(func / f"{name}_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz", tr=1.5)
        write_header(func / f"{name}_space-MNI152NLin6Asym_desc-brain_mask.nii.gz")
        (func / f"{name}_desc-confounds_timeseries.tsv").write_text("framewise_displacement\n0.1\n")
        (raw / f"{name}_events.tsv").write_text("onset\tduration\n1\t2\n")
    (tmp_path / "task-faces_bold.json").write_text('{"RepetitionTime": 2.5}')
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\nsub-02\t31\n")
    (tmp_path / "participants.json").write_text('{"age": {"Description": "years"}}')
    return tmp_path


FUNC = "derivatives/fmriprep/sub-01/func/sub-01_task-faces"
BIDS_FILES = {
    f"{FUNC}_desc-confounds_timeseries.tsv": Remark.NO_MOTION,
    "sub-01/func/sub-01_task-faces_events.tsv": Remark.NO_EVENTS,
    "task-faces_bold.json": Remark.NO_SIDECAR,
    f"{FUNC}_space-MNI152NLin6Asym_desc-preproc_bold.json": Remark.NO_SIDECAR,
    "participants.tsv": Remark.NO_PHENOTYPES,
    "participants.json": Remark.NO_DESCRIPTION,
    "sub-01/sub-01_sessions.tsv": Remark.NO_PHENOTYPES,
}


@pytest.mark.parametrize("name", BIDS_FILES)
def test_of_a_bids_data_set(bids, name):
    whole = get_adapter("bids")(bids)
    assert questioned(whole, bids) == []
    more = {deep: Reason.DEEP_JSON} if name.endswith(".json") else {}
    for fault, reason in (MORE | more).items():
        spoil(bids / name, fault)
        cohort = get_adapter("bids")(bids)
        assert questioned(cohort, bids) == [(name, BIDS_FILES[name].with_reason(reason))]
        assert cohort.runs[["subject", "problem"]].values.tolist() == [["01", ""], ["02", ""]]
        assert cohort.left_out.equals(whole.left_out)
        same = {
            "motion": cohort.runs["motion"].equals(whole.runs["motion"]),
            "events": cohort.events.equals(whole.events),
            "tr": cohort.runs["tr"].tolist() == [2.5, 2.5],
            "phenotypes": cohort.phenotypes.equals(whole.phenotypes),
            "columns": cohort.columns.equals(whole.columns),
        }
        lost = {"task-faces_bold.json": {"tr"}, "participants.tsv": {"phenotypes", "columns"},
                "participants.json": {"columns"}}  # fmt: skip
        lost |= {n: {"motion"} for n in BIDS_FILES if "confounds" in n}
        lost |= {n: {"events"} for n in BIDS_FILES if "events" in n}
        assert {what for what, is_same in same.items() if not is_same} == lost.get(name, set())
        path = bids / name
        os.rmdir(path) if path.is_dir() else path.unlink()


def test_a_sidecar_that_cannot_be_read_leaves_the_headers_time_or_the_given_one(bids):
    spoil(bids / "task-faces_bold.json", dangling)
    assert get_adapter("bids")(bids).runs["tr"].tolist() == [1.5, 1.5]
    assert get_adapter("bids")(bids, tr=3.0).runs["tr"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("fault", [dangling, pointer])
def test_a_mask_whose_content_is_not_there_is_not_used(bids, fault):
    mask = bids / f"{FUNC}_space-MNI152NLin6Asym_desc-brain_mask.nii.gz"
    spoil(mask, fault)
    cohort = get_adapter("bids")(bids)
    assert cohort.runs["mask"].astype(bool).tolist() == [False, True]
    assert (cohort.runs["problem"] == "").all()
    assert (cohort.runs["source_bytes"] != "").all()
    words = Remark.NO_MASK.with_reason(FAULTS[fault])
    assert questioned(cohort, bids) == [(mask.relative_to(bids).as_posix(), words)]


@pytest.mark.parametrize(
    ("fault", "words"),
    [(dangling, "a link to content that is not there"), (pointer, "a pointer of git-annex")],
)
def test_an_image_whose_content_is_not_there_is_a_problem_with_the_next_step(bids, fault, words):
    spoil(bids / f"{FUNC}_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz", fault)
    problems = get_adapter("bids")(bids).runs["problem"].tolist()
    assert words in problems[0]
    assert "Fetch it with `datalad get`" in problems[0]
    assert problems[1] == ""


def test_subjects_that_are_links_to_nowhere_are_named(bids):
    (bids / "derivatives" / "fmriprep" / "sub-03").symlink_to("../../elsewhere/sub-03")
    cohort = get_adapter("bids")(bids)
    assert cohort.runs["subject"].tolist() == ["01", "02"]
    assert left_out(cohort, bids) == {"derivatives/fmriprep/sub-03": Reason.LINK}


def test_derivatives_that_are_a_link_to_nowhere_are_named(tmp_path):
    write_header(tmp_path / "sub-01" / "func" / "sub-01_task-rest_bold.nii.gz")
    (tmp_path / "derivatives").mkdir()
    dangling(tmp_path / "derivatives" / "fmriprep")
    with pytest.raises(CatalogError, match="left out: a link to content that is not there"):
        get_adapter("bids")(tmp_path)


@pytest.fixture
def hcp(tmp_path):
    for subject in ("100001", "100002"):
        place = tmp_path / subject / "MNINonLinear" / "Results" / "tfMRI_WM_LR"
        write_header(place / "tfMRI_WM_LR.nii.gz")
        (place / "Movement_RelativeRMS_mean.txt").write_text("0.1\n")
        (place / "EVs").mkdir()
        (place / "EVs" / "0bk.txt").write_text("1 2 1\n")
    write_phenotypes(tmp_path, ["100001", "100002"])
    return tmp_path


RESULTS = "100001/MNINonLinear/Results/tfMRI_WM_LR"
HCP_FILES = {
    f"{RESULTS}/Movement_RelativeRMS_mean.txt": Remark.NO_MOTION,
    f"{RESULTS}/EVs/0bk.txt": Remark.NO_EVENTS,
    "unrestricted_lab_1_1_2026.csv": Remark.NO_PHENOTYPES,
}


@pytest.mark.parametrize("name", HCP_FILES)
def test_of_an_hcp_tree(hcp, name):
    whole = get_adapter("hcp")(hcp)
    for fault, reason in MORE.items():
        spoil(hcp / name, fault)
        cohort = get_adapter("hcp")(hcp)
        assert questioned(cohort, hcp) == [(name, HCP_FILES[name].with_reason(reason))]
        assert cohort.runs["problem"].tolist() == ["", ""]
        assert cohort.runs["family"].tolist() == whole.runs["family"].tolist()
        assert len(cohort.events) == (1 if "EVs" in name else 2)
        assert cohort.runs["motion"].notna().sum() == (1 if "Movement" in name else 2)
        path = hcp / name
        os.rmdir(path) if path.is_dir() else path.unlink()


def test_a_table_of_families_that_cannot_be_read_is_refused(hcp):
    """Without it, siblings would be split apart in trainings."""
    spoil(hcp / "RESTRICTED_lab_1_1_2026.csv", dangling)
    with pytest.raises(CatalogError, match="families.*datalad get.*siblings"):
        get_adapter("hcp")(hcp)


def test_folders_of_an_hcp_tree_that_cannot_be_read_are_named(hcp, monkeypatch):
    (hcp / "100003").symlink_to("../elsewhere/100003")
    (hcp / RESULTS / "EVs" / "0bk.txt").unlink()
    (hcp / RESULTS / "EVs").rmdir()
    dangling(hcp / RESULTS / "EVs")
    closed = hcp / "100002" / "MNINonLinear" / "Results"
    list_folder = os.listdir

    def listdir(place="."):
        if Path(place) == closed:
            raise PermissionError(13, "Permission denied", str(place))
        return list_folder(place)

    monkeypatch.setattr(os, "listdir", listdir)
    cohort = get_adapter("hcp")(hcp)
    assert cohort.runs["subject"].tolist() == ["100001"]
    assert left_out(cohort, hcp) == {
        "100003": Reason.LINK,
        "100002/MNINonLinear/Results": "cannot be read: Permission denied",
    }
    words = Remark.NO_EVENTS.with_reason(Reason.LINK)
    assert questioned(cohort, hcp) == [(f"{RESULTS}/EVs", words)]


UKB = "1000001_20227_2_0/fMRI/rfMRI.ica"


@pytest.fixture
def ukb(tmp_path):
    for eid in ("1000001", "1000002"):
        ica = tmp_path / UKB.replace("1000001", eid)
        write_header(ica / "filtered_func_data_clean.nii.gz", tr=0.735)
        write_header(ica / "reg" / "example_func2standard_warp.nii.gz")
        (ica / "mc").mkdir()
        (ica / "mc" / "prefiltered_func_data_mcf_rel_mean.rms").write_text("0.061\n")
    (tmp_path / "ukb1.csv").write_text("eid,31-0.0\n1000001,1\n1000002,0\n")
    return tmp_path


@pytest.mark.parametrize("fault", FAULTS)
def test_of_ukb_downloads(ukb, fault):
    motion = f"{UKB}/mc/prefiltered_func_data_mcf_rel_mean.rms"
    spoil(ukb / motion, fault)
    if fault is not os.mkdir:  # a folder is no table
        spoil(ukb / "ukb1.csv", fault)
    cohort = get_adapter("ukb")(ukb)
    assert cohort.runs["problem"].tolist() == ["", ""]
    assert cohort.runs["motion"].isna().tolist() == [True, False]
    named = {motion: Remark.NO_MOTION.with_reason(FAULTS[fault])}
    if fault is not os.mkdir:
        named["ukb1.csv"] = Remark.NO_PHENOTYPES.with_reason(FAULTS[fault])
    assert dict(questioned(cohort, ukb)) == named


@pytest.mark.parametrize("fault", [dangling, pointer])
@pytest.mark.parametrize("name", ["filtered_func_data_clean", "reg/example_func2standard_warp"])
def test_images_and_warps_of_ukb_are_needed(ukb, name, fault):
    spoil(ukb / UKB / f"{name}.nii.gz", fault)
    problems = get_adapter("ukb")(ukb).runs["problem"].tolist()
    assert "Fetch it with `datalad get`" in problems[0]
    assert name in problems[0]
    assert problems[1] == ""


@pytest.mark.parametrize("fault", MORE)
def test_of_adhd200_tables(tmp_path, fault):
    write_header(tmp_path / "NYU" / "snwmrda0010001_session_1_rest_1.nii.gz", tr=2.0)
    (tmp_path / "NYU_phenotypic.csv").write_text("ScanDir ID,Age\n10001,9\n")
    spoil(tmp_path / "KKI_phenotypic.csv", fault)
    cohort = get_adapter("adhd200")(tmp_path)
    assert cohort.runs["problem"].tolist() == [""]
    assert cohort.phenotypes["age"].tolist() == [9]
    words = Remark.NO_PHENOTYPES.with_reason(MORE[fault])
    named = [] if fault is os.mkdir else [("KKI_phenotypic.csv", words)]
    assert questioned(cohort, tmp_path) == named


def test_surfaces_whose_content_is_not_there(tmp_path):
    name = "sub-01_task-rest_space-fsLR_den-91k_bold"
    write_cifti(tmp_path / "sub-01" / "func" / f"{name}.dtseries.nii")
    spoil(tmp_path / "sub-02" / "func" / f"{name.replace('01', '02')}.dtseries.nii", dangling)
    problems = get_adapter("bids")(tmp_path, input="surface").runs["problem"].tolist()
    assert "Fetch it with `datalad get`" in problems[1]
    assert problems[0] == ""


def test_one_fault_of_many_runs_is_named_once_and_in_equal_words(bids):
    spoil(bids / "task-faces_bold.json", dangling)
    for subject in ("01", "02"):
        spoil(bids / f"sub-{subject}/func/sub-{subject}_task-faces_events.tsv", dangling)
    reasons = get_adapter("bids")(bids).questioned["reason"].value_counts().to_dict()
    assert reasons == {
        Remark.NO_SIDECAR.with_reason(Reason.LINK): 1,
        Remark.NO_EVENTS.with_reason(Reason.LINK): 2,
    }
