"""Small runs for tests: a grid of 10 mm that holds the MNI brain, in every kind of file."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import cifti2

SHAPE = (15, 18, 15)
AFFINE = np.diag([10.0, 10.0, 10.0, 1.0])
AFFINE[:3, 3] = (-70, -100, -60)
#: Where fields of a NIfTI-1 header lie, and how.
FIELDS = {
    "sizeof_hdr": (0, "<i"), "dim": (40, "<8h"), "intent_code": (68, "<h"), "datatype": (70, "<h"),
    "bitpix": (72, "<h"), "pixdim0": (76, "<f"), "pixdim": (80, "<3f"), "tr": (92, "<f"),
    "vox_offset": (108, "<f"), "scl_slope": (112, "<f"), "scl_inter": (116, "<f"),
    "xyzt_units": (123, "<B"), "toffset": (136, "<f"), "qform_code": (252, "<h"),
    "sform_code": (254, "<h"), "quatern": (256, "<3f"), "qoffset": (268, "<3f"),
    "srow_x": (280, "<4f"), "srow_y": (296, "<4f"), "magic": (344, "<4s"),
}  # fmt: skip
NAME = "sub-{sub}_task-rest_space-MNI152NLin6Asym_desc-preproc_bold"


def series(frames: int = 4, *, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return noise around a mean of its own in every voxel."""
    rng = np.random.default_rng(seed)
    base = 500 + 300 * rng.random((*shape, 1))
    return (base + 40 * rng.standard_normal((*shape, frames))).astype(np.float32)


def write_image(
    path: Path,
    values: np.ndarray | None = None,
    *,
    affine: np.ndarray = AFFINE,
    tr: float = 2.0,
    codes: tuple[int, int] = (4, 4),
    kind: type = nib.Nifti1Image,
    **fields: object,
) -> Path:
    """Write a run; ``fields`` of its header are replaced in the file, byte by byte."""
    values = series() if values is None else values
    image = kind(values, affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    if values.ndim > 3:
        sizes = image.header.get_zooms()[:3]
        image.header.set_zooms((*sizes, tr, *[1.0] * (values.ndim - 4)))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    if fields:
        change(path, lambda content: replaced(content, **fields))
    return path


def replaced(content: bytes, **fields: object) -> bytes:
    """Return the bytes of a NIfTI-1 file with fields of its header replaced."""
    changed = bytearray(content)
    for name, value in fields.items():
        at, kind = FIELDS[name]
        many = value if isinstance(value, tuple) else (value,)
        changed[at : at + struct.calcsize(kind)] = struct.pack(kind, *many)
    return bytes(changed)


def change(path: Path, edit: Callable[[bytes], bytes]) -> Path:
    """Change the unpacked bytes of a file."""
    if path.suffix != ".gz":
        path.write_bytes(edit(path.read_bytes()))
        return path
    path.write_bytes(gzip.compress(edit(gzip.decompress(path.read_bytes())), 1))
    return path


def bids_path(root: Path, sub: str = "01", extension: str = ".nii.gz") -> Path:
    """Return where the volumes of a subject's run belong in a tree of fMRIPrep."""
    return root / f"sub-{sub}" / "func" / (NAME.format(sub=sub) + extension)


def write_pair(
    root: Path, left: np.ndarray, right: np.ndarray, *, sub: str = "01", tr: float | None = 2.0
) -> tuple[Path, Path]:
    """Write a pair of GIFTI files (frames, vertices) into a tree of fMRIPrep."""
    paths = []
    for side, values in (("L", left), ("R", right)):
        arrays = [nib.gifti.GiftiDataArray(np.asarray(v, np.float32)) for v in values]
        path = (
            root / f"sub-{sub}/func/sub-{sub}_task-rest_hemi-{side}_space-fsaverage5_bold.func.gii"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.gifti.GiftiImage(darrays=arrays), path)
        if tr is not None:
            path.with_name(path.name.replace(".func.gii", ".json")).write_text(
                f'{{"RepetitionTime": {tr}}}'
            )
        paths.append(path)
    return paths[0], paths[1]


def grayordinates(path, *, unit="SECOND", step=2.0, start=0.0, exponent=0):
    vertices = [
        cifti2.BrainModelAxis.from_surface(np.arange(5), 32492, f"CIFTI_STRUCTURE_CORTEX_{side}")
        for side in ("LEFT", "RIGHT")
    ]
    axes = (cifti2.SeriesAxis(start, step, 4, unit), vertices[0] + vertices[1])
    image = cifti2.Cifti2Image(np.random.default_rng(0).random((4, 10), np.float32), axes)
    image.header.matrix.get_index_map(0).series_exponent = exponent
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


def with_both(path, sform, qform, codes):
    """Write a file with two transforms."""
    image = nib.Nifti1Image(series(), None)
    image.header.set_sform(sform, codes[0])
    image.header.set_qform(qform, codes[1])
    image.header.set_zooms((*nib.affines.voxel_sizes(sform), 2.0))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def moved(mm):
    affine = AFFINE.copy()
    affine[0, 3] += mm
    return affine
