"""Catalogues hold what is there, with ids as text, and say what they leave out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from cohorts import SHAPE, write_header, write_phenotypes, write_run

from fmritok.errors import CatalogError
from fmritok.pipeline.catalog.found import Found, gather
from fmritok.pipeline.commands.catalog import catalog
from fmritok.pipeline.commands.tokenize import plan
from fmritok.pipeline.datasets import DATASETS, catalog_cohort, get_adapter, hcp
from fmritok.pipeline.tables.remarks import Remark


@pytest.fixture
def tree(tmp_path):
    write_run(tmp_path, "010307")
    write_run(tmp_path, "010307", "tfMRI_WM_RL", suffix="", tr=0.72)
    write_run(tmp_path, "100408", frames=6)
    write_run(tmp_path, "100408", suffix="", frames=6)
    write_phenotypes(tmp_path, ["010307", "100408", "999999"], families=["F1", "F1", "F2"])
    return tmp_path


def test_hcp_runs_and_what_is_left_out(tree):
    cohort = get_adapter("hcp")(tree)
    runs = cohort.runs.set_index("run_id")
    assert list(runs.index) == [
        "hcp_010307_rfMRI_REST1_LR", "hcp_010307_tfMRI_WM_RL", "hcp_100408_rfMRI_REST1_LR",
    ]  # fmt: skip
    wm = runs.loc["hcp_010307_tfMRI_WM_RL"]
    assert (wm["subject"], wm["session"], wm["task"], wm["family"]) == ("010307", "3T", "wm", "F1")
    assert runs.loc["hcp_100408_rfMRI_REST1_LR", "task"] == "rest"
    assert runs.loc["hcp_100408_rfMRI_REST1_LR", "n_frames"] == 6
    assert runs["tr"].round(4).unique() == [0.72]
    assert (runs["problem"] == "").all()
    assert cohort.left_out["path"].tolist() == [
        str(tree / "100408/MNINonLinear/Results/rfMRI_REST1_LR/rfMRI_REST1_LR.nii.gz")
    ]
    assert "cleaner" in cohort.left_out["reason"].iloc[0]


def test_both_tables_are_joined_and_ids_stay_text(tree):
    table = get_adapter("hcp")(tree).phenotypes.set_index("subject")
    assert list(table.index) == ["010307", "100408", "999999"]
    assert table.loc["010307", "Gender"] == "M"
    assert table.loc["100408", "Age_in_Yrs"] == 28
    assert table.loc["100408", "Age"] == "26-30"
    assert table["dataset"].unique() == ["hcp"]


def test_newer_clean_releases_are_preferred(tmp_path):
    for suffix in ("", "_hp2000_clean", "_hp2000_clean_rclean_tclean"):
        write_run(tmp_path, "100001", suffix=suffix)
    cohort = get_adapter("hcp")(tmp_path)
    assert cohort.runs["source"].iloc[0].endswith("_rclean_tclean.nii.gz")
    assert len(cohort.left_out) == 2


def test_7t_runs_have_their_own_session(tmp_path):
    write_run(tmp_path, "100001", "rfMRI_REST1_7T_PA", tr=1.0)
    write_run(tmp_path, "100001", "rfMRI_REST2_RL")
    runs = get_adapter("hcp")(tmp_path).runs
    assert runs["session"].tolist() == ["7T", "3T"]
    assert runs["tr"].tolist() == [1.0, pytest.approx(0.72)]


def test_a_duplicate_run_id_is_a_problem_of_that_run(tree):
    write_run(tree, "100408", extension=".nii", frames=6)
    runs = get_adapter("hcp")(tree).runs.set_index("run_id")
    assert "REST1_LR_hp2000_clean.nii.gz and" in runs.loc["hcp_100408_rfMRI_REST1_LR", "problem"]
    assert (runs["problem"] == "").sum() == 2


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"values": np.ones(SHAPE, np.int16)}, "four dimensions"),
        ({"frames": 1}, "at least two frames"),
        ({"tr": 0.0}, "got none"),
        ({"tr": 720.0}, "got 720 s"),
        ({"values": np.ones((64, 64, 33, 3), np.int16)}, "MNI space"),
    ],
)
def test_bad_headers_are_problems_of_their_runs(tree, spoil, words):
    write_run(tree, "100999", **spoil)
    runs = get_adapter("hcp")(tree).runs.set_index("run_id")
    problem = runs.loc["hcp_100999_rfMRI_REST1_LR", "problem"]
    assert words in problem
    assert "100999" in problem
    assert (runs["problem"] == "").sum() == 3


def test_a_given_tr_replaces_a_missing_one(tree):
    write_run(tree, "100999", tr=0.0)
    runs = get_adapter("hcp")(tree, tr=0.72).runs
    assert (runs["problem"] == "").all()
    assert (runs["tr"] == 0.72).all()


def test_roots_that_are_no_cohort(tmp_path):
    with pytest.raises(CatalogError, match="got nothing there"):
        get_adapter("hcp")(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogError, match="expected SUBJECT/MNINonLinear.*got no such file"):
        get_adapter("hcp")(tmp_path / "empty")
    with pytest.raises(CatalogError, match=r"SIMULATED\.json"):
        get_adapter("demo")(tmp_path / "empty")
    with pytest.raises(CatalogError, match="expected one of"):
        get_adapter("oasis")


def test_broken_phenotype_tables(tree):
    table = tree / "unrestricted_lab_1_1_2026.csv"
    text = table.read_text()
    table.write_text(text + text.splitlines()[1] + "\n")
    assert "010307" in get_adapter("hcp")(tree).questioned["reason"].iloc[0]
    table.write_text(text.replace("Subject", "eid"))
    with pytest.raises(CatalogError, match="a column 'Subject'"):
        get_adapter("hcp")(tree)
    table.write_text(text)
    (tree / "unrestricted_second.csv").write_text(text)
    with pytest.raises(CatalogError, match="expected one file"):
        get_adapter("hcp")(tree)


def test_every_adapter_can_be_had_and_refuses_an_empty_root(tmp_path):
    for dataset in DATASETS.names():
        for kind in ("volume", "surface"):
            with pytest.raises(CatalogError):
                get_adapter(dataset)(tmp_path, input=kind)


def test_a_cohort_always_has_all_its_tables(tmp_path):
    write_run(tmp_path, "100001")
    cohort = get_adapter("hcp")(tmp_path)
    assert list(cohort.events) == ["run_id", "onset", "duration", "trial_type"]
    assert list(cohort.columns) == ["dataset", "column", "dtype", "unit", "source", "meaning"]
    assert list(cohort.phenotypes) == ["dataset", "subject", "session"]
    run = cohort.runs.iloc[0]
    assert run[["right", "warp", "mask"]].tolist() == ["", "", ""]
    assert np.isnan(run["motion"])


def test_phenotypes_of_another_cohort_are_refused(tree):
    for table in tree.glob("*.csv"):
        table.write_text(table.read_text().replace("\n010307", "\n10307").replace("100408", "7"))
    with pytest.raises(CatalogError, match="ids such as 010307, got 10307: not one subject"):
        get_adapter("hcp")(tree)


def test_subjects_whose_ids_nearly_match_are_named(tree):
    for table in tree.glob("*.csv"):
        table.write_text(table.read_text().replace("\n010307", "\n10307"))
    cohort = get_adapter("hcp")(tree)
    assert cohort.without_phenotypes == ["010307"]
    words = f"{Remark.NEARLY_IDS}: '010307 and 10307'"
    assert cohort.questioned.values.tolist() == [[str(tree), words]]


def test_a_folder_that_cannot_be_read_is_left_out():
    def search(place: int) -> Found:
        if place == 2:
            raise PermissionError(13, "Permission denied", "/data/2")
        return Found(left_out=[(Path(f"/data/{place}"), "fine")])

    found = gather(search, [1, 2, 3])
    assert found.left_out == [
        (Path("/data/1"), "fine"),
        (Path("/data/2"), "cannot be read: Permission denied"),
        (Path("/data/3"), "fine"),
    ]


@pytest.mark.parametrize("error", [ValueError("odd"), RecursionError("deep"), EOFError("short")])
def test_what_a_file_causes_is_the_reason_of_its_part(error):
    def search(place: int) -> Found:
        if place == 2:
            raise error
        return Found(left_out=[(Path(f"/data/{place}"), "fine")])

    found = gather(search, [1, 2, 3], where=lambda place: Path(f"/data/{place}"))
    reason = f"cannot be searched: {type(error).__name__}: {error}"
    assert found.left_out == [
        (Path("/data/1"), "fine"), (Path("/data/2"), reason), (Path("/data/3"), "fine"),
    ]  # fmt: skip


def test_faults_of_the_program_are_not_hidden():
    with pytest.raises(AttributeError):
        gather(lambda place: place.nothing, [1], where=lambda place: Path("/data"))


@pytest.mark.parametrize("subject", ["100\x1b[31m", "100 001", "100[", "100\n", "caf\udce9"])
def test_subjects_whose_names_cannot_be_stored_are_left_out_with_the_reason(tmp_path, subject):
    for name in (subject, "100002"):
        place = tmp_path / name / "MNINonLinear" / "Results" / "rfMRI_REST1_LR"
        write_header(place / "rfMRI_REST1_LR.nii.gz")
    cohort = get_adapter("hcp")(tmp_path)
    assert cohort.runs["problem"].tolist() == [""]
    assert cohort.runs["subject"].tolist() == ["100002"]
    (reason,) = cohort.left_out["reason"]
    assert reason.startswith("its name cannot be a run id: use letters, digits")


def test_other_names_with_control_characters_are_problems_of_their_runs(tmp_path):
    func = tmp_path / "sub-01" / "func"
    write_header(func / "sub-01_task-re\x1bst_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz")
    problem = get_adapter("bids")(tmp_path).runs["problem"][0]
    assert problem.startswith("Name 're\\x1bst': expected characters that can be shown")


def run_command(*arguments: str) -> str:
    result = CliRunner().invoke(catalog, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_groups_what_is_left_out_and_names_who_has_no_phenotypes(tmp_path):
    for i in range(6):
        for suffix in ("_hp2000_clean", ""):
            name = "rfMRI_REST1_LR"
            place = tmp_path / f"10000{i}" / "MNINonLinear" / "Results" / name
            write_header(place / f"{name}{suffix}.nii.gz", tr=0.0 if i > 3 else 0.72)
    write_phenotypes(tmp_path, ["100000", "100001"])
    printed = run_command("--dataset", "hcp", "--root", str(tmp_path))
    assert "4 runs of 4 subjects" in printed
    assert "Without a row in the phenotype tables: 4 of 6 subjects" in printed
    assert printed.count("a cleaner file of the run is there") == 1
    assert "left out (6): a cleaner file of the run is there" in printed
    assert "and 3 more" in printed
    assert "cannot be tokenized (2): Repetition time in the file: expected 0.1 to 20 s" in printed


def test_the_command_prints_json(tree):
    printed = json.loads(run_command("--dataset", "hcp", "--root", str(tree), "--json"))
    assert len(printed["runs"]) == 3
    assert {"right", "warp", "mask", "motion", "problem"} <= set(printed["runs"][0])
    assert printed["left_out"][0]["reason"] == "a cleaner file of the run is there"
    assert {"column": "age", "unit": "years"}.items() <= printed["phenotypes"][1].items()
    assert printed["without_phenotypes"] == []
    assert printed["events"] == 0
    assert {run["motion"] for run in printed["runs"]} == {None}


def test_doubtful_files_are_named_by_catalog_and_by_plan(tmp_path, monkeypatch):
    for subject in ("100001", "100002"):
        write_run(tmp_path, subject)
    search = hcp.gather

    def gather(do, places, **options):
        found = search(do, places, **options)
        found.questioned += [(file.path, "no such scanner") for file in found.files]
        return found

    monkeypatch.setattr(hcp, "gather", gather)
    cohort = ("--dataset", "hcp", "--root", str(tmp_path))
    assert "used, but check (2): no such scanner" in run_command(*cohort)
    assert len(json.loads(run_command(*cohort, "--json"))["questioned"]) == 2
    options = ("--store", str(tmp_path / "t.zarr"), "--tokenizer", "network")
    planned = CliRunner().invoke(plan, [*cohort, *options])
    assert "Used, but check (2): no such scanner" in planned.stderr


def test_two_cohorts_of_one_layout_can_have_names_of_their_own(tmp_path):
    write_run(tmp_path, "100001")
    write_phenotypes(tmp_path, ["100001"])
    cohort = catalog_cohort("hcp", tmp_path, name="lab-a")
    assert cohort.runs["run_id"].tolist() == ["lab-a_100001_rfMRI_REST1_LR"]
    for table in (cohort.runs, cohort.phenotypes, cohort.columns):
        assert set(table["dataset"]) == {"lab-a"}
    with pytest.raises(CatalogError, match="letters, digits and -"):
        catalog_cohort("hcp", tmp_path, name="a/b")
