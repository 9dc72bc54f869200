"""Cortical templates: the flat, white and pial surfaces of both hemispheres.

nilearn ships fsaverage5. Any other template is a folder with a description file::

    # template.yaml
    space: fsLR                # name of the mesh
    surface_space: MNI152      # of white, pial and midthickness: MNI305 (fsaverage), MNI152, or a
                               # version of it, such as MNI152NLin6Asym
    grid: [224, 560]           # pixels of the flat map, rows and columns, multiples of 16
    left:
      flat: L.flat.32k_fs_LR.surf.gii
      midthickness: L.midthickness.32k_fs_LR.surf.gii    # or white: and pial:
      cortex: L.atlasroi.32k_fs_LR.shape.gii             # optional: 1 in cortex, 0 elsewhere
    right: ...
    pixel_mm: 1.2              # optional, see fmritok.tokenizers.flatmap.geometry
    gap_mm: 16
    box: [-336, 336, -122.8, 146]

Runs lie in MNI152. Surfaces in MNI305 are moved there before volumes are sampled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import FmritokError, expected
from fmritok.regular import check_regular
from fmritok.tokenizers.flatmap.geometry import Geometry, read_geometry
from fmritok.tokenizers.mni import MNI152, MNI305, VERSIONS

__all__ = [
    "EMBEDDED_TEMPLATE", "MNI305_TO_MNI152", "CortexTemplate", "Hemisphere", "load_template",
]  # fmt: skip

EMBEDDED_TEMPLATE = "fsaverage5"
_EMBEDDED_GRID = (128, 272)
_SURFACES = ("flat", "white", "pial", "midthickness", "cortex")
_SURFACE_SPACES = (MNI152, *VERSIONS, MNI305)
#: Where the affine leads: FreeSurfer took it from FSL's template.
_MOVED_TO = "MNI152NLin6Asym"
#: From mm in MNI305 (fsaverage) to mm in MNI152, of FreeSurfer (wiki page CoordinateSystems).
MNI305_TO_MNI152 = (
    (0.9975, -0.0073, 0.0176, -0.0429),
    (0.0146, 1.0009, -0.0024, 1.5496),
    (-0.0130, -0.0093, 0.9971, 1.1840),
)

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
        White and pial surface, mm, MNI152. Both are the midthickness surface if only that is known.
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
    geometry : Geometry
        How the flat hemispheres lie on the grid.
    moved : bool
        Whether the surfaces were moved from MNI305 to MNI152.
    sha256 : str
        Hex digest of all other attributes but ``volumes``.
    volumes : str
        Space of white and pial surface; after moving ``MNI152NLin6Asym``. ``MNI152`` if the version
        is not known.
    """

    space: str
    grid: tuple[int, int]
    left: Hemisphere
    right: Hemisphere
    geometry: Geometry
    moved: bool
    sha256: str
    volumes: str = MNI152

    @property
    def hemispheres(self) -> tuple[Hemisphere, Hemisphere]:
        """Left and right."""
        return self.left, self.right

    @property
    def n_vertices(self) -> tuple[int, int]:
        """Vertices of the left and the right mesh."""
        return len(self.left.flat), len(self.right.flat)


def load_template(reference: str = EMBEDDED_TEMPLATE, *, move: bool = True) -> CortexTemplate:
    """Load a cortical template.

    Parameters
    ----------
    reference : str
        ``fsaverage5``, the path of a ``template.yaml``, or the path of its folder.
    move : bool
        Whether to move surfaces from MNI305 to MNI152.

    Raises
    ------
    FmritokError
        If a file is missing, surfaces have different vertices, or their space is not known.
    """
    if reference == EMBEDDED_TEMPLATE:
        sides = _nilearn_surfaces()
        return _build(
            EMBEDDED_TEMPLATE, _EMBEDDED_GRID, sides, "nilearn", Geometry(), MNI305, move=move
        )
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
        geometry = read_geometry(tree)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, IndexError) as error:
        raise FmritokError(
            expected("Cortical template", reference,
                     "fsaverage5, or a template.yaml with space, grid, left and right",
                     f"{type(error).__name__}: {error}",
                     "See the module fmritok.tokenizers.flatmap.cortex for the format.")
        ) from error  # fmt: skip
    lies_in = _surface_space(tree, space, path)
    return _build(space, grid, sides, str(path), geometry, lies_in, move=move)


def _surface_space(tree: Mapping[str, Any], mesh: str, path: Path) -> str:
    """Return the space of the surfaces: as stated, or MNI152 of meshes other than fsaverage."""
    of_mesh = None if mesh.startswith("fsaverage") else MNI152
    found = tree.get("surface_space", of_mesh)
    if found not in _SURFACE_SPACES:
        raise FmritokError(
            expected("Cortical template", path, f"surface_space: {' or '.join(_SURFACE_SPACES)}",
                     found or "none", "Add it. FreeSurfer's fsaverage is in MNI305.")
        )  # fmt: skip
    return str(found)


def _build(
    space: str,
    grid: tuple[int, int],
    sides: Sequence[Mapping[str, Path]],
    where: str,
    geometry: Geometry,
    surface_space: str,
    *,
    move: bool,
) -> CortexTemplate:
    move = move and surface_space == MNI305
    volumes = _MOVED_TO if move else surface_space
    left, right = (_hemisphere(files, where, move) for files in sides)
    stated = (space, grid) if geometry == Geometry() else (space, grid, geometry)
    digest = hashlib.sha256(repr(stated).encode())
    for h in (left, right):
        for array in (h.flat, h.faces, h.inner, h.outer, h.cortex):
            digest.update(np.ascontiguousarray(array).tobytes())
    return CortexTemplate(space, grid, left, right, geometry, move, digest.hexdigest(), volumes)


def _hemisphere(files: Mapping[str, Path], where: str, move: bool) -> Hemisphere:
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
    if move:
        affine = np.array(MNI305_TO_MNI152)
        inner, outer = (points @ affine[:, :3].T + affine[:, 3] for points in (inner, outer))
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


def _nilearn_surfaces() -> list[dict[str, Path]]:
    """Return the surfaces shipped with nilearn, without a download."""
    from nilearn.datasets import fetch_surf_fsaverage

    files = fetch_surf_fsaverage("fsaverage5")
    return [
        {kind: Path(files[f"{kind}_{side}"]) for kind in ("flat", "white", "pial")}
        for side in ("left", "right")
    ]
