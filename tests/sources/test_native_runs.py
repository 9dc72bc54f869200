"""A real native run, zipped like UK Biobank's, through its warp to the tokens of the MNI run."""

from __future__ import annotations

import zipfile

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from fmritok.cli import main
from fmritok.pipeline.store.reader import TokenStore

FSL = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
FRAMES = 40
OPTIONS = ("--tokenizer", "network", "--tokenizer", "flatmap", "--set", "network.band=null",
           "--executor", "serial")  # fmt: skip


def fsl_warp(native: nib.Nifti1Image, to_native: np.ndarray) -> nib.Nifti1Image:
    """Write an affine from MNI to native mm as the relative warp that FSL would make of it."""
    shape = (91, 109, 91)
    ijk = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    mm = ijk @ FSL[:3, :3].T + FSL[:3, 3]
    world = mm @ to_native[:3, :3].T + to_native[:3, 3]
    inverse = np.linalg.inv(native.affine)
    voxel = world @ inverse[:3, :3].T + inverse[:3, 3]
    if np.linalg.det(native.affine) > 0:
        voxel[..., 0] = native.shape[0] - 1 - voxel[..., 0]
    displacement = voxel * np.array(native.header.get_zooms()[:3]) - ijk * 2.0
    image = nib.Nifti1Image(displacement.astype(np.float32), FSL)
    image.header["intent_code"] = 2006
    return image


@pytest.fixture(scope="module")
def biobank(data, tmp_path_factory):
    """Zip the first frames of the real native run, with the warp of its real registration."""
    whole = nib.load(next((data / "bold_native").glob("sub-sf02*bold.nii.gz")))
    native = whole.slicer[..., :FRAMES]
    to_native = np.loadtxt(next((data / "bold_mni").glob("sub-sf02*affine.txt")))
    folder = tmp_path_factory.mktemp("unpacked")
    nib.save(native, folder / "run.nii.gz")
    nib.save(fsl_warp(native, to_native), folder / "warp.nii.gz")
    root = tmp_path_factory.mktemp("ukb")
    with zipfile.ZipFile(root / "1000001_20227_2_0.zip", "w") as archive:
        ica = "fMRI/rfMRI.ica"
        archive.write(folder / "run.nii.gz", f"{ica}/filtered_func_data_clean.nii.gz")
        archive.write(folder / "warp.nii.gz", f"{ica}/reg/example_func2standard_warp.nii.gz")
    return root


def tokenize(dataset, root, store):
    arguments = ["tokenize", "--dataset", dataset, "--root", root, "--store", store, *OPTIONS]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return TokenStore(store)


def test_the_warped_run_gives_the_tokens_of_the_resampled_one(biobank, data, tmp_path):
    """Same scan, two ways: our warp of the native file, and a resampling made by other software."""
    from cohorts import real_derivatives

    warped = tokenize("ukb", biobank, tmp_path / "a.zarr")
    derivatives = real_derivatives(tmp_path / "fp", data)
    (run,) = derivatives.rglob("*preproc_bold.nii.gz")
    first = nib.load(run).slicer[..., :FRAMES]
    run.unlink()
    nib.save(first, run)
    resampled = tokenize("bids", derivatives, tmp_path / "b.zarr")
    for group, least in (("network", 0.85), ("flatmap", 0.6)):
        ours = warped.group(group).values("ukb_1000001_2_rest")
        theirs = resampled.group(group).values("bids_sub-sf02_task-oneback")
        assert ours.shape == theirs.shape
        a, b = (x.reshape(FRAMES, -1) for x in (ours, theirs))
        both = (a.std(axis=0) > 0) & (b.std(axis=0) > 0)
        r = (a[:, both] * b[:, both]).mean(axis=0) / (a[:, both].std(0) * b[:, both].std(0))
        assert np.median(r) > least, group
        # Not a coincidence of anything slow: another column does not fit.
        assert abs(np.median((a[:, both] * np.roll(b[:, both], 40, axis=1)).mean(axis=0))) < 0.4


def test_without_its_warp_the_native_run_is_refused(biobank, tmp_path):
    path, root = next(biobank.glob("*.zip")), tmp_path / "ukb"
    root.mkdir()
    with zipfile.ZipFile(path) as archive:
        run = archive.read("fMRI/rfMRI.ica/filtered_func_data_clean.nii.gz")
    with zipfile.ZipFile(root / path.name, "w") as archive:
        archive.writestr("fMRI/rfMRI.ica/filtered_func_data_clean.nii.gz", run)
    arguments = ["tokenize", "--dataset", "ukb", "--root", root, "--store", tmp_path / "t.zarr"]
    result = CliRunner().invoke(main, [*map(str, arguments), *OPTIONS])
    assert result.exit_code == 1
    assert "example_func2standard_warp.nii.gz" in result.output
