"""Cohorts of a few grayordinates, which the commands that users run tokenize at once."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from click.testing import CliRunner, Result
from cohorts import write_phenotypes
from nibabel import cifti2

from fmritok.cli import main

VERTICES = 6  # on each side
PARCELS = 4


def fmritok(*arguments: object) -> Result:
    """Run a command in this process; what it raises is in the result."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def write_atlas(folder: Path) -> Path:
    """Write an atlas of four parcels in two networks on the vertices of these cohorts."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"p{i + 1}" for i in range(PARCELS)]
    labels = {0: ("?", (0, 0, 0, 0))} | {
        i + 1: (name, (1, 1, 1, 1)) for i, name in enumerate(names)
    }
    values = 1 + np.arange(2 * VERTICES) * PARCELS // (2 * VERTICES)
    axes = (cifti2.LabelAxis(["labels"], [labels]), _vertices())
    nib.save(cifti2.Cifti2Image(values[None].astype(np.float32), axes), folder / "p.dlabel.nii")
    table = pd.DataFrame(
        {"name": names, "network": ["first", "first", "second", "second"], "x": np.arange(4.0),
         "y": 0.0, "z": np.arange(4.0), "radius": 5.0, "cifti_image": "p.dlabel.nii",
         "cifti_label": range(1, PARCELS + 1)}
    )  # fmt: skip
    table.to_csv(folder / "atlas.tsv", sep="\t", index=False)
    return folder


def write_cohort(
    root: Path, subjects: list[str], *, frames: int = 6, seed: int = 0, task: str = "MOTOR"
) -> Path:
    """Write one task run of each subject, with events, and the subjects' tables."""
    for i, subject in enumerate(subjects):
        write_series(root, subject, frames=frames + i, seed=seed + i, task=task)
        folder = root / subject / "MNINonLinear" / "Results" / f"tfMRI_{task}_LR" / "EVs"
        folder.mkdir(exist_ok=True)
        length = frames * 0.72
        for k, name in enumerate(("left", "right")):
            onsets = [f"{(0.1 + 0.2 * (2 * j + k)) * length:.3f} 1.5 1" for j in range(2)]
            (folder / f"{name}.txt").write_text("\n".join(onsets) + "\n")
    write_phenotypes(root, subjects)
    return root


def write_series(root: Path, subject: str, *, frames: int, seed: int, task: str = "MOTOR") -> Path:
    """Write the grayordinates of one run: noise around a mean of their own."""
    name = f"tfMRI_{task}_LR"
    rng = np.random.default_rng(seed)
    values = 1000 + 20 * rng.standard_normal((frames, 2 * VERTICES))
    folder = root / subject / "MNINonLinear" / "Results" / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_Atlas_MSMAll_hp2000_clean.dtseries.nii"
    axes = (cifti2.SeriesAxis(0, 0.72, frames), _vertices())
    nib.save(cifti2.Cifti2Image(values.astype(np.float32), axes), path)
    return path


def tokenize_options(
    root: Path, store: object, atlas: Path, *more: object, groups: tuple[str, ...] = ("network",)
) -> list[str]:
    """Return the arguments that tokenize such a cohort in this process."""
    names = [x for group in groups for x in ("--tokenizer", "network", "--group", group)]
    return [str(x) for x in (
        "tokenize", "--dataset", "hcp", "--root", root, "--store", store, "--input", "surface",
        "--executor", "serial", *names, "--set", f"network.atlas={atlas}",
        "--set", "network.band=null", "--set", "network.tr=null", *more,
    )]  # fmt: skip


def _vertices() -> cifti2.BrainModelAxis:
    left, right = (
        cifti2.BrainModelAxis.from_surface(
            np.arange(VERTICES), 32492, f"CIFTI_STRUCTURE_CORTEX_{side}"
        )
        for side in ("LEFT", "RIGHT")
    )
    return left + right
