"""fMRIPrep's derivatives: spaces, masks, sidecars, confounds, events, participants, surfaces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cohorts import NATIVE, left_out, write_cifti, write_gifti, write_header

from fmritok.pipeline.datasets import get_adapter
from fmritok.pipeline.errors import CatalogError

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
            f"in none of the spaces that are used: {LIN6}, {C2009}"
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
    sidecar.write_text("{")
    assert "no JSON sidecar" in catalog(tmp_path).runs["problem"][0]


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
    assert cohort.left_out["reason"].str.contains("framewise_displacement").sum() == 1


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


def test_broken_participants(tmp_path):
    volume(tmp_path, f"space-{LIN6}_desc-preproc")
    table = tmp_path / "participants.tsv"
    for text, words in (
        ("id\tage\n01\t3\n", "a column 'participant_id'"),
        ("", "empty"),
        ("participant_id\nsub-01\nsub-01\n", "1 repeated"),
        ("participant_id\nsub-99\n", "not one subject with runs has a row"),
    ):
        table.write_text(text)
        with pytest.raises(CatalogError, match=words):
            catalog(tmp_path)
    table.write_text("participant_id\nsub-01\n")
    (tmp_path / "participants.json").write_text("[")
    with pytest.raises(CatalogError, match="participants.json"):
        catalog(tmp_path)


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
    assert reasons["in none of the spaces that are used"] == 3
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
