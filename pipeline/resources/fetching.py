"""Downloads of ``fmritok fetch``: pinned files, checked by their sha256."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from fmritok.errors import FmritokError, expected, wrong_usage
from fmritok.pipeline.resources.atlases import build_semantoks_atlas
from fmritok.progress import report

__all__ = ["fetch_adhd200_sample", "fetch_atlas", "fetch_template"]

#: Bytes of a download that are read at once.
_BLOCK = 1 << 20
_GITHUB = "https://raw.githubusercontent.com"
_TIAN = (
    f"{_GITHUB}/yetianmed/subcortex/62751401be0dba587442799748a886d5d87b8364"
    "/Group-Parcellation/3T/Cortex-Subcortex"
)
_HCP = (
    f"{_GITHUB}/Washington-University/HCPpipelines/765e72dff8a0365a007cc71c226f3d8a2893320e"
    "/global/templates/standard_mesh_atlases"
)
_BRAINSPACE = (
    f"{_GITHUB}/MICA-MNI/BrainSpace/8730de88ae32c4f88eeaf16ef2a6e53c5c32dc34"
    "/brainspace/datasets/surfaces"
)
_STEM = "Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3"


@dataclass(frozen=True)
class PinnedFile:
    """A file on the network with its expected checksum.

    Attributes
    ----------
    name : str
        Local file name.
    url, sha256 : str
    """

    name: str
    url: str
    sha256: str

    def bring(self, folder: Path, source: Path | None) -> Path:
        """Download the file or copy it from a folder, and compare its checksum.

        Raises
        ------
        FmritokError
            If the file is not available, or its checksum differs.
        """
        folder.mkdir(parents=True, exist_ok=True)
        target, partial = folder / self.name, folder / f".{self.name}.partial"
        try:
            if source:
                shutil.copyfile(source / self.name, partial)
            else:
                with urlopen(self.url, timeout=60) as answer, partial.open("wb") as file:
                    total = int(answer.headers.get("Content-Length") or 0)
                    while block := answer.read(_BLOCK):
                        file.write(block)
                        report(file.tell() / 1e6, total / 1e6, "MB")
        except (OSError, URLError) as error:
            partial.unlink(missing_ok=True)
            raise FmritokError(
                expected("File", source / self.name if source else self.url, "a copy of it",
                         f"{type(error).__name__}: {error}",
                         "Run this where there is a network, or give a folder with --from.")
            ) from error  # fmt: skip
        found = hashlib.sha256(partial.read_bytes()).hexdigest()
        if found != self.sha256:
            partial.unlink()
            raise FmritokError(
                expected("File", self.name, f"sha256 {self.sha256}", found,
                         "It changed on the way or at its source: do not use it.")
            )  # fmt: skip
        return partial.replace(target)


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

_TEMPLATE = {
    "left": {
        "flat": PinnedFile(
            "colin.cerebral.L.flat.32k_fs_LR.surf.gii",
            f"{_HCP}/colin.cerebral.L.flat.32k_fs_LR.surf.gii",
            "1862739a2924032a9a19e95efa6024c494094c2f7851ae45b11d6bf2e38dfca4",
        ),
        "midthickness": PinnedFile(
            "conte69_32k_lh.surf.gii",
            f"{_BRAINSPACE}/conte69_32k_lh.gii",
            "227a092f5001d570f331428c22847b23cbced535578dd713b9739e6b9b0e2225",
        ),
        "cortex": PinnedFile(
            "L.atlasroi.32k_fs_LR.shape.gii",
            f"{_HCP}/L.atlasroi.32k_fs_LR.shape.gii",
            "4ac9199dab151ccdc2a35bdddb5bac4f4907da7dfebd90807c09b82e2eb9d512",
        ),
    },
    "right": {
        "flat": PinnedFile(
            "colin.cerebral.R.flat.32k_fs_LR.surf.gii",
            f"{_HCP}/colin.cerebral.R.flat.32k_fs_LR.surf.gii",
            "db135bb704cd4ab0664fc2b4e97abef705f368948e4f514010905e850f9bf005",
        ),
        "midthickness": PinnedFile(
            "conte69_32k_rh.surf.gii",
            f"{_BRAINSPACE}/conte69_32k_rh.gii",
            "3279b4c7f26f0f8919a44f7179653c6c1df112907180395ca69bc63ac234a032",
        ),
        "cortex": PinnedFile(
            "R.atlasroi.32k_fs_LR.shape.gii",
            f"{_HCP}/R.atlasroi.32k_fs_LR.shape.gii",
            "698f46b399f5a89829f83cc697e32dc8841031fbf31ffef75aaaa0c4a16c3015",
        ),
    },
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


def fetch_template(out: Path, source: Path | None = None) -> Path:
    """Fetch the fs_LR 32k flat maps and midthickness surfaces, for CIFTI data.

    Returns
    -------
    Path
        Path of ``template.yaml``, for ``flatmap.template``.
    """
    import yaml

    tree: dict[str, object] = {"space": "fsLR", "grid": [224, 560]}
    for side, files in _TEMPLATE.items():
        tree[side] = {kind: pinned.bring(out, source).name for kind, pinned in files.items()}
    path = out / "template.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def fetch_adhd200_sample(out: Path) -> Path:
    """Download the 40 subjects of ADHD-200 that nilearn distributes.

    Returns
    -------
    Path
        The root to give to ``--dataset adhd200``.
    """
    from nilearn.datasets import fetch_adhd

    try:
        fetch_adhd(n_subjects=40, data_dir=out, verbose=1)
    except Exception as error:  # errors of requests and tarfile
        raise FmritokError(
            expected("Sample of ADHD-200", "of nilearn", "an answer of its servers",
                     f"{type(error).__name__}: {error}", "Run this where there is a network.")
        ) from error  # fmt: skip
    return out / "adhd"
