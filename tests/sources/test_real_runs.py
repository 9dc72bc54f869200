"""Every real run of the test data, in every space, through every tokenizer that takes it."""

from __future__ import annotations

import nibabel as nib
import pytest
from click.testing import CliRunner
from cohorts import real_tree

from fmritok.cli import main
from fmritok.pipeline.resources.fetching import fetch_atlas
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.verify import verify_store

ALL = ("--tokenizer", "vae", "--tokenizer", "flatmap", "--tokenizer", "network")
SHORT = ("--set", "network.band=null", "--set", "network.tr=null")
ONE, TWO = "hcp_100002_rfMRI_REST1_LR", "hcp_100003_rfMRI_REST1_LR"


@pytest.fixture(scope="module")
def atlas(data, tmp_path_factory):
    folder, files = tmp_path_factory.mktemp("atlas"), data / "atlases"
    return fetch_atlas(
        folder, files / "derived_Buckner7_LooseMask_MNI2mm91x109x91.nii.gz", files
    )  # fmt: skip


def tokenize(dataset, root, store, *more):
    arguments = ["tokenize", "--dataset", dataset, "--root", root, "--store", store,
                 "--executor", "serial", *more]  # fmt: skip
    return CliRunner().invoke(main, [str(a) for a in arguments])


def checked(result, store):
    assert result.exit_code == 0, result.output
    opened = TokenStore(store)
    assert list(verify_store(opened.location)) == []
    return opened


def test_both_mni_runs_through_all_three(data, tmp_path, weights, atlas):
    result = tokenize("hcp", real_tree(tmp_path / "hcp", data, frames=4), tmp_path / "t.zarr",
                      "--weights", weights, *ALL, "--set", f"network.atlas={atlas}",
                      *SHORT)  # fmt: skip
    store = checked(result, tmp_path / "t.zarr")
    seconds = {ONE: 2.0, TWO: 1.5}
    for name in ("vae", "flatmap", "network"):
        group = store.group(name)
        assert dict(zip(group.runs["run_id"], group.runs["tr"], strict=True)) == seconds
        for run_id in (ONE, TWO):
            values = group.values(run_id)
            assert values.shape == (4, group.n_tokens, group.dim)
            assert values.std(axis=0).max() > 0
    row = int(store.group("network").run(TWO)["row"])
    coverage = store.group("network").array("coverage", row)
    assert 0 < (coverage < 0.5).sum() < len(coverage) / 2, "a slab that leaves the lower brain out"


def test_grayordinates_through_flat_map_and_parcels(data, tmp_path, fslr, atlas):
    result = tokenize("hcp", real_tree(tmp_path / "hcp", data), tmp_path / "t.zarr",
                      "--input", "surface", "--tokenizer", "flatmap", "--tokenizer", "network",
                      "--set", f"flatmap.template={fslr}", "--set", f"network.atlas={atlas}",
                      *SHORT)  # fmt: skip
    store = checked(result, tmp_path / "t.zarr")
    assert store.group("flatmap").values(ONE).shape == (16, 328, 256)
    assert store.group("network").values(ONE).shape == (16, 457, 1)
    assert (store.group("network").array("coverage", 0) > 0.99).mean() > 0.95


def test_a_gifti_pair_through_the_flat_map(data, tmp_path):
    func = tmp_path / "fp" / "sub-sf02" / "func"
    func.mkdir(parents=True)
    (tmp_path / "fp" / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1"}')
    for h in ("L", "R"):
        path = next((data / "gifti_func").glob(f"*hemi-{h}*.gii"))
        name = f"sub-sf02_task-oneback_hemi-{h}_space-fsaverage5_bold.func.gii"
        (func / name).symlink_to(path.absolute())
    (func / "sub-sf02_task-oneback_bold.json").write_text('{"RepetitionTime": 2.0}')
    result = tokenize("bids", tmp_path / "fp", tmp_path / "t.zarr", "--input", "surface",
                      "--tokenizer", "flatmap")  # fmt: skip
    store = checked(result, tmp_path / "t.zarr")
    assert store.group("flatmap").values("bids_sub-sf02_task-oneback").shape == (16, 108, 256)
    refused = tokenize("bids", tmp_path / "fp", tmp_path / "t.zarr", "--input", "surface",
                       "--tokenizer", "network", *SHORT)  # fmt: skip
    assert refused.exit_code == 1
    assert "a column cifti_image" in refused.output


def test_three_millimetres_through_all_three(data, tmp_path, weights):
    """Another grid and another MNI template: the volumes are resampled, and the record says so."""
    from fmritok.pipeline.store.records import read_record

    func = tmp_path / "fp" / "sub-sf02" / "func"
    func.mkdir(parents=True)
    image = nib.load(next((data / "bold_mni").glob("sub-sf02*res-3*bold.nii.gz")))
    name = "sub-sf02_task-oneback_space-MNI152NLin2009cAsym_res-3_desc-preproc_bold.nii.gz"
    nib.save(image.slicer[..., :4], func / name)
    result = tokenize("bids", tmp_path / "fp", tmp_path / "t.zarr", "--weights", weights,
                      *ALL, *SHORT)  # fmt: skip
    store = checked(result, tmp_path / "t.zarr")
    run_id = "bids_sub-sf02_task-oneback"
    described = {n: read_record(store.location, n, run_id).placement for n in store.groups}
    assert described["vae"].startswith("resampled: 64x76x64 RAS at 3x3x3 mm, trilinear")
    assert described["flatmap"].startswith("volumes of 64x76x64 voxels of 3x3x3 mm, map ")
    assert store.group("vae").runs["space"].tolist() == ["MNI152NLin2009cAsym"]
    sentence = "runs in MNI152NLin2009cAsym (1), template in MNI152NLin6Asym: 1.6 mm apart"
    output = " ".join(result.output.split())
    assert f"flatmap: {sentence}" in output
    assert f"vae: {sentence}" not in output
    spaces = store.group("flatmap").notes["spaces"]
    assert spaces["template"] == "MNI152NLin6Asym"
    assert spaces["apart"]["MNI152NLin2009cAsym"] == {
        "runs": 1, "median_mm": 1.6, "percentile_95_mm": 3.0
    }  # fmt: skip


def test_native_runs_are_refused_with_the_right_words(data, tmp_path, weights):
    folder = tmp_path / "hcp" / "100002" / "MNINonLinear" / "Results" / "rfMRI_REST1_LR"
    folder.mkdir(parents=True)
    path = next((data / "bold_native").glob("sub-sf02*bold.nii.gz"))
    (folder / "rfMRI_REST1_LR.nii.gz").symlink_to(path.absolute())
    for tokenizer in ("vae", "flatmap", "network"):
        result = tokenize("hcp", tmp_path / "hcp", tmp_path / f"{tokenizer}.zarr",
                          "--weights", weights, "--tokenizer", tokenizer)  # fmt: skip
        assert result.exit_code == 1
        assert (
            "expected a volume in MNI space, got an oblique grid, as in native space"
            in result.output
        )
        assert "Warp the run to MNI 2 mm first" in result.output


def test_surfaces_are_nothing_for_the_autoencoder(data, tmp_path):
    result = tokenize("hcp", real_tree(tmp_path / "hcp", data), tmp_path / "t.zarr",
                      "--input", "surface")  # fmt: skip
    assert result.exit_code == 2
    assert "Tokenizer vae: expected volumes, got --input surface" in result.output
