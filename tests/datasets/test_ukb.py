"""UK Biobank's downloads, zipped and unpacked, and its tables in all their dialects."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from cohorts import NATIVE, left_out, questioned, write_cifti, write_header

from fmritok.errors import CatalogError
from fmritok.pipeline.datasets import get_adapter
from fmritok.pipeline.tables.remarks import Remark

REST = "1000001_20227_2_0"
NATIVE_SHAPE = (30, 30, 20, 4)


def rest(root: Path, name: str = REST, *, warp: bool = True, standard: bool = False) -> Path:
    """Write field 20227 as it is unpacked."""
    ica = root / name / "fMRI" / "rfMRI.ica"
    write_header(root / name / "fMRI" / "rfMRI.nii.gz", shape=NATIVE_SHAPE, affine=NATIVE)
    write_header(ica / "filtered_func_data_clean.nii.gz", shape=NATIVE_SHAPE, affine=NATIVE,
                 tr=0.735)  # fmt: skip
    write_header(ica / "mask.nii.gz", shape=NATIVE_SHAPE[:3], affine=NATIVE)
    (ica / "mc").mkdir()
    (ica / "mc" / "prefiltered_func_data_mcf_rel_mean.rms").write_text("0.061\n")
    if warp:
        write_header(ica / "reg" / "example_func2standard_warp.nii.gz")
    if standard:
        write_header(ica / "filtered_func_data_clean_standard.nii.gz", tr=0.735)
    return root / name


def zipped(folder: Path, to: Path | None = None) -> Path:
    """Make the zip that was downloaded of a folder, and take the folder away."""
    path = (to or folder.parent) / f"{folder.name}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
                file.unlink()
    for place in sorted(folder.rglob("*"), reverse=True):
        place.rmdir()
    folder.rmdir()
    return path


def catalog(root: Path, **options):
    return get_adapter("ukb")(root, **options)


def test_native_volumes_come_with_their_warp_and_motion(tmp_path):
    rest(tmp_path)
    run = catalog(tmp_path).runs.iloc[0]
    ica = f"{REST}/fMRI/rfMRI.ica"
    assert run["source"] == f"{ica}/filtered_func_data_clean.nii.gz"
    assert run["warp"] == str(tmp_path / ica / "reg/example_func2standard_warp.nii.gz")
    assert (run["run_id"], run["subject"]) == ("ukb_1000001_2_rest", "1000001")
    assert (run["session"], run["task"], run["space"]) == ("2", "rest", "MNI152NLin6Asym")
    assert (run["problem"], run["n_frames"], run["motion"]) == ("", 4, 0.061)
    assert run["tr"] == pytest.approx(0.735)


def test_native_volumes_without_a_warp_are_refused_with_what_is_needed(tmp_path):
    rest(tmp_path, warp=False)
    run = catalog(tmp_path).runs.iloc[0]
    assert run["space"] == "native"
    assert "rfMRI.ica/reg/example_func2standard_warp.nii.gz" in run["problem"]
    assert "applywarp" in run["problem"]


def test_volumes_that_are_warped_already_are_taken(tmp_path):
    rest(tmp_path, warp=False, standard=True)
    run = catalog(tmp_path).runs.iloc[0]
    assert run["source"].endswith("filtered_func_data_clean_standard.nii.gz")
    assert (run["warp"], run["problem"], run["space"]) == ("", "", "MNI152NLin6Asym")


def test_a_file_with_the_standard_name_that_is_native_is_no_mni_run(tmp_path):
    path = rest(tmp_path, warp=False) / "fMRI/rfMRI.ica"
    (path / "filtered_func_data_clean.nii.gz").rename(
        path / "filtered_func_data_clean_standard.nii.gz"
    )
    assert "MNI space" in catalog(tmp_path).runs.iloc[0]["problem"]


def test_zips_are_read_through_without_unpacking(tmp_path):
    zipped(rest(tmp_path))
    run = catalog(tmp_path).runs.iloc[0]
    assert run["path"] == str(
        tmp_path / f"{REST}.zip/fMRI/rfMRI.ica/filtered_func_data_clean.nii.gz"
    )
    assert run["warp"].startswith(str(tmp_path / f"{REST}.zip/"))
    assert (run["problem"], run["n_frames"], run["motion"]) == ("", 4, 0.061)


def test_of_a_zip_and_a_folder_the_folder_is_taken(tmp_path):
    zipped(rest(tmp_path))
    rest(tmp_path)
    cohort = catalog(tmp_path)
    assert cohort.runs["source"].str.startswith(f"{REST}/").all()
    assert "a folder rather than a zip" in left_out(cohort, tmp_path)[f"{REST}.zip"]


def test_an_empty_folder_does_not_hide_its_zip(tmp_path):
    zipped(rest(tmp_path))
    (tmp_path / REST).mkdir()
    cohort = catalog(tmp_path)
    assert cohort.runs["problem"].tolist() == [""]
    assert "no rfMRI.ica/filtered_func_data_clean.nii.gz" in left_out(cohort, tmp_path)[REST]


@pytest.mark.parametrize("as_zip", [False, True])
def test_unusable_scans_are_left_out(tmp_path, as_zip):
    rest(tmp_path)
    write_header(tmp_path / "1000002_20227_2_0/fMRI/unusable/rfMRI.nii.gz", shape=NATIVE_SHAPE)
    if as_zip:
        zipped(tmp_path / "1000002_20227_2_0")
    cohort = catalog(tmp_path)
    assert cohort.runs["subject"].tolist() == ["1000001"]
    assert cohort.left_out["reason"].tolist() == ["marked as unusable by UK Biobank"]


def test_a_truncated_zip_is_left_out(tmp_path):
    rest(tmp_path)
    (tmp_path / "1000002_20227_2_0.zip").write_bytes(b"PK\x03\x04 cut")
    cohort = catalog(tmp_path)
    assert left_out(cohort, tmp_path) == {
        "1000002_20227_2_0.zip": "cannot be read: download it again"
    }


def test_folders_of_the_research_platform_tasks_and_repeat_visits(tmp_path):
    bulk = tmp_path / "Bulk" / "Brain MRI"
    zipped(rest(tmp_path), bulk / "Resting functional brain MRI" / "10")
    rest(tmp_path, "1000001_20227_3_0")
    feat = tmp_path / "1000001_20249_2_0" / "fMRI" / "tfMRI.feat"
    write_header(feat / "filtered_func_data.nii.gz", shape=NATIVE_SHAPE, affine=NATIVE)
    write_header(feat / "reg" / "example_func2standard_warp.nii.gz")
    write_header(tmp_path / "1000001_20252_2_0" / "T1" / "T1.nii.gz", shape=(9, 9, 9))
    cohort = catalog(tmp_path)
    assert cohort.runs[["session", "task", "problem"]].values.tolist() == [
        ["2", "emotion", ""], ["2", "rest", ""], ["3", "rest", ""],
    ]  # fmt: skip
    assert "Brain MRI" in cohort.runs["source"][1]
    assert cohort.left_out.empty


@pytest.mark.parametrize("as_zip", [False, True])
def test_surfaces_have_the_run_ids_of_the_volumes(tmp_path, as_zip):
    rest(tmp_path)
    folder = tmp_path / "1000001_32136_2_0"
    cifti = folder / "surf_fMRI/CIFTIs"
    write_cifti(cifti / "bb.rfMRI.MNI.MSMAll.dtseries.nii", tr=0.735)
    write_cifti(cifti / "bb.tfMRI.MNI.MSMAll.dtseries.nii", tr=0.735)
    if as_zip:
        zipped(folder)
    runs = catalog(tmp_path, input="surface").runs
    assert runs["run_id"].tolist() == ["ukb_1000001_2_emotion", "ukb_1000001_2_rest"]
    assert runs["problem"].tolist() == ["", ""]
    assert runs["space"].tolist() == ["fsLR", "fsLR"]
    assert catalog(tmp_path).runs["run_id"].tolist() == ["ukb_1000001_2_rest"]


UKBCONV = (
    "eid,31-0.0,54-0.0,54-2.0,54-3.0,21003-0.0,21003-2.0,21003-3.0,20016-0.0,20016-2.0,"
    "20127-0.0,25741-2.0,6150-0.0\n"
    '1000001,1,11010,11025,11027,50,61,64,3,9,4,0.11,"-7"\n'
    "1000002,0,11011,11026,,48,58,,5,,,,\n"
    "1999999,0,11011,11026,,48,58,,5,,,,\n"
)
PLATFORM = (
    "eid,p31,p54_i2,p54_i3,p21003_i0,p21003_i2,p21003_i3,p20016_i2,p20127_i0,p25741_i2\n"
    "1000001,Male,11025,11027,50,61,64,9,4,0.11\n"
    "1000002,Female,11026,,48,58,,,,\n"
)
ENTITIES = PLATFORM.replace("eid", "participant.eid").replace(",p", ",participant.p")
R = (
    '"f.eid"\t"f.31.0.0"\t"f.54.2.0"\t"f.54.3.0"\t"f.21003.2.0"\t"f.21003.3.0"\t"f.20016.2.0"\t'
    '"f.20127.0.0"\t"f.25741.2.0"\n'
    "1000001\t1\t11025\t11027\t61\t64\t9\t4\t0.11\n"
    "1000002\t0\t11026\tNA\t58\tNA\tNA\tNA\tNA\n"
)


@pytest.mark.parametrize(
    ("name", "text"),
    [("ukb1.csv", UKBCONV), ("data.csv", PLATFORM), ("participant.csv", ENTITIES), ("ukb.tab", R)],
)
def test_dialects_give_one_row_for_each_imaging_visit_with_a_run(tmp_path, name, text):
    for eid, instance in (("1000001", 2), ("1000001", 3), ("1000002", 2)):
        path = rest(tmp_path, f"{eid}_20227_{instance}_0")
        (path / "fMRI/rfMRI.ica/mc/prefiltered_func_data_mcf_rel_mean.rms").unlink()
    (tmp_path / name).write_text(text)
    cohort = catalog(tmp_path)
    columns = ["subject", "session", "sex", "age", "site"]
    assert cohort.phenotypes[columns].values.tolist() == [
        ["1000001", "2", "M", 61.0, "11025"],
        ["1000001", "3", "M", 64.0, "11027"],
        ["1000002", "2", "F", 58.0, "11026"],
    ]
    np.testing.assert_array_equal(cohort.phenotypes["fluid_intelligence"], [9, np.nan, np.nan])
    np.testing.assert_array_equal(cohort.phenotypes["neuroticism"], [4, 4, np.nan])
    assert cohort.runs["site"].tolist() == ["11025", "11027", "11026"]
    np.testing.assert_array_equal(cohort.runs["motion"], [0.11, np.nan, np.nan])
    assert cohort.without_phenotypes == []


def test_a_table_of_ones_own(tmp_path):
    rest(tmp_path)
    (tmp_path / "UKB_phenotype_gps_fluidint.csv").write_text("eid,sex,age,fluid\n1000001,0,63,7\n")
    row = catalog(tmp_path).phenotypes.iloc[0]
    assert row[["session", "sex", "age", "fluid_intelligence"]].tolist() == ["2", "F", 63, 7]


def test_other_fields_are_taken_along_and_described(tmp_path):
    rest(tmp_path)
    (tmp_path / "a.csv").write_text(
        "eid,31-0.0,21001-0.0,21001-2.0,6150-0.0,6150-0.1\n1000001,1,24.5,26.5,1,4\n"
    )
    (tmp_path / "b.csv").write_text("eid,p20116_i2\n1000001,Never\n")
    (tmp_path / "files.csv").write_text("name,size\nx,1\n")
    cohort = catalog(tmp_path)
    row = cohort.phenotypes.iloc[0]
    assert row[["p21001", "p21001_i0", "p6150", "p6150_a1", "p20116"]].tolist() == [
        26.5, 24.5, 1, 4, "Never",
    ]  # fmt: skip
    about = cohort.columns.set_index("column")
    assert about.loc["p21001", "source"] == "a.csv: 21001-2.0"
    assert about.loc["p20116", "source"] == "b.csv: p20116_i2"
    assert left_out(cohort, tmp_path) == {"files.csv": "not a phenotype table: no column eid"}


def test_a_whole_basket_is_read_by_its_named_fields_only(tmp_path):
    rest(tmp_path)
    fields = [f"{40000 + i}-0.0" for i in range(400)]
    (tmp_path / "ukb1.csv").write_text(
        f"eid,31-0.0,{','.join(fields)}\n1000001,1,{','.join('1' * 400)}\n"
    )
    cohort = catalog(tmp_path)
    assert cohort.columns["column"].tolist() == ["sex"]
    assert "smaller table" in left_out(cohort, tmp_path)["ukb1.csv"]


def test_broken_tables(tmp_path):
    rest(tmp_path)
    table = tmp_path / "ukb1.csv"
    table.write_text("name,31-0.0\n1000001,1\n")
    with pytest.raises(CatalogError, match="a column 'eid'"):
        catalog(tmp_path)


def test_what_repeated_rows_agree_on_is_kept(tmp_path):
    rest(tmp_path)
    (tmp_path / "ukb1.csv").write_text("eid,31-0.0,21003-2.0\n1000001,1,61\n1000001,1,62\n")
    cohort = catalog(tmp_path)
    assert cohort.phenotypes["sex"].tolist() == ["M"]
    assert cohort.phenotypes["age"].isna().tolist() == [True]
    assert questioned(cohort, tmp_path) == [("ukb1.csv", f"{Remark.SAME_SUBJECT}: '1000001'")]


def test_an_empty_root_names_the_fields(tmp_path):
    with pytest.raises(CatalogError, match="20227_2_0"):
        catalog(tmp_path)
    with pytest.raises(CatalogError, match="32136_2_0"):
        catalog(tmp_path, input="surface")
