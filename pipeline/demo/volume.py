"""One simulated run as a compressed NIfTI file, written block by block."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip
from scipy import sparse

from fmritok.pipeline.demo.anatomy import (
    AFFINE,
    GRAND_MEAN,
    GRID,
    Anatomy,
    SubjectAnatomy,
    smooth_fields,
)
from fmritok.pipeline.demo.config import DemoConfig
from fmritok.pipeline.demo.population import Subject, stream
from fmritok.pipeline.demo.signals import NUISANCE, RunSignals, run_key

__all__ = ["DESCRIPTION", "SLOPE", "nifti_header", "write_volume"]

DESCRIPTION = "fmritok simulated"
SLOPE = 4.0
BLOCK_FRAMES = 16
_NOISE = 11


def nifti_header(config: DemoConfig) -> bytes:
    """Return the header, 352 bytes: int16 with a slope of 4, MNI space, mm and s."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((*GRID, config.frames))
    header.set_zooms((2.0, 2.0, 2.0, config.tr))
    header.set_xyzt_units("mm", "sec")
    header.set_sform(AFFINE, code="mni")
    header.set_qform(AFFINE, code="mni")
    header.set_slope_inter(SLOPE, 0.0)
    header["descrip"] = DESCRIPTION.encode()
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return header.binaryblock + bytes(4)


def write_volume(
    path: Path,
    config: DemoConfig,
    subject: Subject,
    run: str,
    anatomy: Anatomy,
    brain: SubjectAnatomy,
    signals: RunSignals,
) -> None:
    """Write one run under a temporary name, then rename it.

    The voxels are a pure function of `config`, the subject's index and the run's name. Memory is
    about 200 MB at any number of frames.

    Parameters
    ----------
    path : Path
        ``.nii.gz`` file to write, in a folder that exists.
    config : DemoConfig
    subject : Subject
    run : str
        HCP run name.
    anatomy : Anatomy
    brain : SubjectAnatomy
        The subject's mean image.
    signals : RunSignals
        Time courses of the run.
    """
    rng = stream(config, _NOISE, subject.index, run_key(run))
    maps = _maps(anatomy, brain, smooth_fields(anatomy, rng, len(NUISANCE)))
    courses = _courses(signals)
    inside = brain.mean > 0
    deviation = np.where(inside, config.noise_percent / 100 * GRAND_MEAN, 0).astype(np.float32)
    frame = np.zeros((BLOCK_FRAMES, int(np.prod(GRID))), dtype="<i2")
    part = path.with_name(f".{path.name}.part")
    try:
        with (
            part.open("wb") as raw,
            igzip.IGzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as file,
        ):
            file.write(nifti_header(config))
            for start in range(0, config.frames, BLOCK_FRAMES):
                varying = (maps @ courses[start : start + BLOCK_FRAMES].T).T
                for row, values in zip(frame, varying, strict=False):
                    noise = rng.standard_normal(len(values), dtype=np.float32)
                    stored = (values + brain.mean + deviation * noise) / np.float32(SLOPE)
                    # 0 is the background: voxels of the brain are at least 1.
                    row[anatomy.flat] = np.where(inside, np.clip(np.rint(stored), 1, 32767), 0)
                    file.write(row.tobytes())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _maps(
    anatomy: Anatomy, brain: SubjectAnatomy, fields: npt.NDArray[np.float32]
) -> sparse.csr_matrix:
    """Return the weight of each time course of `_courses` in each voxel, in intensities."""
    scaled = (brain.mean * brain.grey)[:, None] * anatomy.roi_weight
    columns = [scaled, (fields * brain.mean).T, brain.gradient, brain.mean[:, None]]
    data = np.concatenate(columns, axis=1)
    n_voxels, width = data.shape
    n_rois = len(anatomy.roi_network)
    others = np.arange(n_rois, n_rois + width - scaled.shape[1], dtype=np.int32)
    indices = np.concatenate(
        [anatomy.roi_index, np.broadcast_to(others, (n_voxels, len(others)))], axis=1
    )
    starts = np.arange(0, n_voxels * width + 1, width)
    shape = (n_voxels, n_rois + len(others))
    return sparse.csr_matrix((data.ravel(), indices.ravel(), starts), shape=shape)


def _courses(signals: RunSignals) -> npt.NDArray[np.float32]:
    """Return time courses of regions, nuisance fields, translation and spikes, (n_frames, n)."""
    parts = [signals.rois, signals.nuisance, signals.translation, signals.spike[:, None]]
    return np.concatenate(parts, axis=1).astype(np.float32)
