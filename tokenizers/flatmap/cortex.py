"""Cortical templates: the flat, white and pial surfaces of both hemispheres.

nilearn ships fsaverage5. Any other template is a folder with a description file::

    # template.yaml
    space: fsLR
    grid: [224, 560]           # pixels of the flat map, rows and columns, multiples of 16
    left:
      flat: L.flat.32k_fs_LR.surf.gii
      midthickness: L.midthickness.32k_fs_LR.surf.gii    # or white: and pial:
      cortex: L.atlasroi.32k_fs_LR.shape.gii             # optional: 1 in cortex, 0 elsewhere
    right: ...
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import FmritokError, expected
from fmritok.regular import check_regular

__all__ = ["EMBEDDED_TEMPLATE", "CortexTemplate", "Hemisphere", "load_template"]

EMBEDDED_TEMPLATE = "fsaverage5"
_EMBEDDED_GRID = (128, 272)
_SURFACES = ("flat", "white", "pial", "midthickness", "cortex")

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Hemisphere:
    """Surfaces of one hemisphere. All have the same vertices.

    Attributes
    ----------
    flat : np.ndarray of shape (n_vertices, 2), float64
        Position on the flat map, mm; anterior outwards, superior up.
    faces : np.ndarray of shape (n_faces, 3), int64
        Triangles of the flat map. The map has cuts and no medial wall.
    inner, outer : np.ndarray of shape (n_vertices, 3), float64
        White and pial surface, mm, MNI. Both are the midthickness surface if only that is known.
    cortex : np.ndarray of shape (n_vertices,), bool
        Mask of cortical vertices.
    """

    flat: Points
    faces: npt.NDArray[np.int64]
    inner: Points
    outer: Points
    cortex: npt.NDArray[np.bool_]

    @property
    def middle(self) -> Points:
        """Halfway between white and pial surface, mm."""
        return (self.inner + self.outer) / 2


@dataclass(frozen=True, eq=False)
class CortexTemplate:
    """Both hemispheres of one template.

    Attributes
    ----------
    space : str
        ``fsaverage5``, ``fsLR``, ...
    grid : tuple of int
        Rows and columns of the flat map, pixels.
    left, right : Hemisphere
    sha256 : str
        Hex digest of all other attributes.
    """

    space: str
    grid: tuple[int, int]
    left: Hemisphere
    right: Hemisphere
    sha256: str

    @property
    def hemispheres(self) -> tuple[Hemisphere, Hemisphere]:
        """Left and right."""
        return self.left, self.right

    @property
    def n_vertices(self) -> tuple[int, int]:
        """Vertices of the left and the right mesh."""
        return len(self.left.flat), len(self.right.flat)


def load_template(reference: str = EMBEDDED_TEMPLATE) -> CortexTemplate:
    """Load a cortical template.

    Parameters
    ----------
    reference : str
        ``fsaverage5``, the path of a ``template.yaml``, or the path of its folder.

    Raises
    ------
    FmritokError
        If a file is missing, or surfaces have different vertices.
    """
    if reference == EMBEDDED_TEMPLATE:
        return _build(EMBEDDED_TEMPLATE, _EMBEDDED_GRID, *_nilearn_surfaces(), "nilearn")
    import yaml

    path = Path(reference).expanduser()
    path = path / "template.yaml" if path.is_dir() else path
    try:
        check_regular(path)
        tree = yaml.safe_load(path.read_text())
        space, grid = str(tree["space"]), (int(tree["grid"][0]), int(tree["grid"][1]))
        sides = [
            {kind: path.parent / tree[side][kind] for kind in _SURFACES if kind in tree[side]}
            for side in ("left", "right")
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, IndexError) as error:
        raise FmritokError(
            expected("Cortical template", reference,
                     "fsaverage5, or a template.yaml with space, grid, left and right",
                     f"{type(error).__name__}: {error}",
                     "See the module fmritok.tokenizers.flatmap.cortex for the format.")
        ) from error  # fmt: skip
    return _build(space, grid, sides[0], sides[1], str(path))


def _build(
    space: str,
    grid: tuple[int, int],
    left: Mapping[str, Path],
    right: Mapping[str, Path],
    where: str,
) -> CortexTemplate:
    hemispheres = [_hemisphere(files, where) for files in (left, right)]
    digest = hashlib.sha256(repr((space, grid)).encode())
    for h in hemispheres:
        for array in (h.flat, h.faces, h.inner, h.outer, h.cortex):
            digest.update(np.ascontiguousarray(array).tobytes())
    return CortexTemplate(space, grid, hemispheres[0], hemispheres[1], digest.hexdigest())


def _hemisphere(files: Mapping[str, Path], where: str) -> Hemisphere:
    if "flat" not in files or not ({"white", "pial"} <= set(files) or "midthickness" in files):
        raise FmritokError(
            expected("Cortical template", where, "flat, and white and pial or midthickness",
                     ", ".join(files) or "nothing", "Add the missing surfaces.")
        )  # fmt: skip
    flat, faces = _surface(files["flat"])
    inner = _surface(files.get("white") or files["midthickness"])[0]
    outer = _surface(files.get("pial") or files["midthickness"])[0]
    cortex = np.ones(len(flat), bool)
    if "cortex" in files:
        cortex = np.asarray(_gifti(files["cortex"]).agg_data()).ravel() > 0
    for kind, values in (("white", inner), ("pial", outer), ("cortex", cortex)):
        if len(values) != len(flat):
            raise FmritokError(
                expected(f"Surface {kind} of", where, f"{len(flat)} vertices, as flat has",
                         len(values), "Take surfaces of one template and density.")
            )  # fmt: skip
    return Hemisphere(flat[:, :2], faces, inner, outer, cortex)


def _surface(path: Path) -> tuple[Points, npt.NDArray[np.int64]]:
    points, faces = _gifti(path).agg_data(("pointset", "triangle"))
    return np.asarray(points, np.float64), np.asarray(faces, np.int64)


def _gifti(path: Path) -> Any:
    import nibabel as nib

    try:
        check_regular(path)
        return nib.load(path)
    except Exception as error:  # nibabel does not catch the errors of the XML parser
        raise FmritokError(
            expected("Surface file", path, "a GIFTI file", f"{type(error).__name__}: {error}",
                     "Check the path, or copy the file again.")
        ) from error  # fmt: skip


def _nilearn_surfaces() -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the surfaces shipped with nilearn, without a download."""
    from nilearn.datasets import fetch_surf_fsaverage

    files = fetch_surf_fsaverage("fsaverage5")
    left, right = (
        {kind: Path(files[f"{kind}_{side}"]) for kind in ("flat", "white", "pial")}
        for side in ("left", "right")
    )
    return left, right
