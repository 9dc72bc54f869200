"""HCP-shaped trees for tests: small, real where real data are at hand, and spoiled on request."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

FSL = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
SHAPE = (91, 109, 91)


def write_run(
    root: Path,
    subject: str,
    name: str = "rfMRI_REST1_LR",
    *,
    frames: int = 4,
    seed: int | None = None,
    suffix: str = "_hp2000_clean",
    extension: str = ".nii.gz",
    tr: float = 0.72,
    values: np.ndarray | None = None,
    affine: np.ndarray = FSL,
) -> Path:
    """Write one run of a smooth blob with a little noise; 20 slices of each axis are not empty."""
    if values is None:
        rng = np.random.default_rng(int(subject) if seed is None else seed)
        values = np.zeros((*SHAPE, frames), np.int16)
        values[35:55, 45:65, 35:55] = rng.integers(900, 1100, (20, 20, 20, 1))
        values[35:55, 45:65, 35:55] += rng.integers(-20, 20, (20, 20, 20, frames), dtype=np.int16)
    folder = root / subject / "MNINonLinear" / "Results" / name
    folder.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", "sec")
    if values.ndim == 4:
        image.header.set_zooms((*np.abs(np.diag(affine))[:3], tr))
    path = folder / f"{name}{suffix}{extension}"
    nib.save(image, path)
    return path


def write_phenotypes(root: Path, subjects: list[str], *, families: list[str] | None = None) -> None:
    """Write the unrestricted and the restricted table."""
    rows = [f"{s},S1200,{'F' if i % 2 else 'M'},26-30,{100 + i}" for i, s in enumerate(subjects)]
    head = "Subject,Release,Gender,Age,CogTotalComp_AgeAdj"
    (root / "unrestricted_lab_1_1_2026.csv").write_text("\n".join([head, *rows]) + "\n")
    rows = [
        f"{s},{27 + i},{(families or [f'F{s}' for s in subjects])[i]}"
        for i, s in enumerate(subjects)
    ]
    text = "\n".join(["Subject,Age_in_Yrs,Family_ID", *rows]) + "\n"
    (root / "RESTRICTED_lab_1_1_2026.csv").write_text(text)


def real_tree(root: Path, data: Path) -> Path:
    """Build an HCP-shaped tree of the real MNI 2 mm runs, linked where the file system allows."""
    for subject, source in (("100002", "sub-sf02"), ("100003", "sub-rtc1")):
        path = next((data / "bold_mni").glob(f"{source}*MNI2mm91x109x91*bold.nii.gz"))
        folder = root / subject / "MNINonLinear" / "Results" / "rfMRI_REST1_LR"
        folder.mkdir(parents=True)
        (folder / "rfMRI_REST1_LR_hp2000_clean.nii.gz").symlink_to(path.absolute())
    write_phenotypes(root, ["100002", "100003"])
    return root
