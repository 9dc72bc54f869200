"""Cortical templates on fs_LR 32k: HCP's flat maps, and those of CortexMAE from its own surface."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import FmritokError, expected
from fmritok.pipeline.resources.pinned import GITHUB, PinnedFile
from fmritok.tokenizers.flatmap.cortex import load_template
from fmritok.tokenizers.flatmap.geometry import PUBLISHED
from fmritok.tokenizers.flatmap.pixels import build_flat_grid

__all__ = ["fetch_template", "published_template"]

_HCP = (
    f"{GITHUB}/Washington-University/HCPpipelines/765e72dff8a0365a007cc71c226f3d8a2893320e"
    "/global/templates/standard_mesh_atlases"
)
_BRAINSPACE = (
    f"{GITHUB}/MICA-MNI/BrainSpace/8730de88ae32c4f88eeaf16ef2a6e53c5c32dc34"
    "/brainspace/datasets/surfaces"
)

_GRID = (224, 560)
_SIDES = {"left": "lh", "right": "rh"}
#: Vertices of a hemisphere.
_VERTICES = 32492
#: sha256 of CortexMAE's mask: 224 x 560 bits, row by row, packed; 77,763 of them are 1.
_PUBLISHED_MASK = "1a1e4501382ab8d7d4cfa8c258223ef2224e4be3cbbb0e7fc771c9785c82baba"
#: mm: vertices of pycortex's flat surfaces that are farther from the plane are not flattened.
_FLAT = 1e-5

_TEMPLATE = {
    "left": {
        "flat": PinnedFile(
            "colin.cerebral.L.flat.32k_fs_LR.surf.gii",
            f"{_HCP}/colin.cerebral.L.flat.32k_fs_LR.surf.gii",
            "1862739a2924032a9a19e95efa6024c494094c2f7851ae45b11d6bf2e38dfca4",
        ),
        "midthickness": PinnedFile(
            "conte69_32k_lh.surf.gii",
            f"{_BRAINSPACE}/conte69_32k_lh.gii",
            "227a092f5001d570f331428c22847b23cbced535578dd713b9739e6b9b0e2225",
        ),
        "cortex": PinnedFile(
            "L.atlasroi.32k_fs_LR.shape.gii",
            f"{_HCP}/L.atlasroi.32k_fs_LR.shape.gii",
            "4ac9199dab151ccdc2a35bdddb5bac4f4907da7dfebd90807c09b82e2eb9d512",
        ),
    },
    "right": {
        "flat": PinnedFile(
            "colin.cerebral.R.flat.32k_fs_LR.surf.gii",
            f"{_HCP}/colin.cerebral.R.flat.32k_fs_LR.surf.gii",
            "db135bb704cd4ab0664fc2b4e97abef705f368948e4f514010905e850f9bf005",
        ),
        "midthickness": PinnedFile(
            "conte69_32k_rh.surf.gii",
            f"{_BRAINSPACE}/conte69_32k_rh.gii",
            "3279b4c7f26f0f8919a44f7179653c6c1df112907180395ca69bc63ac234a032",
        ),
        "cortex": PinnedFile(
            "R.atlasroi.32k_fs_LR.shape.gii",
            f"{_HCP}/R.atlasroi.32k_fs_LR.shape.gii",
            "698f46b399f5a89829f83cc697e32dc8841031fbf31ffef75aaaa0c4a16c3015",
        ),
    },
}


def fetch_template(out: Path, source: Path | None = None) -> Path:
    """Fetch the fs_LR 32k flat maps and midthickness surfaces, for CIFTI data.

    Returns
    -------
    Path
        Path of ``template.yaml``, for ``flatmap.template``.
    """
    import yaml

    tree: dict[str, object] = {
        "space": "fsLR", "surface_space": "MNI152", "grid": list(_GRID)
    }  # fmt: skip
    for side, files in _TEMPLATE.items():
        tree[side] = {kind: pinned.bring(out, source).name for kind, pinned in files.items()}
    path = out / "template.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def published_template(
    out: Path, *, surface: Path, cortex: Path, source: Path | None = None
) -> Path:
    """Make the template of CortexMAE: its surface, box, pixels of 1.2 mm and gap of 16 mm.

    Parameters
    ----------
    out : Path
    surface : Path
        Folder of the pycortex subject ``32k_fs_LR`` that CortexMAE uses, or its ``surfaces``.
    cortex : Path
        CIFTI labels of fs_LR 32k, above 0 in cortex: Schaefer's 1,000 parcels.
    source : Path, optional
        Folder with the midthickness surfaces. Nothing is downloaded then.

    Returns
    -------
    Path
        Path of ``template.yaml``, for ``flatmap.template``.

    Raises
    ------
    FmritokError
        If a file is missing, or the pixels are not those of CortexMAE.
    """
    import yaml

    flats = {side: _flat_file(surface, side) for side in _SIDES}
    labelled = _labelled(cortex)
    out.mkdir(parents=True, exist_ok=True)
    box = PUBLISHED.box
    assert box is not None
    tree: dict[str, Any] = {
        "space": "fsLR", "surface_space": "MNI152", "grid": list(_GRID),
        "pixel_mm": PUBLISHED.pixel_mm, "gap_mm": PUBLISHED.gap_mm, "box": list(box),
    }  # fmt: skip
    for side, flat in flats.items():
        target = out / f"{side}.flat.32k_fs_LR.surf.gii"
        shutil.copyfile(flat, target)
        mask = out / f"{side}.cortex.32k_fs_LR.shape.gii"
        _write_mask(mask, labelled[side] & _flattened(flat))
        middle = _TEMPLATE[side]["midthickness"].bring(out, source)
        tree[side] = {"flat": target.name, "midthickness": middle.name, "cortex": mask.name}
    path = out / "template.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    _check_pixels(path)
    return path


def _flat_file(surface: Path, side: str) -> Path:
    name = f"flat_{_SIDES[side]}.gii"
    found = [folder / name for folder in (surface, surface / "surfaces")]
    for path in found:
        if path.is_file():
            return path
    raise FmritokError(
        expected("Surface", surface, f"{name}, as in the folder of a pycortex subject", "none",
                 "Unpack 32k_fs_LR.tar.gz (folder resources of github.com/MedARC-AI/brainmarks), "
                 "and give the folder 32k_fs_LR with --surface.")
    )  # fmt: skip


def _flattened(path: Path) -> npt.NDArray[np.bool_]:
    try:
        points = np.asarray(_loaded(path).agg_data("pointset"))
        if points.shape != (_VERTICES, 3):
            raise ValueError(f"points of shape {points.shape}")
    except Exception as error:  # nibabel raises many kinds
        raise FmritokError(
            expected("Surface", path, f"a GIFTI file with {_VERTICES} points", error,
                     "Give the folder of subject 32k_fs_LR.")
        ) from error  # fmt: skip
    return np.abs(points[:, 2]) < _FLAT


def _labelled(path: Path) -> Mapping[str, npt.NDArray[np.bool_]]:
    """Return the vertices of each hemisphere that have a label."""
    try:
        image = _loaded(path)
        values, axis = np.asarray(image.dataobj)[0], image.header.get_axis(1)
        found = {}
        for side in _SIDES:
            mask = np.zeros(_VERTICES, bool)
            own = axis.name == f"CIFTI_STRUCTURE_CORTEX_{side.upper()}"
            mask[axis.vertex[own]] = values[own] > 0
            found[side] = mask
    except Exception as error:  # nibabel raises many kinds
        raise FmritokError(
            expected("Labels", path, "a dlabel.nii of fs_LR 32k",
                     f"{type(error).__name__}: {error}",
                     "Get Schaefer's 1,000 parcels (CBIG, HCP/fslr32k/cifti), and give the file "
                     "with --cortex.")
        ) from error  # fmt: skip
    return found


def _write_mask(path: Path, mask: npt.NDArray[np.bool_]) -> None:
    import nibabel as nib
    from nibabel.gifti.gifti import GiftiDataArray

    array = GiftiDataArray(mask.astype(np.float32), intent="NIFTI_INTENT_SHAPE")
    nib.save(nib.GiftiImage(darrays=[array]), path)


def _loaded(path: Path) -> Any:
    import nibabel as nib

    return nib.load(path)


def _check_pixels(path: Path) -> None:
    """Compare the pixels of a template with the published ones."""
    flat = build_flat_grid(load_template(str(path)))
    mask = np.zeros(_GRID[0] * _GRID[1], bool)
    mask[flat.pixel] = True
    if hashlib.sha256(np.packbits(mask).tobytes()).hexdigest() != _PUBLISHED_MASK:
        raise FmritokError(
            expected("Template", path, "the 77,763 pixels in 364 cells of CortexMAE",
                     f"{len(flat.pixel)} pixels in {len(flat.cell)} cells, or others",
                     "Give its own surface (pycortex subject 32k_fs_LR) and Schaefer's 1,000 "
                     "parcels. Released weights cannot read other tokens.")
        )  # fmt: skip
