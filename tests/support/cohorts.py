"""Trees of cohorts for tests: small, real where real data are at hand, and spoiled on request."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import cifti2

from fmritok.pipeline.datasets import get_adapter

FSL = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
SHAPE = (91, 109, 91)
#: A run of a BIDS tree, and the spaces of fMRIPrep that are used.
BIDS_RUN = "sub-01_ses-1_task-rest_run-1"
LIN6, C2009 = "MNI152NLin6Asym", "MNI152NLin2009cAsym"
#: A grid as scanners have it: a slab whose field of view does not hold the MNI brain.
NATIVE = np.array([[-2.4, 0, 0, 60], [0, 2.4, 0, -70], [0, 0, 2.4, -40], [0, 0, 0, 1]])


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
    """Write one run of a smooth blob with a little noise; 12 slices of each axis are not empty.

    There is cortex in it, and one of the slices whose error ``tokenize`` measures.
    """
    if values is None:
        rng = np.random.default_rng(int(subject) if seed is None else seed)
        values = np.zeros((*SHAPE, frames), np.int16)
        blob = values[39:51, 49:61, 44:56]
        blob[:] = rng.integers(900, 1100, (12, 12, 12, 1))
        blob += rng.integers(-20, 20, (12, 12, 12, frames), dtype=np.int16)
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


def real_tree(root: Path, data: Path, *, frames: int | None = None) -> Path:
    """Build an HCP-shaped tree of the real MNI 2 mm runs, whole or their first frames."""
    for subject, source in (("100002", "sub-sf02"), ("100003", "sub-rtc1")):
        path = next((data / "bold_mni").glob(f"{source}*MNI2mm91x109x91*bold.nii.gz"))
        folder = root / subject / "MNINonLinear" / "Results" / "rfMRI_REST1_LR"
        folder.mkdir(parents=True)
        target = folder / "rfMRI_REST1_LR_hp2000_clean.nii.gz"
        if frames is None:
            target.symlink_to(path.absolute())
        else:
            nib.save(nib.load(path).slicer[..., :frames], target)
        if subject == "100002":
            cifti = next((data / "cifti").glob("*.dtseries.nii"))
            name = "rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii"
            (folder / name).symlink_to(cifti.absolute())
    write_phenotypes(root, ["100002", "100003"])
    return root


def write_header(
    path: Path,
    *,
    shape: tuple[int, ...] = (*SHAPE, 4),
    tr: float = 0.72,
    affine: np.ndarray = FSL,
) -> Path:
    """Write a volume of which only the header is there: all that a catalogue reads.

    One that is not compressed has the size of a whole one.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header.set_sform(affine, 4)
    header.set_xyzt_units("mm", "sec")
    if len(shape) == 4:
        header.set_zooms((*np.abs(np.diag(affine))[:3], tr))
    header["vox_offset"] = 352
    content = header.binaryblock + bytes(4)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    if path.suffix != ".gz":
        os.truncate(path, len(content) + 2 * int(np.prod(shape)))
    return path


def write_cifti(path: Path, *, frames: int = 4, tr: float = 0.72) -> Path:
    """Write grayordinates of a few vertices."""
    vertices = [
        cifti2.BrainModelAxis.from_surface(np.arange(5), 32492, f"CIFTI_STRUCTURE_CORTEX_{side}")
        for side in ("LEFT", "RIGHT")
    ]
    axes = (cifti2.SeriesAxis(0, tr, frames), vertices[0] + vertices[1])
    image = cifti2.Cifti2Image(np.ones((frames, 10), np.float32), axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_gifti(path: Path, *, frames: int = 4) -> Path:
    """Write one hemisphere of a few vertices; its header knows no repetition time."""
    arrays = [nib.gifti.GiftiDataArray(np.ones(6, np.float32)) for _ in range(frames)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.gifti.GiftiImage(darrays=arrays), path)
    return path


def func_folder(root: Path, run: str = BIDS_RUN) -> Path:
    """Return the folder of a run in a BIDS tree."""
    entities = dict(pair.split("-") for pair in run.split("_"))
    session = f"ses-{entities['ses']}/" if "ses" in entities else ""
    return root / f"sub-{entities['sub']}" / session / "func"


def write_derivative(root: Path, entities: str, run: str = BIDS_RUN, **options) -> Path:
    """Write the header of a volume as fMRIPrep names it."""
    return write_header(func_folder(root, run) / f"{run}_{entities}_bold.nii.gz", **options)


def catalog_bids(root: Path, **options):
    """Catalogue a BIDS tree."""
    return get_adapter("bids")(root, **options)


def left_out(cohort, root: Path) -> dict[str, str]:
    """Return the reasons by the paths below the root."""
    return {
        Path(row.path).relative_to(root).as_posix(): row.reason
        for row in cohort.left_out.itertuples()
    }


def questioned(cohort, root: Path, *, times: bool = False) -> list[tuple[str, str]]:
    """Return what is doubtful below the root; of times of frames and events only if asked for."""
    of_times = ("the sidecar says", "events begin after")
    rows = zip(cohort.questioned["path"], cohort.questioned["reason"], strict=True)
    return [
        (Path(path).relative_to(root).as_posix(), reason)
        for path, reason in rows
        if times or not reason.startswith(of_times)
    ]


def real_derivatives(root: Path, data: Path) -> Path:
    """Build fMRIPrep's tree of the real run of 100 frames, with its mask and events."""
    func = root / "sub-sf02" / "func"
    func.mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "real", "BIDSVersion": "1.8.0"}')
    space = "sub-sf02_task-oneback_space-MNI152NLin2009cAsym_res-3_desc"
    run = next((data / "bold_mni").glob("sub-sf02*res-3*bold.nii.gz"))
    mask = data / "bold_mni" / "space-MNI152NLin2009cAsym_res-3_desc-brain_mask.nii.gz"
    events = next((data / "bold_native").glob("sub-sf02*events.tsv"))
    files = {
        f"{space}-preproc_bold.nii.gz": run,
        f"{space}-brain_mask.nii.gz": mask,
        "sub-sf02_task-oneback_events.tsv": events,
    }
    for name, source in files.items():
        (func / name).symlink_to(source.absolute())
    return root
