"""How far spaces lie apart: surfaces before and after moving, and two versions of MNI152.

Its output is docs/spaces.txt. ``--atlases`` is a folder with the label images of Schaefer 400 and
Tian S3 in both versions, from github.com/yetianmed/subcortex.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nilearn.datasets import load_mni152_gm_template

from fmritok.tokenizers.flatmap.tokenizer import FlatmapTokenizer
from fmritok.tokenizers.spaces import VolumeSpace

_STEM = "Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3"
_IMAGES = (f"{_STEM}_MNI152NLin6Asym_2mm.nii.gz", f"{_STEM}_3T_MNI152NLin2009cAsym_2mm.nii.gz")
Doubles = npt.NDArray[np.float64]


def grey_matter() -> None:
    """Print the probability of grey matter at the samples of the embedded flat map."""
    grey = load_mni152_gm_template(resolution=2)
    space = VolumeSpace(grey.shape, grey.affine)
    values = grey.get_fdata(dtype=np.float32).ravel(order="F")[:, None]
    middles = []
    print("Grey matter at the samples of fsaverage5 (nilearn's probability map, MNI152, 2 mm)")
    for move in (False, True):
        tokenizer = FlatmapTokenizer(move_surfaces=move)
        used = np.unique(tokenizer.flat.vertex)
        found = tokenizer.places(space).apply(values)[used]
        middles.append(np.concatenate([h.middle for h in tokenizer.template.hemispheres])[used])
        print(f"  move_surfaces={str(move).lower():5}  mean {found.mean():.3f}, "
              f"below 0.3: {(found < 0.3).mean():.1%} of {len(used):,} vertices")  # fmt: skip
    print(f"  moved by {_lengths(middles[1] - middles[0])}")


def versions(atlases: Path) -> None:
    """Print the distance between centres of the same parcels in two versions of MNI152."""
    one, other = (_centres(atlases / name) for name in _IMAGES)
    print(f"Centres of {len(one)} parcels in MNI152NLin6Asym and MNI152NLin2009cAsym")
    print(f"  apart by {_lengths(other - one)}")
    print("  mean offset: right {:+.1f}, anterior {:+.1f}, superior {:+.1f} mm"
          .format(*(other - one).mean(axis=0)))  # fmt: skip


def _centres(path: Path) -> Doubles:
    image = nib.load(path)
    labels = np.asarray(image.dataobj).round().astype(int)
    ijk = np.argwhere(labels > 0)
    mm = ijk @ image.affine[:3, :3].T + image.affine[:3, 3]
    label = labels[tuple(ijk.T)]
    count = np.bincount(label)[1:]
    return np.stack([np.bincount(label, x)[1:] for x in mm.T], axis=1) / count[:, None]


def _lengths(vectors: Doubles) -> str:
    mm = np.linalg.norm(vectors, axis=1)
    most = f"95 % below {np.percentile(mm, 95):.1f}, most {mm.max():.1f}"
    return f"{np.median(mm):.1f} mm (median), {most}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atlases", type=Path, required=True)
    arguments = parser.parse_args()
    grey_matter()
    versions(arguments.atlases)
