"""Where things are: the HCP grid, tissue maps, network regions and smooth random fields.

Everything comes with nilearn: the MNI152 tissue templates (Fonov 2011), and the 300 regions of
Seitzman 2018 with their network names. Nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from fmritok.errors import FmritokError, expected

__all__ = ["AFFINE", "GRID", "Anatomy", "load_anatomy", "smooth_fields", "subject_anatomy"]

Floats = npt.NDArray[np.float32]

GRID = (91, 109, 91)
AFFINE = np.array(
    [[-2.0, 0, 0, 90], [0, 2.0, 0, -126], [0, 0, 2.0, -72], [0, 0, 0, 1]], dtype=np.float64
)
NEIGHBOURS = 6
BLOB_SD_MM = 6.0
BLOB_EDGE_MM = 14.0
FIELD_KNOTS = (6, 7, 6)
WARP_SD_MM = 1.2
GRAND_MEAN = 10_000.0
# Signal is lost above the nasal sinus and the ear canals: centre in mm, radius, share lost.
_DROPOUT = (((0, 36, -22), 13.0, 0.7), ((48, -24, -28), 11.0, 0.5), ((-48, -24, -28), 11.0, 0.5))


@dataclass(frozen=True)
class Anatomy:
    """The template that all subjects vary.

    Attributes
    ----------
    flat : np.ndarray of shape (n_voxels,), int64
        Voxels of the dilated brain mask, as indices into a frame in NIfTI order (x fastest).
    grey, white, t1, brain : np.ndarray of shape (91, 109, 91), float32
        Tissue maps, from 0 to 1.
    xyz : np.ndarray of shape (n_voxels, 3), float32
        Their positions, MNI mm.
    roi_index, roi_weight : np.ndarray of shape (n_voxels, 6), int32 and float32
        The nearest regions of each voxel and their shares of its signal; a row sums to at most 1.
    networks : tuple of str
        Names of the networks.
    roi_network : np.ndarray of shape (n_rois,), int64
        Index of each region's network.
    roi_xyz : np.ndarray of shape (n_rois, 3), float64
        Centres of the regions, MNI mm.
    """

    flat: npt.NDArray[np.int64]
    grey: Floats
    white: Floats
    t1: Floats
    brain: Floats
    xyz: Floats
    roi_index: npt.NDArray[np.int32]
    roi_weight: Floats
    networks: tuple[str, ...]
    roi_network: npt.NDArray[np.int64]
    roi_xyz: npt.NDArray[np.float64]

    def at_voxels(self, volume: Floats) -> Floats:
        """Take the values of a volume (91, 109, 91) at the voxels `flat`."""
        return volume.ravel(order="F")[self.flat]


@dataclass(frozen=True)
class SubjectAnatomy:
    """One subject's own brain, at the voxels `Anatomy.flat`.

    Attributes
    ----------
    mean : np.ndarray of shape (n_voxels,), float32
        Mean image of the functional runs; 0 outside the subject's brain.
    grey : np.ndarray of shape (n_voxels,), float32
        Grey matter from 0 to 1.
    gradient : np.ndarray of shape (n_voxels, 3), float32
        Change of the mean image along each axis, per mm: what a moving head adds.
    """

    mean: Floats
    grey: Floats
    gradient: Floats


@lru_cache(maxsize=1)
def load_anatomy() -> Anatomy:
    """Load the templates on the HCP grid; the first call takes about two seconds.

    Returns
    -------
    Anatomy

    Raises
    ------
    FmritokError
        nilearn's templates are not on the lattice of the FSL MNI152 2 mm template.
    """
    from nilearn import datasets

    grey = _crop(datasets.load_mni152_gm_template(resolution=2))
    white = _crop(datasets.load_mni152_wm_template(resolution=2))
    t1 = _crop(datasets.load_mni152_template(resolution=2))
    brain = _crop(datasets.load_mni152_brain_mask(resolution=2))
    around = ndimage.binary_dilation(brain > 0, iterations=2)
    flat = np.flatnonzero(around.ravel(order="F"))
    ijk = np.stack(np.unravel_index(flat, GRID, order="F"), axis=1)
    xyz = (ijk @ AFFINE[:3, :3].T + AFFINE[:3, 3]).astype(np.float32)

    atlas = datasets.fetch_coords_seitzman_2018(ordered_regions=True)
    names = np.asarray(atlas.networks)
    kept = names != "unassigned"
    roi_xyz = np.asarray(atlas.rois[["x", "y", "z"]], dtype=np.float64)[kept]
    networks, roi_network = np.unique(names[kept], return_inverse=True)
    distance, index = cKDTree(roi_xyz).query(xyz, k=NEIGHBOURS)
    blob = np.exp(-0.5 * (distance / BLOB_SD_MM) ** 2)
    floor = np.exp(-0.5 * (BLOB_EDGE_MM / BLOB_SD_MM) ** 2)
    weight = blob / (blob.sum(axis=1, keepdims=True) + floor)
    return Anatomy(
        flat=flat,
        grey=grey,
        white=white,
        t1=t1,
        brain=brain,
        xyz=xyz,
        roi_index=np.asarray(index, dtype=np.int32),
        roi_weight=weight.astype(np.float32),
        networks=tuple(str(name) for name in networks),
        roi_network=roi_network.astype(np.int64),
        roi_xyz=roi_xyz,
    )


def subject_anatomy(anatomy: Anatomy, rng: np.random.Generator) -> SubjectAnatomy:
    """Vary the template for one subject, and make a mean functional image of it.

    Parameters
    ----------
    anatomy : Anatomy
    rng : np.random.Generator
        The subject's own.

    Returns
    -------
    SubjectAnatomy
    """
    fields = smooth_fields(anatomy, rng, 5)
    ijk = np.stack(np.unravel_index(anatomy.flat, GRID, order="F")).astype(np.float32)
    ijk += fields[:3] * np.float32(WARP_SD_MM / 2)

    def warped(volume: Floats) -> Floats:
        values = ndimage.map_coordinates(volume, ijk, order=1, mode="constant", output=np.float32)
        return np.asarray(values, dtype=np.float32)

    grey, white, t1 = warped(anatomy.grey), warped(anatomy.white), warped(anatomy.t1)
    inside = warped(anatomy.brain) > 0.5
    fluid = np.clip(1 - grey - white, 0, 1)
    # T2*-weighted contrast: fluid brightest, white matter darkest; fine detail from the T1 image.
    signal = 0.92 * grey + 0.74 * white + 1.10 * fluid - 0.12 * (t1 - 0.7)
    radius = np.linalg.norm((anatomy.xyz - [0, -18, 10]) / [70, 88, 68], axis=1)
    coil = (0.8 + 0.35 * radius**2) * np.exp(0.06 * fields[3])
    for centre, size, lost in _DROPOUT:
        squared = ((anatomy.xyz - np.asarray(centre, dtype=np.float32)) ** 2).sum(axis=1)
        coil *= 1 - lost * np.exp(-0.5 * squared / (size * np.exp(0.2 * fields[4])) ** 2)

    volume = np.zeros(np.prod(GRID), dtype=np.float32)
    volume[anatomy.flat] = np.where(inside, np.maximum(signal * coil, 0.08), 0)
    weight = np.zeros_like(volume)
    weight[anatomy.flat] = inside
    # Blur within the mask only: otherwise the rim of the brain becomes darker.
    blurred = ndimage.gaussian_filter(volume.reshape(GRID, order="F"), 0.5)
    blurred /= np.maximum(ndimage.gaussian_filter(weight.reshape(GRID, order="F"), 0.5), 0.05)
    mean = anatomy.at_voxels(blurred) * inside
    scale = np.float32(GRAND_MEAN / np.median(mean[inside]))
    slopes = np.gradient(blurred * weight.reshape(GRID, order="F"), 2.0)
    gradient = np.stack([anatomy.at_voxels(slope) for slope in slopes], axis=1)
    return SubjectAnatomy(
        mean=(mean * scale).astype(np.float32),
        grey=grey * inside,
        gradient=(gradient * inside[:, None] * scale).astype(np.float32),
    )


def smooth_fields(anatomy: Anatomy, rng: np.random.Generator, count: int) -> Floats:
    """Draw random fields that vary over about 4 cm, with mean 0 and variance 1 at every voxel.

    Parameters
    ----------
    anatomy : Anatomy
    rng : np.random.Generator
    count : int

    Returns
    -------
    np.ndarray of shape (count, n_voxels), float32
    """
    knots = rng.standard_normal((count, *FIELD_KNOTS), dtype=np.float32)
    bases = []
    for size, n_knots in zip(GRID, FIELD_KNOTS, strict=True):
        centres = np.linspace(0, size - 1, n_knots)
        step = centres[1] - centres[0]
        basis = np.exp(-0.5 * ((np.arange(size)[:, None] - centres) / (0.8 * step)) ** 2)
        basis /= np.linalg.norm(basis, axis=1, keepdims=True)
        bases.append(basis.astype(np.float32))
    fields = np.einsum("fabc,xa->fxbc", knots, bases[0])
    fields = np.einsum("fxbc,yb->fxyc", fields, bases[1])
    at = np.unravel_index(anatomy.flat, GRID, order="F")
    lines = fields[:, at[0], at[1]]
    return np.asarray((lines * bases[2][at[2]]).sum(axis=-1), dtype=np.float32)


def _crop(image: object) -> Floats:
    """Cut a nilearn 2 mm template to the HCP grid: the lattices coincide, nothing is resampled."""
    affine = np.asarray(image.affine)  # type: ignore[attr-defined]
    corner = AFFINE @ [GRID[0] - 1, 0, 0, 1]
    start = (corner[:3] - affine[:3, 3]) / 2
    first = np.rint(start).astype(int)
    data = np.asarray(image.dataobj, dtype=np.float32)  # type: ignore[attr-defined]
    same = np.allclose(affine[:3, :3], 2 * np.eye(3)) and np.allclose(start, first)
    if not same or (first < 0).any() or (first + GRID > data.shape).any():
        raise FmritokError(
            expected(
                "wrong lattice",
                "of the MNI152 templates in nilearn",
                "2 mm voxels on the lattice of the FSL template",
                f"affine {affine.tolist()} and shape {data.shape}",
                "Install a nilearn version that fmritok is tested with.",
            )
        )
    box = tuple(slice(f, f + n) for f, n in zip(first, GRID, strict=True))
    return np.ascontiguousarray(data[box][::-1])
