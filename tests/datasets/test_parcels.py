"""Cohorts of parcel time courses: the description, ids, times, phenotypes, and what is wrong."""

from __future__ import annotations

import json
import math
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from cohorts import left_out
from parcel_series import series, write_cohort, write_ptseries, write_table, write_text

from fmritok import tokenize
from fmritok.errors import CatalogError
from fmritok.pipeline.datasets import catalog_cohort, default_tokenizers

DESCRIPTION = Path(__file__).parents[2] / "benchmarks" / "learning" / "abide.yaml"


def catalog(root, **options):
    return catalog_cohort("parcels", root, **options)


def describe(root, text):
    root.mkdir(parents=True, exist_ok=True)
    write_table(root)
    (root / "parcels.yaml").write_text(text)
    return root


def test_runs_and_phenotypes_are_as_described(tmp_path):
    write_cohort(tmp_path, ["01", "02"])
    cohort = catalog(tmp_path)
    columns = ["run_id", "subject", "task", "site", "tr", "n_frames", "source", "problem"]
    assert cohort.runs[columns].values.tolist() == [
        ["parcels_sub-01", "01", "rest", "KKI", 2.0, 30, "01_rest.1D", ""],
        ["parcels_sub-02", "02", "rest", "NYU", 2.0, 31, "02_rest.1D", ""],
    ]
    assert cohort.phenotypes[["subject", "sex", "age", "site"]].values.tolist() == [
        ["01", "M", 20.0, "KKI"], ["02", "F", 21.0, "NYU"],
    ]  # fmt: skip
    known = cohort.columns.set_index("column")
    assert known.loc["age", ["unit", "source"]].tolist() == ["years", "people.csv: AGE"]
    assert len(cohort.questioned) == 0
    assert catalog(tmp_path / "parcels.yaml", name="abide").runs["run_id"][0] == "abide_sub-01"


def test_a_cohort_brings_its_tokenizer_and_atlas(tmp_path):
    write_cohort(tmp_path, ["01"])
    atlas = {"atlas": str(tmp_path / "atlas.tsv")}
    assert default_tokenizers("parcels", tmp_path) == {"network": atlas}
    assert default_tokenizers("hcp", tmp_path) == {"vae": {}}


def test_the_description_may_lie_elsewhere(tmp_path):
    write_cohort(tmp_path / "data", ["01"])
    text = (tmp_path / "data" / "parcels.yaml").read_text()
    elsewhere = tmp_path / "mine.yaml"
    text = text.replace("atlas.tsv", "data/atlas.tsv").replace("people.csv", "data/people.csv")
    elsewhere.write_text("root: data\n" + text)
    assert len(catalog(elsewhere).runs) == 1


@pytest.mark.parametrize(
    ("tr", "table", "expected"),
    [
        ("1.5", "", [1.5, 1.5]),
        ("{KKI: 2.5, nyu: 2.0}", "", [2.5, 2.0]),
        ("{table: t.csv, site: SITE, seconds: TR}", "SITE,TR\nKKI,2.5\nNYU,2\nMIT,1\n", [2.5, 2.0]),
        ("{table: t.csv, subject: id, seconds: TR}", "id,TR\nsub-01,3\n02,0.8\n", [3.0, 0.8]),
        ("{table: t.csv, file: f, seconds: TR}", "f,TR\n01_rest.1D,3\n02_rest,0.8\n", [3.0, 0.8]),
    ],
)
def test_repetition_times_of_all_of_sites_and_of_tables(tmp_path, tr, table, expected):
    write_cohort(tmp_path, ["01", "02"], tr=tr)
    (tmp_path / "t.csv").write_text(table)
    cohort = catalog(tmp_path)
    assert cohort.runs["tr"].tolist() == expected
    assert cohort.runs["problem"].tolist() == ["", ""]
    assert catalog(tmp_path, tr=1.25).runs["tr"].tolist() == [1.25, 1.25]


def test_a_missing_repetition_time_says_where_to_give_it(tmp_path):
    write_cohort(tmp_path, ["01", "02"], tr="{KKI: 2.0}")
    assert catalog(tmp_path).runs["problem"][1].startswith("Repetition time of site 'NYU' of")
    write_cohort(tmp_path, ["01", "02"], tr="null")
    problem = catalog(tmp_path).runs["problem"][0]
    assert f"Give it as `tr` in {tmp_path}/parcels.yaml, as RepetitionTime in" in problem
    assert "--tr SECONDS" in problem
    (tmp_path / "01_rest.json").write_text(json.dumps({"RepetitionTime": 0.8}))
    (tmp_path / "02_rest.json").write_text(json.dumps({"SamplingFrequency": 0.5}))
    assert catalog(tmp_path).runs["tr"].tolist() == [0.8, 2.0]


def test_xcp_d_and_ptseries_need_no_more_than_a_pattern(tmp_path):
    stem = "sub-{0}_ses-1_task-rest_space-fsLR_seg-4S_den-91k_stat-mean_timeseries"
    func = tmp_path / "sub-01" / "ses-1" / "func"
    describe(tmp_path, 'pattern: "**/*_stat-mean_timeseries.*"\natlas: atlas.tsv\n')
    write_ptseries(func / (stem.format("01") + ".ptseries.nii"), series(), tr=0.8)
    write_text(tmp_path / (stem.format("02") + ".tsv"), series(), ["b1", "a1", "b2", "a2"])
    (tmp_path / (stem.format("02") + ".json")).write_text('{"RepetitionTime": 0.72}')
    cohort = catalog(tmp_path)
    columns = ["run_id", "session", "task", "tr", "n_frames", "problem"]
    assert cohort.runs[columns].values.tolist() == [
        ["parcels_sub-01_ses-1_task-rest", "1", "rest", 0.8, 30, ""],
        ["parcels_sub-02_ses-1_task-rest", "1", "rest", 0.72, 30, ""],
    ]  # fmt: skip
    assert left_out(cohort, tmp_path) == {}


def test_athena_ids_keep_their_zeros(tmp_path):
    root = describe(
        tmp_path,
        "pattern: '{site}/*/sfnwmrda{subject}_session_{session}_rest_{run}_x_TCs.1D'\n"
        "atlas: atlas.tsv\nid_digits: 7\ntr: {NYU: 2.0}\nphenotypes: people.tsv\n",
    )
    lines = ["File\tSub-brick\tMean_b1\tMean_a1\tMean_b2\tMean_a2"]
    lines += [f"x.nii\t{i}[?]\t" + "\t".join(f"{x:.2f}" for x in row)
              for i, row in enumerate(series())]  # fmt: skip
    for subject in ("0010001", "0010002"):
        folder = root / "NYU" / subject
        folder.mkdir(parents=True)
        name = f"sfnwmrda{subject}_session_1_rest_1_x_TCs.1D"
        (folder / name).write_text("\n".join(lines))
    (root / "people.tsv").write_text("ScanDir ID\tDX\n10001\t0\n10002\t1\n")
    cohort = catalog(root)
    assert cohort.runs[["run_id", "subject", "site", "n_frames", "problem"]].values.tolist() == [
        ["parcels_sub-0010001_ses-1_run-1", "0010001", "NYU", 30, ""],
        ["parcels_sub-0010002_ses-1_run-1", "0010002", "NYU", 30, ""],
    ]
    assert cohort.phenotypes["subject"].tolist() == ["0010001", "0010002"]


def test_bad_runs_are_named_and_the_others_go_on(tmp_path):
    write_cohort(tmp_path, ["01"])
    write_text(tmp_path / "02_rest.1D", series(30, 5))
    write_text(tmp_path / "03_rest.1D", series(4, 30))
    write_text(tmp_path / "04_rest.1D", series(4, 4))
    (tmp_path / "05_rest.1D").write_text("1.5\t2.5\t3.5\t4.5\n1.5\t2.5")
    (tmp_path / "06_rest.1D").write_text("")
    problems = catalog(tmp_path).runs.set_index("subject")["problem"]
    assert problems["01"] == ""
    assert "4 parcels in the columns, as the atlas has, got 5. Give the atlas" in problems["02"]
    assert "got 30. The other axis fits: say `frames: columns`" in problems["03"]
    assert "Say `frames: rows` or `frames: columns`" in problems["04"]
    assert "4 columns in each row, got 2 in row 2 of 2" in problems["05"]
    assert "no row" in problems["06"]


def test_transposed_matrices_are_read_as_described(tmp_path):
    write_cohort(tmp_path, ["01"], more="frames: columns\n")
    write_text(tmp_path / "01_rest.1D", series(4, 30))
    assert catalog(tmp_path).runs[["n_frames", "problem"]].values.tolist() == [[30, ""]]


def test_two_files_of_one_run_are_refused(tmp_path):
    write_cohort(tmp_path, ["01", "02"])
    text = (tmp_path / "parcels.yaml").read_text().replace("{subject}_rest", "**/{subject}_rest")
    (tmp_path / "parcels.yaml").write_text(text)
    write_text(tmp_path / "again" / "01_rest.1D", series())
    problems = catalog(tmp_path).runs.set_index("subject")["problem"]
    assert problems["02"] == ""
    assert "one file, got 01_rest.1D and again/01_rest.1D" in problems["01"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("pattern:", "patern:", "key in .*got 'patern'. Did you mean pattern"),
        ("atlas: atlas.tsv", "", "atlas in .*expected a value, got none"),
        ("atlas.tsv", "atlas2.tsv", "a table of parcels, got .*which is not there"),
        ("tr: 2.0", "tr: 2000", r"seconds, 0.1 to 20, got 2000 \(these look like milliseconds\)"),
        ("tr: 2.0", "tr: fast", "seconds, 0.1 to 20, got 'fast'"),
        ("tr: 2.0", "tr: {table: people.csv, site: SITE}", "`seconds` and one of"),
        ("tr: 2.0", "tr: {table: people.csv, site: SITE, seconds: SEX2}", "a column 'SEX2'"),
        ("tr: 2.0", "tr: {table: people.csv, site: ID, seconds: SITE}", "one number of seconds"),
        ("tr: 2.0", "frames: time", "rows or columns, got 'time'"),
        ("people.csv", "nobody.csv", "one file, got .*nobody.csv, which is not there"),
        ("age: AGE", "age: AGES", "a column 'AGES', for age, got none. Did you mean AGE"),
        ("subject: ID", "subject: IDS", "a column 'IDS'"),
        ("{subject}_rest", "{subject}_task", "expected {subject}_task.1D, got no such file"),
        ("task: rest", "task: [rest", "a YAML file with `pattern` and `atlas`"),
    ],
)
def test_a_wrong_description_is_one_clear_error(tmp_path, old, new, words):
    write_cohort(tmp_path, ["01"])
    text = (tmp_path / "parcels.yaml").read_text()
    assert old in text
    (tmp_path / "parcels.yaml").write_text(text.replace(old, new))
    with pytest.raises(CatalogError, match=words):
        catalog(tmp_path)


def test_a_folder_without_a_description_is_refused(tmp_path):
    with pytest.raises(CatalogError, match=r"parcels.yaml: expected a YAML file .*no such file"):
        catalog(tmp_path)
    write_cohort(tmp_path, ["01"])
    with pytest.raises(CatalogError, match="--input surface for --dataset parcels"):
        catalog(tmp_path, input="surface")


def test_unknown_codes_of_sex_and_missing_values_are_said(tmp_path):
    write_cohort(tmp_path, ["01", "02"], more="  missing: [-9999]\n")
    (tmp_path / "people.csv").write_text(
        "ID,SITE,SEX,AGE,FIQ\n01,KKI,3,20,-9999.0\n02,NYU,1,21,99\n"
    )
    cohort = catalog(tmp_path)
    assert cohort.phenotypes["sex"].tolist() == ["", "M"]
    assert math.isnan(cohort.phenotypes["FIQ"][0])
    assert cohort.questioned["reason"].str.startswith("codes of sex without").any()


def test_real_subjects_of_abide(data, tmp_path):
    """Catalogue the first six of the archive, with the description of the benchmark."""
    with tarfile.open(data / "abide_cc200" / "abide_cc200.tar.xz") as archive:
        for number, one in enumerate(archive):
            one.name = one.name.removeprefix("abide_cc200").lstrip("/")
            if one.isfile() and (number < 8 or one.name.endswith(".csv")):
                archive.extract(one, tmp_path, filter="data")
    for file in (*(data / "abide_cc200").glob("*.csv"), DESCRIPTION):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    cohort = catalog(tmp_path / DESCRIPTION.name, name="abide")
    assert len(cohort.runs) == 6
    assert set(cohort.runs["problem"]) == {""}
    table = pd.read_csv(next(tmp_path.glob("Pheno*"))).set_index("FILE_ID")
    seconds = pd.read_csv(tmp_path / "site_tr.csv").set_index("SITE_ID")["tr_seconds"]
    phenotypes = cohort.phenotypes.set_index("subject")
    for run in cohort.runs.to_dict("records"):
        row, known = table.loc[run["subject"]], phenotypes.loc[run["subject"]]
        assert run["n_frames"] == len(np.loadtxt(run["path"]))
        assert (run["site"], run["tr"]) == (row["SITE_ID"], seconds[row["SITE_ID"]])
        assert run["motion"] == pytest.approx(row["func_mean_fd"])
        assert (known["age"], known["dx_group"]) == (row["AGE_AT_SCAN"], row["DX_GROUP"])
        assert known["sex"] == {1: "M", 2: "F"}[row["SEX"]]
    own = default_tokenizers("parcels", tmp_path / DESCRIPTION.name)
    first = cohort.runs.iloc[0]
    run = tokenize(first["path"], "network", tr=first["tr"], options=own["network"])
    assert run.values.shape[1:] == (200, 1)
    assert run.static["network_distance"].max() < 25


def test_a_dataset_that_is_not_there_is_named_with_those_that_are(tmp_path):

    describe(tmp_path, 'pattern: "{subject}.h5/rest"\natlas: atlas.tsv\ntr: 2.0\n')
    for subject, name in (("01", "rest"), ("02", "task")):
        with h5py.File(tmp_path / f"{subject}.h5", "w") as file:
            file[name] = series()
    runs = catalog(tmp_path).runs
    assert runs["source"].tolist() == ["01.h5/rest", "02.h5/rest"]
    assert runs["problem"][0] == ""
    assert "expected a dataset 'rest', got task. Say in the pattern" in runs["problem"][1]


def test_the_description_in_the_docs_is_that_of_the_benchmark():
    docs = (DESCRIPTION.parents[2] / "docs" / "parcels.md").read_text()
    assert f"```yaml\n{DESCRIPTION.read_text()}```" in docs
