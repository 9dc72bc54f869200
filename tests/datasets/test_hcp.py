"""HCP Young Adult as it lies on disk: releases, 7T, grayordinates, events, motion, families."""

from __future__ import annotations

import pytest
from cohorts import left_out, questioned, write_cifti, write_header, write_phenotypes

from fmritok.pipeline.datasets import get_adapter
from fmritok.pipeline.tables.remarks import Reason, Remark

RET = "tfMRI_7T_RETCCW_AP_RETCW_PA_RETEXP_AP_RETCON_PA_RETBAR1_AP_RETBAR2_PA"


def folder(root, name, subject="100206"):
    return root / subject / "MNINonLinear" / "Results" / name


def volume(root, name, suffix="", **options):
    return write_header(folder(root, name) / f"{name}{suffix}.nii.gz", **options)


def grayordinates(root, name, suffix):
    return write_cifti(folder(root, name) / f"{name}_Atlas{suffix}.dtseries.nii")


def test_files_of_the_release_that_are_no_time_series_are_no_runs(tmp_path):
    volume(tmp_path, "rfMRI_REST1_LR", "_hp2000_clean")
    volume(tmp_path, "rfMRI_REST1_LR")
    place = folder(tmp_path, "rfMRI_REST1_LR")
    write_header(place / "rfMRI_REST1_LR_SBRef.nii.gz", shape=(91, 109, 91))
    write_header(place / "brainmask_fs.2.nii.gz", shape=(91, 109, 91))
    for name in ("Movement_Regressors.txt", "rfMRI_REST1_LR_CSF.txt", "ReclassifyAsNoise.txt"):
        (place / name).write_text("1\n")
    (tmp_path / "100206" / "T1w").mkdir()
    cohort = get_adapter("hcp")(tmp_path)
    assert cohort.runs["source"].tolist() == [
        "100206/MNINonLinear/Results/rfMRI_REST1_LR/rfMRI_REST1_LR_hp2000_clean.nii.gz"
    ]
    assert len(cohort.left_out) == 1


def test_all_rest_and_task_names_of_3t_and_7t(tmp_path):
    tasks = ("WM", "GAMBLING", "MOTOR", "LANGUAGE", "SOCIAL", "RELATIONAL", "EMOTION")
    names = [f"tfMRI_{task}_RL" for task in tasks] + [
        "rfMRI_REST2_RL", "rfMRI_REST4_7T_AP", "tfMRI_MOVIE1_7T_AP", "tfMRI_RETCCW_7T_AP",
        "tfMRI_RETBAR2_7T_PA", "rfMRI_REST1_AP",
    ]  # fmt: skip
    for name in names:
        volume(tmp_path, name)
    runs = get_adapter("hcp")(tmp_path).runs.set_index("run_id")
    assert len(runs) == len(names)
    assert runs.loc["hcp_100206_tfMRI_MOVIE1_7T_AP", ["session", "task"]].tolist() == [
        "7T", "movie",
    ]  # fmt: skip
    assert runs.loc["hcp_100206_rfMRI_REST4_7T_AP", ["session", "task"]].tolist() == ["7T", "rest"]
    assert runs.loc["hcp_100206_tfMRI_RETCCW_7T_AP", "task"] == "retccw"
    assert runs.loc["hcp_100206_tfMRI_WM_RL", ["session", "task"]].tolist() == ["3T", "wm"]


@pytest.mark.parametrize("name", [RET, "rfMRI_REST", "rfMRI_REST_7T"])
def test_merged_runs_are_left_out(tmp_path, name):
    volume(tmp_path, "rfMRI_REST1_LR")
    volume(tmp_path, name, "_hp2000_clean")
    cohort = get_adapter("hcp")(tmp_path)
    assert len(cohort.runs) == 1
    assert "laid end to end" in left_out(cohort, tmp_path)[f"100206/MNINonLinear/Results/{name}"]


def test_group_level_folders_of_a_task_have_no_time_series(tmp_path):
    volume(tmp_path, "tfMRI_WM_LR")
    (folder(tmp_path, "tfMRI_WM") / "tfMRI_WM_hp200_s4_level2.feat").mkdir(parents=True)
    cohort = get_adapter("hcp")(tmp_path)
    assert left_out(cohort, tmp_path) == {
        "100206/MNINonLinear/Results/tfMRI_WM": "no time series in the folder"
    }


def test_surface_takes_the_cleanest_then_msmall_with_the_volumes_run_ids(tmp_path):
    name = "rfMRI_REST1_LR"
    volume(tmp_path, name, "_hp2000_clean")
    grayordinates(tmp_path, name, "_MSMAll_hp2000_clean")
    grayordinates(tmp_path, name, "_hp2000_clean")
    grayordinates(tmp_path, name, "_MSMAll")
    grayordinates(tmp_path, name, "_hp2000")
    surface = get_adapter("hcp")(tmp_path, input="surface")
    run = surface.runs.iloc[0]
    assert run["path"].endswith("rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii")
    assert (run["space"], run["n_frames"], run["problem"]) == ("fsLR", 4, "")
    assert run["tr"] == pytest.approx(0.72)
    assert surface.runs["run_id"].tolist() == get_adapter("hcp")(tmp_path).runs["run_id"].tolist()
    assert sorted(surface.left_out["reason"]) == [
        "a cleaner file of the run is there",
        "not a time series of one of the known releases",
        "the MSMAll file of the run is taken",
    ]


def test_newer_surface_releases_come_first(tmp_path):
    grayordinates(tmp_path, "tfMRI_WM_LR", "_MSMAll_hp0_clean_rclean_tclean")
    grayordinates(tmp_path, "tfMRI_WM_LR", "_MSMAll")
    runs = get_adapter("hcp")(tmp_path, input="surface").runs
    assert runs["source"].iloc[0].endswith("_hp0_clean_rclean_tclean.dtseries.nii")


def test_59k_grayordinates_of_7t_are_left_out(tmp_path):
    grayordinates(tmp_path, "rfMRI_REST1_7T_PA", "_MSMAll_hp2000_clean")
    grayordinates(tmp_path, "rfMRI_REST1_7T_PA", "_1.6mm_MSMAll_hp2000_clean")
    grayordinates(tmp_path, "rfMRI_REST2_7T_AP", "_1.6mm_MSMAll_hp2000_clean")
    cohort = get_adapter("hcp")(tmp_path, input="surface")
    assert cohort.runs["run_id"].tolist() == ["hcp_100206_rfMRI_REST1_7T_PA"]
    assert cohort.left_out["reason"].str.contains("59k mesh").sum() == 2


def test_a_tree_without_grayordinates_says_so(tmp_path):
    volume(tmp_path, "rfMRI_REST1_LR")
    with pytest.raises(ValueError, match="no 32k grayordinate time series.*Check --dataset, --in"):
        get_adapter("hcp")(tmp_path, input="surface")


def test_events_of_tasks(tmp_path):
    volume(tmp_path, "tfMRI_WM_LR")
    volume(tmp_path, "rfMRI_REST1_LR")
    events = folder(tmp_path, "tfMRI_WM_LR") / "EVs"
    events.mkdir()
    (events / "2bk_faces.txt").write_text("79.2 27.5 1\n7.9\t27.5\t1\n")
    (events / "0bk_body.txt").write_text("36.1 27.5 1\n")
    (events / "0bk_err.txt").write_text("")
    (events / "Sync.txt").write_text("10.88\n")
    (events / "WM_Stats.csv").write_text("a,b\n")
    (events / "broken.txt").write_text("1 2\n")
    (events / "odd.txt").write_text("nan 2 1\n")
    cohort = get_adapter("hcp")(tmp_path)
    assert cohort.events.to_dict("list") == {
        "run_id": ["hcp_100206_tfMRI_WM_LR"] * 3,
        "onset": [7.9, 36.1, 79.2],
        "duration": [27.5] * 3,
        "trial_type": ["2bk_faces", "0bk_body", "2bk_faces"],
    }
    folder_of_run = "100206/MNINonLinear/Results/tfMRI_WM_LR"
    assert questioned(cohort, tmp_path) == [
        (f"{folder_of_run}/EVs/{name}", Remark.NO_EVENTS.with_reason(Reason.NOT_FSL))
        for name in ("broken.txt", "odd.txt")
    ]


def test_motion_is_the_mean_relative_displacement(tmp_path):
    volume(tmp_path, "rfMRI_REST1_LR")
    volume(tmp_path, "rfMRI_REST1_RL")
    (folder(tmp_path, "rfMRI_REST1_LR") / "Movement_RelativeRMS_mean.txt").write_text("0.0831\n")
    (folder(tmp_path, "rfMRI_REST1_LR") / "Movement_AbsoluteRMS_mean.txt").write_text("0.9\n")
    motion = get_adapter("hcp")(tmp_path).runs["motion"]
    assert motion[0] == 0.0831
    assert motion.isna()[1]


def test_age_comes_from_the_restricted_table_never_from_the_bins(tmp_path):
    volume(tmp_path, "rfMRI_REST1_LR")
    write_phenotypes(tmp_path, ["100206"])
    cohort = get_adapter("hcp")(tmp_path)
    row = cohort.phenotypes.iloc[0]
    assert (row["session"], row["sex"], row["age"], row["Age"]) == ("", "M", 27.0, "26-30")
    (tmp_path / "RESTRICTED_lab_1_1_2026.csv").unlink()
    table = get_adapter("hcp")(tmp_path).phenotypes
    assert "age" not in table
    assert table["Age"].tolist() == ["26-30"]


def test_columns_are_described(tmp_path):
    volume(tmp_path, "rfMRI_REST1_LR")
    write_phenotypes(tmp_path, ["100206"])
    columns = get_adapter("hcp")(tmp_path).columns.set_index("column")
    assert columns.loc["age", ["dtype", "unit", "source"]].tolist() == [
        "float64", "years", "RESTRICTED_lab_1_1_2026.csv: Age_in_Yrs",
    ]  # fmt: skip
    assert columns.loc["CogTotalComp_AgeAdj", "meaning"] == "NIH Toolbox total cognition"
    assert columns.loc["Family_ID", "dtype"] == "str"


def test_the_real_header_of_383_columns(tmp_path, data):
    names = (data / "phenotype_headers" / "hcp_ya_unrestricted_383_columns.txt").read_text().split()
    volume(tmp_path, "rfMRI_REST1_LR")
    values = {"Subject": "100206", "Gender": "F", "Age": "31-35", "PMAT24_A_CR": "20"}
    row = ",".join(values.get(name, "") for name in names)
    (tmp_path / "unrestricted_x_2_3_2026.csv").write_text(f"{','.join(names)}\n{row}\n")
    cohort = get_adapter("hcp")(tmp_path)
    assert len(cohort.columns) == 383  # the id makes way for sex
    assert cohort.phenotypes.loc[0, ["sex", "PMAT24_A_CR"]].tolist() == ["F", 20]
