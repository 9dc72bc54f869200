"""fMRIPrep's derivatives: spaces, masks, names, surfaces."""

from __future__ import annotations

from pathlib import Path

import pytest
from cohorts import BIDS_RUN as RUN
from cohorts import (
    C2009,
    LIN6,
    NATIVE,
    catalog_bids,
    func_folder,
    left_out,
    write_cifti,
    write_derivative,
    write_gifti,
    write_header,
)

from fmritok.errors import CatalogError


def test_the_best_space_is_taken_and_the_others_are_listed(tmp_path):
    for space in (f"space-{C2009}_res-2", f"space-{LIN6}_res-2", f"space-{LIN6}", "space-T1w"):
        write_derivative(tmp_path, f"{space}_desc-preproc")
    write_derivative(tmp_path, "desc-preproc")
    write_derivative(tmp_path, f"space-{C2009}_desc-preproc", "sub-02_task-rest")
    cohort = catalog_bids(tmp_path)
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
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", run)
    write_derivative(tmp_path, f"space-{LIN6}_desc-denoised", run)
    write_header(func_folder(tmp_path, run) / f"sub-01_task-rest_echo-1_space-{LIN6}_bold.nii.gz")
    cohort = catalog_bids(tmp_path)
    assert cohort.runs["source"].str.contains("desc-preproc").tolist() == [True]
    assert cohort.left_out["reason"].str.contains("a single echo").sum() == 1


def test_only_denoised_volumes_are_taken_too(tmp_path):
    write_derivative(tmp_path, f"space-{C2009}_res-2_desc-denoised")
    assert catalog_bids(tmp_path).runs["problem"].tolist() == [""]


def test_raw_data_are_refused_with_the_next_step(tmp_path):
    write_header(func_folder(tmp_path) / f"{RUN}_bold.nii.gz", affine=NATIVE)
    with pytest.raises(CatalogError, match="native space: preprocess it with fMRIPrep"):
        catalog_bids(tmp_path)


def test_the_mask_is_that_of_the_same_space_and_resolution(tmp_path):
    write_derivative(tmp_path, f"space-{LIN6}_res-2_desc-preproc")
    mask = f"{RUN}_space-{LIN6}_res-2_desc-brain_mask.nii.gz"
    for name in (mask, f"{RUN}_space-{C2009}_res-2_desc-brain_mask.nii.gz"):
        write_header(func_folder(tmp_path) / name, shape=(9, 9, 9))
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", "sub-02_task-rest")
    assert catalog_bids(tmp_path).runs["mask"].tolist() == [str(func_folder(tmp_path) / mask), ""]


def test_two_files_of_one_run_are_refused_whatever_their_zeros(tmp_path):
    for run in ("sub-01_task-faces_run-1", "sub-01_task-faces_run-01"):
        write_derivative(tmp_path, f"space-{LIN6}_desc-preproc", run)
    runs = catalog_bids(tmp_path).runs
    assert len(runs) == 1
    assert "expected one file" in runs["problem"][0]


def test_labels_may_have_dots(tmp_path):
    write_derivative(tmp_path, f"space-{LIN6}_res-2.5_desc-preproc", "sub-A.01_task-rest")
    runs = catalog_bids(tmp_path).runs
    assert runs[["run_id", "subject", "problem"]].values.tolist() == [
        ["bids_sub-A-01_task-rest", "A.01", ""]
    ]


def test_images_without_a_bids_name_are_left_out_by_name(tmp_path):
    ending = f"space-{LIN6}_desc-preproc_bold"
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc")
    names = {
        f"sub-01_task-rest_run1_{ending}.nii.gz": "its name does not follow BIDS",
        f"task-rest_{ending}.nii.gz": "its name does not follow BIDS",
        f"sub-01_task-two_{ending}.NII.GZ": "its extension is in capitals: rename it",
    }
    for name in names:
        (func_folder(tmp_path) / name).touch()
    (func_folder(tmp_path) / "notes.txt").touch()
    found = left_out(catalog_bids(tmp_path), tmp_path)
    assert {Path(p).name: reason for p, reason in found.items()} == names


def test_several_pipelines_have_to_be_told_apart(tmp_path):
    for name in ("fmriprep", "xcp_d"):
        write_derivative(tmp_path / "derivatives" / name, f"space-{LIN6}_desc-preproc")
    assert catalog_bids(tmp_path).runs["source"].str.startswith("derivatives/fmriprep/").all()
    write_derivative(tmp_path / "derivatives" / "fmriprep-23", f"space-{LIN6}_desc-preproc")
    with pytest.raises(CatalogError, match="fmriprep, fmriprep-23"):
        catalog_bids(tmp_path)


def test_grayordinates_before_pairs_with_the_volumes_run_ids(tmp_path):
    write_derivative(tmp_path, f"space-{LIN6}_desc-preproc")
    name = f"{RUN}_space-fsLR_den-91k_bold"
    write_cifti(func_folder(tmp_path) / f"{name}.dtseries.nii", tr=2.0)
    (func_folder(tmp_path) / f"{name}.json").write_text('{"RepetitionTime": 2.1}')
    write_cifti(func_folder(tmp_path) / f"{RUN}_space-fsLR_den-170k_bold.dtseries.nii")
    for side in "LR":
        write_gifti(func_folder(tmp_path) / f"{RUN}_hemi-{side}_space-fsaverage5_bold.func.gii")
        write_gifti(func_folder(tmp_path) / f"{RUN}_hemi-{side}_space-fsnative_bold.func.gii")
    cohort = catalog_bids(tmp_path, input="surface")
    run = cohort.runs.iloc[0]
    assert run["source"].endswith("den-91k_bold.dtseries.nii")
    assert (run["space"], run["tr"], run["right"], run["mask"]) == ("fsLR", 2.1, "", "")
    assert cohort.runs["run_id"].tolist() == catalog_bids(tmp_path).runs["run_id"].tolist()
    reasons = cohort.left_out["reason"].str.split(":").str[0].value_counts()
    assert reasons["in an unsupported space. Supported"] == 3
    assert len(cohort.left_out) == 5


def test_pairs_of_hemispheres(tmp_path):
    names = {s: f"{RUN}_hemi-{s}_space-fsaverage5_bold" for s in "LR"}
    for name in names.values():
        write_gifti(func_folder(tmp_path) / f"{name}.func.gii")
        (func_folder(tmp_path) / f"{name}.json").write_text('{"RepetitionTime": 2.0}')
    run = catalog_bids(tmp_path, input="surface").runs.iloc[0]
    assert run["path"].endswith(f"{names['L']}.func.gii")
    assert run["right"].endswith(f"{names['R']}.func.gii")
    assert (run["space"], run["tr"], run["problem"], run["n_frames"]) == ("fsaverage5", 2.0, "", 4)
    for side, other in (("R", "L"), ("L", "R")):
        for name in names.values():
            write_gifti(func_folder(tmp_path) / f"{name}.func.gii")
        (func_folder(tmp_path) / f"{names[side]}.func.gii").unlink()
        run = catalog_bids(tmp_path, input="surface").runs.iloc[0]
        assert f"no file of hemi-{side}" in run["problem"]
        assert f"hemi-{other}" in run["path"]
