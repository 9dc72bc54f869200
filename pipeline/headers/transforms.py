"""The affine of a NIfTI file: choose between its two transforms, and check the choice.

A header has two transforms, ``sform`` and ``qform``, each with a code of its space. Code 0 means
that the transform is not set. If both are set, the sform is used, as in other software.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.affines import apply_affine
from nibabel.spatialimages import HeaderDataError

from fmritok.errors import RunError, expected

__all__ = ["Transform", "chosen_transform"]

Affine = npt.NDArray[np.float64]

#: Spaces of NIfTI's transform codes.
_SPACES = {1: "scanner", 2: "aligned", 3: "Talairach", 4: "MNI", 5: "template"}
_TALAIRACH = 3
#: Millimetres per unit, by NIfTI's code of the unit of space; 0 is "unknown".
_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_UNIT_NAMES = {1: "metres", 3: "micrometres"}
#: Plausible voxel sizes of functional images, and the largest field of view, mm.
_VOXEL_MM = (0.3, 12.0)
_FIELD_OF_VIEW_MM = 600.0
#: Smallest determinant of the unit directions. Below it, axes are linearly dependent.
_LEAST_VOLUME = 0.5
#: Differences between sform and qform, in voxels: above the first value they are reported, above
#: the second the file is refused. Rounding of quaternions stays far below both.
_NAMED_VOXELS, _REFUSED_VOXELS = 0.05, 0.5
_PIXDIM_TOLERANCE = 0.01
_REPAIR = "Write the transform again with the software that made the file, or leave the run out."


@dataclass(frozen=True)
class Transform:
    """Chosen transform of a file.

    Attributes
    ----------
    affine : np.ndarray of shape (4, 4)
        Voxel indices to mm.
    name : str
        Transform and space, such as ``sform (MNI)``.
    questions : tuple of str
        Doubts about the header.
    """

    affine: Affine
    name: str
    questions: tuple[str, ...] = ()


def chosen_transform(header: Any, shape: Sequence[int], path: Path) -> Transform:
    """Choose the transform of a NIfTI header, and check that it is plausible for a brain image.

    Parameters
    ----------
    header : nibabel.Nifti1Header
    shape : sequence of int
        Shape of one volume.
    path : Path
        File name for errors.

    Raises
    ------
    RunError
        If no transform is set, or it is singular, has implausible voxel sizes, or contradicts the
        other transform.
    """
    codes = {name: int(header[f"{name}_code"]) for name in ("sform", "qform")}
    questions = [
        f"the header's {name}_code is not defined by NIfTI: its {name} is not used"
        for name, code in codes.items()
        if code != 0 and code not in _SPACES
    ]
    _tidy(header)
    known = [name for name, code in codes.items() if code in _SPACES]
    if not known:
        raise _refusal(
            path, "an sform_code or qform_code of 1 to 5",
            f"{codes['sform']} and {codes['qform']}: the position of its voxels is unknown",
            "Write the transform again, as with fslorient or 3drefit, if you know it for sure.",
        )  # fmt: skip
    name = known[0]
    affine = _matrix(header, name)
    if isinstance(affine, str):
        raise _refusal(path, "a valid transform", f"{affine} in its {name}", _REPAIR)
    questions += _contradictions(header, known, affine, shape, path)
    sizes = _sizes(affine)
    if name == "sform":
        pixdim = header["pixdim"][1:4].tolist()
        if not all(abs(a - b) <= _PIXDIM_TOLERANCE * b for a, b in zip(pixdim, sizes, strict=True)):
            questions.append("pixdim has other voxel sizes than the sform: the sform is used")
    if codes[name] == _TALAIRACH:
        questions.append(f"the {name}_code says Talairach space: it is taken for MNI space")
    unit = int(header["xyzt_units"]) & 7
    factor = _MM.get(unit, 1.0)
    if unit not in _MM:
        questions.append("the header's unit of space is not defined by NIfTI: taken for mm")
    elif factor != 1:
        affine = np.diag([factor, factor, factor, 1.0]) @ affine
        questions.append(f"the header counts in {_UNIT_NAMES[unit]}: converted to mm")
    _check_sizes([factor * size for size in sizes], shape, path)
    return Transform(affine, f"{name} ({_SPACES[codes[name]]})", tuple(questions))


def _tidy(header: Any) -> None:
    """Normalize equivalent values of a header: pixdim[0] of 0, negative sizes."""
    if header["pixdim"][0] == 0:
        header["pixdim"][0] = 1
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])


def _matrix(header: Any, name: str) -> Affine | str:
    """Return a transform of the header, or the reason why it is invalid."""
    qfac = float(header["pixdim"][0])
    if name == "qform" and qfac not in (-1, 1):
        return f"{qfac:g} as pixdim[0], which must be 1 or -1"
    try:
        affine = np.asarray(getattr(header, f"get_{name}")(), np.float64)
    except (HeaderDataError, ValueError, ArithmeticError):
        return "an invalid quaternion"
    if not all(map(math.isfinite, affine.ravel().tolist())):
        return "NaN or infinite numbers"
    volume = math.prod(_sizes(affine))
    if volume == 0 or abs(_determinant(affine)) < _LEAST_VOLUME * volume:
        return "linearly dependent axes"
    return affine


def _contradictions(
    header: Any, known: list[str], affine: Affine, shape: Sequence[int], path: Path
) -> list[str]:
    """Compare both transforms if both are set."""
    if len(known) < 2:
        return []
    other = _matrix(header, "qform")
    if isinstance(other, str):
        return ["the qform cannot be read: the sform is used"]
    corners = list(product(*((0, n - 1) for n in shape)))
    gap = np.linalg.norm(apply_affine(affine, corners) - apply_affine(other, corners), axis=1).max()
    voxels = gap / min(_sizes(affine))
    is_mirrored = _determinant(affine) * _determinant(other) < 0
    is_same_space = header["sform_code"] == header["qform_code"]
    if is_mirrored or (is_same_space and voxels > _REFUSED_VOXELS):
        got = "one that mirrors the other" if is_mirrored else f"two that lie {gap:.1f} mm apart"
        raise _refusal(path, "an sform and a qform that agree", got, _REPAIR)
    if voxels > _NAMED_VOXELS:
        return ["sform and qform differ: the sform is used"]
    return []


def _check_sizes(sizes: Sequence[float], shape: Sequence[int], path: Path) -> None:
    """Refuse implausible voxel sizes and fields of view, mm."""
    step = "Correct the header's transform, or its unit (xyzt_units)."
    if min(sizes) < _VOXEL_MM[0] or max(sizes) > _VOXEL_MM[1]:
        got = " x ".join(f"{size:.3g}" for size in sizes)
        raise _refusal(
            path, f"voxels of {_VOXEL_MM[0]:g} to {_VOXEL_MM[1]:g} mm", f"{got} mm", step
        )
    extent = [size * n for size, n in zip(sizes, shape, strict=True)]
    if max(extent) > _FIELD_OF_VIEW_MM:
        got = " x ".join(f"{side:.0f}" for side in extent)
        raise _refusal(path, f"a field of view below {_FIELD_OF_VIEW_MM:g} mm", f"{got} mm", step)


def _sizes(affine: Affine) -> list[float]:
    """Return the voxel sizes as plain numbers: small arrays are slow."""
    return [math.hypot(*column) for column in affine[:3, :3].T.tolist()]


def _determinant(affine: Affine) -> float:
    (a, b, c), (d, e, f), (g, h, i) = affine[:3, :3].tolist()
    return float(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))


def _refusal(path: Path, wanted: str, got: str, next_step: str) -> RunError:
    return RunError(expected("Place of the voxels of", path, wanted, got, next_step))
