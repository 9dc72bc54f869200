"""ADHD-200's releases and tables: seven-digit ids, filters, sites, lost repetition times."""

from __future__ import annotations

import numpy as np
import pytest
from cohorts import NATIVE, left_out, write_header

from fmritok.errors import CatalogError
from fmritok.pipeline.datasets import get_adapter
from fmritok.pipeline.tables.remarks import Remark

#: Athena's grid.
MNI4 = np.array([[-4.0, 0, 0, 96], [0, 4, 0, -132], [0, 0, 4, -78], [0, 0, 0, 1]])
SITE_HEADER = (
    "ScanDir ID,Site,Gender,Age,Handedness,DX,Secondary Dx ,ADHD Measure,ADHD Index,Inattentive,"
    "Hyper/Impulsive,IQ Measure,Verbal IQ,Performance IQ,Full2 IQ,Full4 IQ,Med Status,QC_Rest_1,"
    "QC_Rest_2,QC_Rest_3,QC_Rest_4,QC_Anatomical_1,QC_Anatomical_2"
)


def athena(
    folder, subject="0010001", name="snwmrda", session=1, rest=1, extension=".nii.gz", tr=2.0
):
    file = f"{name}{subject}_session_{session}_rest_{rest}{extension}"
    return write_header(folder / subject / file, shape=(49, 58, 47, 5), affine=MNI4, tr=tr)


def row(*start: str) -> str:
    return ",".join([*start, *[""] * (23 - len(start))])


def catalog(root, **options):
    return get_adapter("adhd200")(root, **options)


def test_unfiltered_athena_runs_are_taken_and_filtered_ones_listed(tmp_path):
    site = tmp_path / "NYU_preproc" / "NYU"
    athena(site)
    athena(site, name="sfnwmrda")
    athena(site, name="sfnwmrda", subject="0010002", extension=".nii")
    athena(site, rest=2)
    athena(site, session=2)
    write_header(site / "0010001" / "wssd0010001_session_1_anat.nii.gz", shape=(9, 9, 9))
    cohort = catalog(tmp_path)
    assert cohort.runs[["run_id", "subject", "session", "task", "site"]].values.tolist() == [
        ["adhd200_0010001_session_1_rest_1", "0010001", "1", "rest", "NYU"],
        ["adhd200_0010001_session_1_rest_2", "0010001", "1", "rest", "NYU"],
        ["adhd200_0010001_session_2_rest_1", "0010001", "2", "rest", "NYU"],
        ["adhd200_0010002_session_1_rest_1", "0010002", "1", "rest", "NYU"],
    ]
    assert (cohort.runs["problem"] == "").all()
    assert left_out(cohort, tmp_path) == {
        "NYU_preproc/NYU/0010001/sfnwmrda0010001_session_1_rest_1.nii.gz": (
            "the unfiltered file of the scan is taken"
        )
    }


def test_niak_ids_get_their_zeros_and_athena_comes_first(tmp_path):
    for subject in ("10001", "1201251"):
        write_header(tmp_path / f"fmri_X_{subject}_session_1_run1.nii.gz", tr=2.0)
    athena(tmp_path / "NYU")
    cohort = catalog(tmp_path)
    assert cohort.runs["subject"].tolist() == ["0010001", "1201251"]
    assert cohort.runs["space"].tolist() == ["MNI152NLin6Asym", "MNI152NLin2009aSym"]
    assert cohort.left_out["reason"].tolist() == ["another pipeline's file of the scan is taken"]


def test_the_sample_of_nilearn(tmp_path):
    name = "0010042_rest_tshift_RPI_voreg_mni.nii.gz"
    write_header(tmp_path / "data" / "0010042" / name, tr=2.0)
    (tmp_path / "data" / "0010042" / "0010042_regressors.csv").write_text("csf\n1\n")
    (tmp_path / "ADHD200_40subs_motion_parameters_and_phenotypics.csv").write_text(
        '"","Subject","MeanFD","site","age","sex","full_4_iq","tdc","adhd","adhd_inattentive",'
        '"adhd_combined"\n'
        '"1","10042",0.137,"NYU",9.5,"M",110,0,1,1,0\n"2","10064",0.2,"NYU",8,"F",NA,1,0,0,0\n'
    )
    cohort = catalog(tmp_path)
    run = cohort.runs.iloc[0]
    assert (run["subject"], run["site"], run["motion"]) == ("0010042", "NYU", 0.137)
    columns = ["subject", "sex", "age", "dx", "adhd"]
    assert cohort.phenotypes[columns].values.tolist() == [
        ["0010042", "M", 9.5, "ADHD-Inattentive", 1.0], ["0010064", "F", 8.0, "TDC", 0.0],
    ]  # fmt: skip


def test_raw_bids_data_are_left_out_with_the_next_step(tmp_path):
    raw = tmp_path / "RawDataBIDS" / "KKI"
    file = "ses-1/func/sub-0010001_ses-1_task-rest_run-1_bold.nii.gz"
    write_header(raw / "sub-0010001" / file, affine=NATIVE)
    (raw / "participants.tsv").write_text("participant_id\tdx\n10001\t1\n")
    with pytest.raises(CatalogError, match="preprocess it with fMRIPrep"):
        catalog(tmp_path)
    athena(tmp_path / "KKI")
    cohort = catalog(tmp_path)
    assert cohort.phenotypes[["subject", "dx"]].values.tolist() == [["0010001", "ADHD-Combined"]]
    assert len(cohort.left_out) == 1


def test_derivatives_of_fmriprep_are_runs_of_the_cohort(tmp_path):
    tree = tmp_path / "NYU" / "derivatives"
    func = tree / "sub-10001" / "ses-1" / "func"
    entities = "space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz"
    write_header(func / f"sub-10001_ses-1_task-rest_run-01_{entities}", tr=2.0)
    write_header(func / f"sub-10001_ses-1_task-rest_run-02_{entities}", tr=2.0)
    athena(tmp_path / "NYU")
    runs = catalog(tmp_path).runs
    assert runs["run_id"].tolist() == [
        "adhd200_0010001_session_1_rest_1", "adhd200_0010001_session_1_rest_2",
    ]  # fmt: skip
    assert "snwmrda" in runs["path"][0]
    assert (runs["site"] == "NYU").all()


def test_surfaces_are_in_derivatives_only(tmp_path):
    athena(tmp_path / "NYU")
    with pytest.raises(CatalogError, match="releases have volumes only"):
        catalog(tmp_path, input="surface")


@pytest.mark.parametrize(
    ("site", "header", "used"),
    [("NeuroIMAGE", 0.0, 1.96), ("Pittsburgh", 1.0, 1.5), ("Peking_2", 2000.0, 2.0),
     ("KKI", 3.0, 3.0), ("OHSU", 2.5, 2.5)],
)  # fmt: skip
def test_the_sites_repetition_time_replaces_one_that_cannot_be(tmp_path, site, header, used):
    athena(tmp_path / site, tr=header)
    assert catalog(tmp_path).runs[["tr", "problem"]].values.tolist() == [[used, ""]]
    assert catalog(tmp_path, tr=0.8).runs["tr"].tolist() == [0.8]


def test_a_lost_repetition_time_of_an_unknown_site_is_a_problem(tmp_path):
    athena(tmp_path / "elsewhere", tr=0.0)
    assert "--tr" in catalog(tmp_path).runs["problem"][0]


def test_a_site_table_with_its_codes_and_missing_values(tmp_path):
    for subject in ("0010001", "0010002", "0010003", "0010004"):
        athena(tmp_path / "NYU", subject=subject)
    rows = [
        row("10001", "5", "1", "9.42", "0.63", "1", "ODD", "2", "71", "70", "68", "1", "108",
            "-999", "N/A", "104", "-999", "1", "N/A", "", "", "1"),
        row("10002", "5", "0", "10.1", "0.5", "0", "", "2", "-999"),
        row("10003", "5", "-999", "", "", "pending"),
    ]  # fmt: skip
    (tmp_path / "NYU_phenotypic.csv").write_bytes(
        "\n".join([SITE_HEADER, *rows]).replace("ODD", "Sépar\xe9").encode("latin-1")
    )
    cohort = catalog(tmp_path)
    table = cohort.phenotypes.set_index("subject")
    assert list(table.index) == ["0010001", "0010002", "0010003"]
    assert table["dx"].tolist() == ["ADHD-Combined", "TDC", ""]
    np.testing.assert_array_equal(table["adhd"], [1, 0, np.nan])
    assert table["sex"].tolist() == ["M", "F", ""]
    np.testing.assert_array_equal(table["age"], [9.42, 10.1, np.nan])
    assert table["site"].tolist() == ["NYU"] * 3
    assert table["secondary_dx"].tolist() == ["Sépar\xe9", "", ""]
    np.testing.assert_array_equal(table["performance_iq"], [np.nan] * 3)
    np.testing.assert_array_equal(table["full4_iq"], [104, np.nan, np.nan])
    np.testing.assert_array_equal(table["qc_rest_1"], [1, np.nan, np.nan])
    assert cohort.without_phenotypes == ["0010004"]
    about = cohort.columns.set_index("column")
    assert about.loc["secondary_dx", "source"] == "NYU_phenotypic.csv: secondary_dx"
    assert about.loc["qc_rest_1", "unit"] == "1 if it passed"


def test_the_dialect_of_washu(tmp_path):
    athena(tmp_path / "WashU", subject="0015001")
    (tmp_path / "WashU_phenotypic.csv").write_text(
        "ScanDirID,Site,Gender,Age,DX,Secondary Dx ,Study #,QC_S1_Rest_1,QC_S1_Rest_2,QC_S1_Anat,"
        "QC_S2_Rest_1\n15001,8,1.0,11,0.0,,1,1,0,1,N/A\n"
    )
    run = catalog(tmp_path)
    row = run.phenotypes.iloc[0]
    assert row[["subject", "site", "sex", "dx"]].tolist() == ["0015001", "WashU", "M", "TDC"]
    assert row[["qc_rest_1", "qc_rest_2", "qc_anatomical_1"]].tolist() == [1, 0, 1]


def test_site_combined_and_test_tables_are_joined(tmp_path):
    for subject in ("0010001", "0010002", "3011311"):
        athena(tmp_path / "NYU", subject=subject)
    (tmp_path / "NYU_phenotypic.csv").write_text(
        "\n".join([SITE_HEADER, row("10001", "5", "1", "9.42", "", "2")])
    )
    (tmp_path / "adhd200_preprocessed_phenotypics.tsv").write_text(
        "ScanDir ID\tSite\tGender\tAge\tDX\tQC_Athena\tQC_NIAK\n"
        "10001\t5\t1\t9.42\t3\t1\t0\n10002\t5\t0\t8\t0\t1\t1\n3011311\t5\t0\t8\tpending\t1\t1\n"
    )
    (tmp_path / "allSubs_testSet_phenotypic_dx.csv").write_text(
        "ID,Site,Gender,Age,DX,Verbal IQ\n3011311,5,0,8,Typically Developing,L\n"
    )
    cohort = catalog(tmp_path)
    table = cohort.phenotypes.set_index("subject")
    assert table["dx"].to_dict() == {
        "0010001": "ADHD-Hyperactive/Impulsive", "0010002": "TDC", "3011311": "TDC",
    }  # fmt: skip
    assert table["qc_niak"].tolist() == [0, 1, 1]
    assert (
        "another dx than an earlier table for 1 subject, such as 0010001"
        in (left_out(cohort, tmp_path)["adhd200_preprocessed_phenotypics.tsv"])
    )


def test_broken_tables(tmp_path):
    athena(tmp_path / "NYU")
    table = tmp_path / "NYU_phenotypic.csv"
    for text, words in (
        ("Site,DX\n5,1\n", "a column 'ScanDir ID'"),
        ("ScanDir ID,DX\n1,10001,1\n", "2 columns in the header and 3 below it"),
        ("ScanDir ID,Age\n99,9\n", "ids such as 0010001"),
    ):
        table.write_text(text)
        with pytest.raises(CatalogError, match=words):
            catalog(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ScanDir ID,DX\n10001,1\n0010001,2\n", f"{Remark.SAME_SUBJECT}: '0010001'"),
        ("ScanDir ID,DX\n10001,7\n", f"{Remark.DX_UNKNOWN}: '7'"),
        ("ScanDir ID,DX,Verbal IQ\n10001,,high\n", f"{Remark.NOT_NUMBERS}: verbal_iq ('high')"),
        ("ScanDir ID,DX\n10001,\n,1\n", f"{Remark.NO_ID} (1)"),
    ],
)
def test_values_that_cannot_be_told_are_missing_and_named(tmp_path, text, words):
    athena(tmp_path / "NYU")
    (tmp_path / "NYU_phenotypic.csv").write_text(text)
    cohort = catalog(tmp_path)
    assert cohort.phenotypes["dx"].tolist() == [""]
    assert cohort.questioned["reason"].tolist() == [words]


def test_a_table_without_ids_beside_a_good_one_is_left_out(tmp_path):
    athena(tmp_path / "NYU")
    (tmp_path / "NYU_phenotypic.csv").write_text("ScanDir ID,DX\n10001,1\n")
    (tmp_path / "phenotypic_key.csv").write_text("column,meaning\nDX,diagnosis\n")
    cohort = catalog(tmp_path)
    assert cohort.phenotypes["dx"].tolist() == ["ADHD-Combined"]
    assert "no column of ids" in left_out(cohort, tmp_path)["phenotypic_key.csv"]


def test_an_empty_root_names_the_releases(tmp_path):
    with pytest.raises(CatalogError, match="snwmrda"):
        catalog(tmp_path)
