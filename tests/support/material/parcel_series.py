"""Small cohorts of parcel time courses, in every format."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel import cifti2

NAMES = ["b1", "a1", "b2", "a2"]
NETWORKS = ["beta", "alpha", "beta", "alpha"]


def series(frames: int = 30, parcels: int = 4, seed: int = 0) -> np.ndarray:
    """Return time courses (frames, parcels) that survive float32 and five digits of text."""
    values = np.random.default_rng(seed).standard_normal((frames, parcels)) * 20 + 100
    return np.round(values, 2)


def write_table(folder: Path, names: list[str] = NAMES, **columns: list) -> Path:
    """Write an atlas without images."""
    table = {"name": names, "network": NETWORKS, "x": np.arange(len(names)) * 10.0, "y": -20.0,
             "z": 5.0} | columns  # fmt: skip
    path = folder / "atlas.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(table).to_csv(path, sep="\t", index=False)
    return path


def write_text(
    path: Path, values: np.ndarray, header: list[str] | None = None, separator: str = "\t"
) -> Path:
    """Write a table of numbers, with or without names of columns."""
    lines = [] if header is None else [separator.join(header)]
    lines += [separator.join("n/a" if x != x else f"{x:.2f}" for x in row) for row in values]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_ptseries(path: Path, values: np.ndarray, names: list[str] = NAMES, tr: float = 2.0):
    """Write a CIFTI file of parcels."""
    voxels = [np.array([[i, 0, 0]]) for i in range(len(names))]
    parcels = cifti2.ParcelsAxis(
        names, voxels, [{} for _ in names], affine=np.eye(4), volume_shape=(9, 9, 9), nvertices={}
    )
    axes = (cifti2.SeriesAxis(0, tr, len(values)), parcels)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(cifti2.Cifti2Image(values.astype(np.float32), axes), path)
    return path


def write_cohort(
    root: Path, subjects: list[str], *, frames: int = 30, more: str = "", tr: str = "2.0"
) -> dict[str, np.ndarray]:
    """Write a cohort of one table each, its atlas, phenotypes and description."""
    write_table(root)
    made = {}
    for i, subject in enumerate(subjects):
        made[subject] = series(frames + i, seed=i)
        write_text(root / f"{subject}_rest.1D", made[subject])
    rows = [f"{s},{'NYU' if i % 2 else 'KKI'},{i % 2 + 1},{20 + i}" for i, s in enumerate(subjects)]
    (root / "people.csv").write_text("\n".join(["ID,SITE,SEX,AGE", *rows]) + "\n")
    (root / "parcels.yaml").write_text(
        'pattern: "{subject}_rest.1D"\n'
        "atlas: atlas.tsv\n"
        f"tr: {tr}\n"
        "task: rest\n"
        "phenotypes:\n"
        "  table: people.csv\n"
        "  subject: ID\n"
        "  columns: {age: AGE, site: SITE, sex: {column: SEX, codes: {1: M, 2: F}}}\n" + more
    )
    return made
