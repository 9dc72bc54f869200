"""Downloads of ``fmritok fetch``: an atlas and sample data."""

from __future__ import annotations

from pathlib import Path

from fmritok.errors import FmritokError, expected, wrong_usage
from fmritok.pipeline.resources.atlases import build_semantoks_atlas
from fmritok.pipeline.resources.pinned import GITHUB, PinnedFile
from fmritok.progress import tracked

__all__ = ["fetch_adhd200_sample", "fetch_atlas"]

_TIAN = (
    f"{GITHUB}/yetianmed/subcortex/62751401be0dba587442799748a886d5d87b8364"
    "/Group-Parcellation/3T/Cortex-Subcortex"
)
_STEM = "Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3"


_ATLAS = {
    "cortex_and_subcortex": PinnedFile(
        f"{_STEM}_MNI152NLin6Asym_2mm.nii.gz",
        f"{_TIAN}/MNIvolumetric/{_STEM}_MNI152NLin6Asym_2mm.nii.gz",
        "a6568b75ec7920bc60262d8b10dfaf9bb9fdbddd518c7313b48ae7465b687d7f",
    ),
    "labels": PinnedFile(
        f"{_STEM}_label.txt",
        f"{_TIAN}/{_STEM}_label.txt",
        "98653ec054aacf4513fa828e49c9e22991b2d15f4200ecf134ba31c7e5af6869",
    ),
    "cifti": PinnedFile(
        f"{_STEM}.dlabel.nii",
        f"{_TIAN}/{_STEM}.dlabel.nii",
        "3ee6ea48cfcf0c800894a442a539bd4cea0f0f29de2efc363e24b1e448ffcafb",
    ),
}


def fetch_atlas(out: Path, cerebellum: Path, source: Path | None = None) -> Path:
    """Fetch Schaefer 400 and Tian S3, and build the atlas of 457 parcels.

    Parameters
    ----------
    out : Path
    cerebellum : Path
        Label image of Buckner's 7 cerebellar networks in MNI space, from FreeSurfer's website.
    source : Path, optional
        Folder with the files. Nothing is downloaded then.

    Returns
    -------
    Path
        Path of the table, for ``network.atlas``.
    """
    if not cerebellum.is_file():
        raise wrong_usage(FmritokError(
            expected("Label image", cerebellum, "Buckner's 7 networks of the cerebellum",
                     "no such file", "Get it from FreeSurfer's page of Buckner 2011.")
        ))  # fmt: skip
    files = {role: pinned.bring(out / "files", source) for role, pinned in _ATLAS.items()}
    return build_semantoks_atlas(out, cerebellum=cerebellum, **files)


def fetch_adhd200_sample(out: Path) -> Path:
    """Download the 40 subjects of ADHD-200 that nilearn distributes.

    Returns
    -------
    Path
        The root to give to ``--dataset adhd200``.
    """
    from nilearn.datasets import fetch_adhd

    try:
        for n_subjects in tracked(range(1, 41), 40, "subjects"):  # skips those that are there
            fetch_adhd(n_subjects=n_subjects, data_dir=out, verbose=0)
    except Exception as error:  # errors of requests and tarfile
        raise FmritokError(
            expected("Sample of ADHD-200", "of nilearn", "an answer of its servers",
                     f"{type(error).__name__}: {error}", "Run this where there is a network.")
        ) from error  # fmt: skip
    return out / "adhd"
