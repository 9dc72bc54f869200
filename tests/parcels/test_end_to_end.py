"""Parcel time courses become the same tokens from every format, and go on like volumes do."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from parcel_series import NAMES, series, write_cohort, write_ptseries, write_table, write_text
from tiny import fmritok

import fmritok as package
from fmritok.errors import RunError

#: No filter and no resampling.
PLAIN = ("--set", "network.band=null", "--set", "network.tr=null")
#: Columns of the atlas sorted by network: beta, alpha.
ORDER = [0, 2, 1, 3]


def z(values):
    return (values - values.mean(0)) / values.std(0)


def tokenize(root, store, *more):
    return fmritok("tokenize", "--dataset", "parcels", "--root", root, "--store", store,
                   "--executor", "serial", *more)  # fmt: skip


def write_all_formats(root):
    """Write the same time courses in eight ways, and one description of each."""
    values = series()
    shuffled = [3, 1, 0, 2]
    write_table(root)
    write_text(root / "01_x.1D", values)
    write_text(root / "02_x.tsv", values[:, shuffled], [NAMES[i] for i in shuffled])
    write_text(root / "03_x.csv", values, ["Mean_" + n for n in NAMES], ",")
    np.save(root / "04_x.npy", values)
    with h5py.File(root / "all.h5", "w") as file:
        file["05/x"] = values
        file["06/x"] = values
    write_ptseries(root / "07_x.ptseries.nii", values)
    write_text(root / "08_x_TCs.1D", values, NAMES)
    (root / "parcels.yaml").write_text(
        "pattern: ['{subject}_x.*', '{subject}_x_TCs.1D', 'all.h5/{subject}/x']\n"
        "atlas: atlas.tsv\ntr: 2.0\n"
    )
    return values


def test_every_format_gives_the_same_tokens(tmp_path):
    values = write_all_formats(tmp_path / "cohort")
    store = tmp_path / "tokens.zarr"
    done = tokenize(tmp_path / "cohort", store, *PLAIN)
    assert done.exit_code == 0, done.output
    group = package.open_store(store)["network"]
    assert sorted(group) == [f"parcels_sub-0{i}" for i in range(1, 9)]
    assert group.provenance["layout"]["parcels"] == ["b1", "b2", "a1", "a2"]
    assert group.provenance["layout"]["networks"] == ["beta", "alpha"]
    for run_id in group:
        np.testing.assert_allclose(group[run_id][:, :, 0], z(values)[:, ORDER], atol=2e-3)
    again = tokenize(tmp_path / "cohort", store, *PLAIN)
    assert again.exit_code == 0
    assert "0 runs" in again.output
    assert fmritok("verify", "--store", store).exit_code == 0


def test_missing_parcels_are_recorded_and_damage_is_refused(tmp_path):
    root, store = tmp_path / "cohort", tmp_path / "tokens.zarr"
    write_cohort(root, ["01", "02", "03", "04", "05", "06"])
    whole = series()
    lacking = whole.copy()
    lacking[:, 1] = np.nan
    lacking[:, 2] = 7.25
    write_text(root / "02_rest.1D", lacking)
    write_text(root / "03_rest.1D", whole[:, [0, 1, 3]], ["b1", "a1", "a2"])
    holes = whole.copy()
    holes[5, 0] = np.nan
    write_text(root / "04_rest.1D", holes)
    write_text(root / "05_rest.1D", np.full((30, 4), 3.0))
    write_text(root / "06_rest.1D", whole, ["b1", "a1", "b2", "x9"])
    done = tokenize(root, store, *PLAIN)
    assert done.exit_code == 1
    group = package.open_store(store)["network"]
    runs = group.all_runs.set_index("subject")
    assert runs["status"].to_dict() == dict.fromkeys(["01", "02", "03"], "done") | dict.fromkeys(
        ["04", "05", "06"], "failed"
    )
    samples = {run["subject"]: group.array("samples", run["row"]).tolist()
               for run in group.runs.to_dict("records")}  # fmt: skip
    assert samples["01"] == [1, 1, 1, 1]
    assert samples["02"] == [1, 0, 0, 1]  # b1, b2, a1, a2: constant b2, NaN a1
    assert samples["03"] == [1, 0, 1, 1]
    assert "1 NaN parcels that are finite in other frames" in runs.loc["04", "reason"]
    assert "vary over time" in runs.loc["05", "reason"]
    assert "got 'x9'" in runs.loc["06", "reason"]


def test_other_tokenizers_refuse_parcels_in_one_sentence(tmp_path, weights):
    write_cohort(tmp_path / "cohort", ["01"])
    for name in ("vae", "flatmap"):
        refused = tokenize(tmp_path / "cohort", tmp_path / "tokens.zarr", "--tokenizer", name,
                           "--weights", weights)  # fmt: skip
        assert refused.exit_code == 2
        assert f"Tokenizer {name}: expected volumes" in refused.output
        assert "got time courses of parcels. Choose --tokenizer network." in refused.output
    assert not (tmp_path / "tokens.zarr").exists()


def test_plan_and_inspect_know_parcels(tmp_path):
    root, store = tmp_path / "cohort", tmp_path / "tokens.zarr"
    write_cohort(root, ["01", "02"])
    planned = fmritok("plan", "--dataset", "parcels", "--root", root, "--store", store, "--json",
                      *PLAIN)  # fmt: skip
    (plan,) = json.loads(planned.stdout)
    assert (plan["group"], plan["runs"], plan["frames"]) == ("network", 2, 61)
    assert plan["seconds"] is not None
    assert tokenize(root, store, *PLAIN, "--name", "mine").exit_code == 0
    shown = fmritok("inspect", "--store", store, "--json")
    found = json.loads(shown.stdout)
    assert found["groups"]["network"]["runs"] == {"done": 2}
    assert [run["run_id"] for run in found["runs"]] == ["mine_sub-01", "mine_sub-02"]


def test_a_changed_file_is_refused_until_redo(tmp_path):
    root, store = tmp_path / "cohort", tmp_path / "tokens.zarr"
    write_cohort(root, ["01"])
    assert tokenize(root, store, *PLAIN).exit_code == 0
    write_text(root / "01_rest.1D", series(seed=9))
    assert "--redo" in tokenize(root, store, *PLAIN).output
    assert tokenize(root, store, *PLAIN, "--redo", "changed").exit_code == 0
    tokens = package.open_store(store)["network"]["parcels_sub-01"][:, :, 0]
    np.testing.assert_allclose(tokens, z(series(seed=9))[:, ORDER], atol=2e-3)


def test_arrays_tables_and_files_from_python(tmp_path, weights):
    values = write_all_formats(tmp_path)
    options = {"atlas": str(tmp_path / "atlas.tsv"), "band": None, "tr": None}
    table = pd.DataFrame(values, columns=NAMES)[NAMES[::-1]]
    files = ("01_x.1D", "02_x.tsv", "03_x.csv", "04_x.npy", "07_x.ptseries.nii", "all.h5/05/x")
    for source in (values, table, pd.DataFrame(values), *(tmp_path / name for name in files)):
        run = package.tokenize(source, "network", tr=2.0, options=options)
        np.testing.assert_allclose(run.values[:, :, 0], z(values)[:, ORDER], atol=1e-4)
        assert run.arrays["samples"].tolist() == [1, 1, 1, 1]
    with pytest.raises(RunError, match="4 parcels, got time courses of 30"):
        package.tokenize(values.T, "network", tr=2.0, options=options)
    with pytest.raises(RunError, match="expected volumes or surfaces, got time courses of 4"):
        package.tokenize(values, "flatmap", tr=2.0)
    with pytest.raises(RunError, match="volumes, which time courses of 4 parcels are not"):
        package.tokenize(tmp_path / "01_x.1D", "vae", tr=2.0, options={"weights": weights})


def test_an_encoder_trained_on_parcels_embeds_time_courses_of_its_atlas(tmp_path):
    root, store, out = tmp_path / "cohort", tmp_path / "tokens.zarr", tmp_path / "training"
    write_cohort(root, [f"{i:02d}" for i in range(6)], frames=40)
    assert tokenize(root, store, *PLAIN).exit_code == 0
    trained = fmritok(
        "train", "--store", store, "--out", out, "--recipe", "tiny", "--set", "train.steps=2",
        "--set", "data.window=8", "--set", "model.width=16", "--set", "model.layers=1",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    encoder = package.load_encoder(out)
    of_array = encoder.embed(series(40), tr=2.0)
    write_text(tmp_path / "run.tsv", series(40), NAMES)
    of_file = encoder.embed(tmp_path / "run.tsv", tr=2.0)
    assert of_array.pooled.shape == (2 * encoder.width,)
    np.testing.assert_allclose(of_file.pooled, of_array.pooled, atol=1e-6)
    with pytest.raises(RunError, match="4 parcels, got time courses of 3"):
        encoder.embed(series(40, 3), tr=2.0)
    write_table(root, ["b1", "a1", "b2", "z9"])
    options = {"atlas": str(root / "atlas.tsv"), "band": None, "tr": None}
    other = package.tokenize(series(40), "network", tr=2.0, options=options)
    with pytest.raises(package.FmritokError, match="as it was trained"):
        encoder.embed(other)
