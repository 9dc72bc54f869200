"""The two real runs that benchmarks measure errors on: one scan, in native and in MNI space."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from fmritok.pipeline.sources.opening import RunFiles
from fmritok.pipeline.sources.volumes import RunVolumes

__all__ = ["data_folder", "real_runs"]

_SHAPE = (91, 109, 91)
_AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])


def data_folder() -> Path:
    """Return the folder of real data."""
    return Path(os.environ.get("FMRITOK_TEST_DATA", "../shared/data"))


def real_runs() -> Iterator[tuple[str, RunVolumes]]:
    """Yield name and volumes: 156 frames through a warp, then 100 frames resampled elsewhere."""
    data = data_folder()
    path = next((data / "bold_native").glob("sub-sf02*bold.nii.gz"))
    to_native = np.loadtxt(next((data / "bold_mni").glob("sub-sf02*affine.txt")))
    with tempfile.TemporaryDirectory() as scratch:
        warp = Path(scratch) / "warp.nii.gz"
        nib.save(_fsl_warp(nib.load(path), to_native), warp)
        yield "native", RunVolumes.read(RunFiles(path, warp=warp), voxel_statistics=True)
    path = next((data / "bold_mni").glob("sub-sf02*res-3*bold.nii.gz"))
    yield "MNI", RunVolumes.read(path, voxel_statistics=True)


def _fsl_warp(native: nib.Nifti1Image, to_native: np.ndarray) -> nib.Nifti1Image:
    """Write an affine from MNI to native mm as a relative warp of FSL."""
    ijk = np.stack(np.meshgrid(*map(np.arange, _SHAPE), indexing="ij"), axis=-1)
    world = nib.affines.apply_affine(to_native @ _AFFINE, ijk)
    voxel = nib.affines.apply_affine(np.linalg.inv(native.affine), world)
    if np.linalg.det(native.affine) > 0:
        voxel[..., 0] = native.shape[0] - 1 - voxel[..., 0]
    displacement = voxel * np.array(native.header.get_zooms()[:3]) - ijk * 2.0
    image = nib.Nifti1Image(displacement.astype(np.float32), _AFFINE)
    image.header["intent_code"] = 2006
    return image
