"""Turn a run's ``vae`` tokens back into volumes, as the store says they were made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fmritok.pipeline.errors import StoreError, WeightsError, expected
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.pipeline.store.records import read_record
from fmritok.tokenizers.base import VolumeTokenizer
from fmritok.tokenizers.grid import AFFINE
from fmritok.tokenizers.registry import build_tokenizer

__all__ = ["decode_run", "save_volumes", "tokenizer_of"]


def tokenizer_of(group: TokenGroup, weights: str | None = None) -> VolumeTokenizer:
    """Build the tokenizer that wrote a group.

    Parameters
    ----------
    group : TokenGroup
    weights : str, optional
        Where its weights lie on this machine, if not where they lay when it was written.

    Raises
    ------
    WeightsError
        If the weights are not those that the group was made with.
    """
    made = group.provenance
    if made["tokenizer"] != "vae":
        raise StoreError(
            expected("Token group", group.name, "one that can be decoded", made["tokenizer"],
                     "Only vae tokens become volumes.")
        )  # fmt: skip
    known = group.notes["weights"]
    tokenizer = build_tokenizer(
        "vae",
        {
            "weights": weights or known["id"],
            "revision": None if weights else known["revision"] or None,
            "intensity": made["intensity"]["mode"],
            "dtype": made["dtype"],
        },
    )
    assert isinstance(tokenizer, VolumeTokenizer)
    found = tokenizer.provenance()["weights"]["sha256"]
    if found != made["weights"]["sha256"]:
        raise WeightsError(
            expected("Weights", weights or known["id"],
                     f"sha256 {made['weights']['sha256']}", found,
                     "Give the folder of the weights that wrote the store with --weights.")
        )  # fmt: skip
    return tokenizer


def decode_run(
    store: str, group: str | None, run_id: str, frames: slice, *, weights: str | None = None
) -> tuple[npt.NDArray[np.float32], float]:
    """Decode consecutive frames of a run.

    Returns
    -------
    volumes : np.ndarray of shape (n_frames, 96, 96, 96), float32
        Intensities on the canonical grid.
    tr : float
        Repetition time, s.
    """
    opened = TokenStore(store).group(group)
    run = opened.run(run_id)
    tokenizer = tokenizer_of(opened, weights)
    record = read_record(opened.location, opened.name, run_id)
    assert record is not None
    row = int(run["row"])
    arrays = {name: opened.array(name, row) for name in tokenizer.run_arrays}
    first, end, _ = frames.indices(int(run["n_frames"]))
    if end <= first:
        raise StoreError(
            expected("Frames of run", run_id, f"a span within 0:{run['n_frames']}",
                     f"{frames.start}:{frames.stop}", "Choose others.")
        )  # fmt: skip
    tokens = opened.values(run_id, first, end - first)
    intensity = tokenizer.restore(record.normalizer, arrays)
    return tokenizer.decode(tokens, intensity), float(run["tr"])


def save_volumes(volumes: npt.NDArray[np.float32], tr: float, path: Path) -> None:
    """Write volumes on the canonical grid as a NIfTI file in MNI space."""
    import nibabel as nib

    image = nib.Nifti1Image(np.moveaxis(volumes, 0, -1), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((2.0, 2.0, 2.0, tr))
    image.set_sform(AFFINE, code="mni")
    image.set_qform(AFFINE, code="mni")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
