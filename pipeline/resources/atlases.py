"""Build the tables of published atlases for the ``network`` tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from fmritok.errors import AtlasError, expected
from fmritok.pipeline.tables.small_files import UnreadableError, text_lines
from fmritok.quantities import counted

__all__ = ["SEMANTOKS", "build_semantoks_atlas", "semantoks_columns"]

#: Name of the atlas of Brain-Semantoks (arXiv 2512.11582).
SEMANTOKS = "schaefer400-tian50-buckner7"
#: Published number of parcels per network: Schaefer 2018 (7 networks), Tian S3, Buckner 2011.
_COUNTS = {"Vis": 61, "SomMot": 77, "DorsAttn": 46, "SalVentAttn": 47, "Limbic": 26, "Cont": 52,
           "Default": 91, "Subcortex": 50, "Cerebellum": 7}  # fmt: skip


def build_semantoks_atlas(
    folder: Path,
    *,
    cortex_and_subcortex: Path,
    labels: Path,
    cerebellum: Path,
    cifti: Path | None = None,
) -> Path:
    """Write the atlas of 457 parcels in 9 networks.

    Parameters
    ----------
    folder : Path
        Output folder for ``atlas.tsv`` and copies of the images.
    cortex_and_subcortex : Path
        Label image of Schaefer 400 (7-network order) with Tian S3.
    labels : Path
        Label names of that image: lines with a name and lines with label and colour, in turn.
    cerebellum : Path
        Label image of Buckner's 7 networks.
    cifti : Path, optional
        ``dlabel.nii`` of Schaefer 400 with Tian S3.

    Returns
    -------
    Path
        Path of the table.

    Raises
    ------
    AtlasError
        If the names cannot be read, or numbers of parcels differ from the published ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lines = [line.strip() for line in text_lines(labels) if line.strip()]
        numbers = [int(line.split()[0]) for line in lines[1::2]]
        known = pd.DataFrame({"name": lines[::2], "label": numbers})
    except (UnreadableError, ValueError) as error:
        raise AtlasError(
            expected("Atlas", labels, "lines with a name and lines with a label, in turn", error,
                     "Download the file again.")
        ) from error  # fmt: skip
    known["network"] = [
        name.split("_")[2] if name.startswith("7Networks_") else "Subcortex"
        for name in known["name"]
    ]
    known["image"] = cortex_and_subcortex.name
    if cifti:
        known["cifti_image"], known["cifti_label"] = cifti.name, known["label"]
    seven = pd.DataFrame({"name": [f"Buckner7_{i}" for i in range(1, 8)], "label": range(1, 8)})
    seven = seven.assign(network="Cerebellum", image=cerebellum.name)
    table = pd.concat([known, seven], ignore_index=True)
    table["network"] = pd.Categorical(table["network"], list(_COUNTS), ordered=True)
    table = table.sort_values(["network", "label"], ignore_index=True)
    found = table["network"].value_counts(sort=False).to_dict()
    if found != _COUNTS:
        raise AtlasError(
            expected("Atlas", labels, f"the parcels {_COUNTS}", found,
                     "Take the 7-network order of Schaefer 400 with Tian S3.")
        )  # fmt: skip
    for path in (cortex_and_subcortex, cerebellum, *([cifti] if cifti else [])):
        shutil.copyfile(path, folder / path.name)
    table["space"] = "MNI152NLin6Asym"
    columns = ["name", "network", "image", "label", "space"]
    columns += ["cifti_image", "cifti_label"] if cifti else []
    table[columns].to_csv(folder / "atlas.tsv", sep="\t", index=False)
    return folder / "atlas.tsv"


def semantoks_columns(table: pd.DataFrame, where: str) -> list[str]:
    """Return the names of the 457 parcels in the order of published time courses.

    Schaefer 400 first, then Tian S3, then Buckner 7, each by label. The table of
    :func:`build_semantoks_atlas` is sorted by network instead.

    Parameters
    ----------
    table : pd.DataFrame
        Columns ``name``, ``network`` and ``label``.
    where : str
        Name of the atlas, for errors.

    Raises
    ------
    AtlasError
        If the table has other parcels.
    """
    found = table["network"].value_counts().to_dict()
    if found != _COUNTS or "label" not in table:
        raise AtlasError(
            expected("Atlas", where, f"the labels of {SEMANTOKS}: {_COUNTS} parcels",
                     counted(len(table), "other"),
                     "Tokenize with the atlas of `fmritok fetch atlas`.")
        )  # fmt: skip
    part = table["network"].map({"Subcortex": 1, "Cerebellum": 2}).fillna(0)
    ordered = table.assign(part=part, label=table["label"].astype(int))
    return [str(name) for name in ordered.sort_values(["part", "label"])["name"]]
