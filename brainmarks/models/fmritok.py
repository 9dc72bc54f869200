"""fmritok's encoders as a Brainmarks model.

Brainmarks finds this file by its place, imports it, and calls :func:`fmritok`. docs/brainmarks.md
has the commands.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from brainmarks.models.base import Embeddings
from brainmarks.models.registry import register_model
from torch import Tensor, nn

from fmritok import Encoder, load_encoder
from fmritok.errors import RunError, expected
from fmritok.pipeline.resources.atlases import semantoks_columns
from fmritok.tokenizers.base import Tokenizer
from fmritok.tokenizers.network.tokenizer import NetworkTokenizer
from fmritok.tokenizers.spaces import MESHES, ParcelSpace, SampleSpace, SurfaceSpace, VolumeSpace

#: Brainmarks' volumes: 2 mm, first axis from left to right.
_MNI = VolumeSpace(
    (91, 109, 91), np.array([[2, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1.0]])
)
_N_PARCELS = 457


class RunWindows:
    """Transform of a Brainmarks sample: tokenize the run and take windows of it.

    Parameters
    ----------
    encoder : Encoder
    space : SampleSpace
        Of the tokenizer's input.
    columns : np.ndarray of shape (n_columns,), int64, optional
        Sample of each column of a Brainmarks array; the other samples are 0. Default: all samples,
        in their order.
    windows : int
        Windows of a run.
    """

    def __init__(
        self,
        encoder: Encoder,
        space: SampleSpace,
        columns: npt.NDArray[np.int64] | None,
        windows: int,
    ) -> None:
        self._windows = partial(encoder.windows, space=space, count=windows)
        self._n_samples, self._columns = space.n_samples, columns
        if hasattr(encoder.tokenizer, "device"):
            # Transforms run in forked loader workers, which cannot use the GPU.
            encoder.tokenizer.device = "cpu"

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the windows, and the target if the sample has one."""
        bold, mean, std = (np.asarray(sample[name], np.float32) for name in ("bold", "mean", "std"))
        values = bold * std + mean
        if self._columns is not None:
            columns, values = values, np.zeros((len(values), self._n_samples), np.float32)
            values[:, self._columns] = columns
        kept = {"target": sample["target"]} if "target" in sample else {}
        return self._windows(values, tr=float(sample["tr"])) | kept


class Wrapped(nn.Module):
    """Encoder with Brainmarks' output: CLS and registers averaged over windows, all tokens."""

    def __init__(self, encoder: Encoder, space: str) -> None:
        super().__init__()
        self.backbone, self.__space__ = encoder.module, space

    def forward(self, batch: dict[str, Tensor]) -> Embeddings:
        """Return embeddings [B 1 D], [B R D] (None without registers) and [B L D]."""
        out = self.backbone(batch)
        registers = out.registers.mean(1) if out.registers.shape[2] else None
        return Embeddings(out.cls.mean(1)[:, None], registers, out.in_a_row())


@register_model
def fmritok(
    training: str | None = None,
    *,
    space: str | None = None,
    windows: int = 4,
    grayordinates: str | None = None,
) -> tuple[RunWindows, Wrapped]:
    """Return the transform and the model of a training.

    Parameters
    ----------
    training : str, optional
        Folder of a training, checkpoint or export. Default: environment variable
        ``FMRITOK_TRAINING``.
    space : str, optional
        One of :data:`SPACES`. Default: the first that the training's tokenizer reads.
    windows : int
        Evenly spread windows of each run.
    grayordinates : str, optional
        Any CIFTI file with the 91,282 grayordinates; needed for ``fslr91k``.

    Raises
    ------
    RunError
        If no training or an unknown space is given, or the tokenizer does not read the space.
    """
    training = training or os.environ.get("FMRITOK_TRAINING")
    if not training:
        raise RunError(
            expected("Brainmarks model", "fmritok", "a training", "none",
                     "Set FMRITOK_TRAINING=FOLDER, or --overrides model_kwargs.training=FOLDER.")
        )  # fmt: skip
    encoder = load_encoder(training)
    name = space or _first_space(encoder.tokenizer)
    if name not in SPACES:
        raise RunError(
            expected("Brainmarks space", "", f"one of {', '.join(SPACES)}", name, "Choose one.")
        )
    samples, columns = SPACES[name](encoder.tokenizer, grayordinates)
    wrong = encoder.tokenizer.problem(samples)
    if wrong:
        raise RunError(
            expected("Brainmarks space", name, wrong, samples.description, "Choose another.")
        )
    return RunWindows(encoder, samples, columns, windows), Wrapped(encoder, name)


def _first_space(tokenizer: Tokenizer) -> str:
    """Return the space that comes closest to the tokenizer's own input."""
    if isinstance(tokenizer, NetworkTokenizer) and len(tokenizer.atlas) == _N_PARCELS:
        return "schaefer400_tians3_buckner7"
    return "mni" if tokenizer.problem(_vertices(tokenizer, None)[0]) else "fslr64k"


_Samples = tuple[SampleSpace, npt.NDArray[np.int64] | None]


def _vertices(tokenizer: Tokenizer, grayordinates: str | None) -> _Samples:
    (size,) = (size for size, template in MESHES.items() if template == "fsLR")
    return SurfaceSpace.of_meshes("fsLR", (size, size)), None


def _grayordinates(tokenizer: Tokenizer, grayordinates: str | None) -> _Samples:
    import nibabel as nib

    if not grayordinates:
        raise RunError(
            expected("Brainmarks space", "fslr91k", "a CIFTI file with its grayordinates", "none",
                     "Give one: --overrides model_kwargs.grayordinates=FILE.dscalar.nii.")
        )  # fmt: skip
    return SurfaceSpace.of_cifti(nib.load(grayordinates).header.get_axis(1)), None


def _parcels(tokenizer: Tokenizer, grayordinates: str | None) -> _Samples:
    if not isinstance(tokenizer, NetworkTokenizer):
        return ParcelSpace(_N_PARCELS), None
    names = semantoks_columns(tokenizer.atlas.table, tokenizer.reference)
    return ParcelSpace(len(names), tuple(names)), None


def _voxels(tokenizer: Tokenizer, grayordinates: str | None) -> _Samples:
    """Return the MNI grid, and which voxels Brainmarks keeps: those of TemplateFlow's mask."""
    from brainmarks.nisc import read_mni152_2mm_data
    from templateflow import api

    path = api.get("MNI152NLin6Asym", desc="brain", resolution=2, suffix="mask", extension="nii.gz")
    mask = read_mni152_2mm_data(path, interpolation="nearest") > 0
    return _MNI, np.flatnonzero(mask)


SPACES: dict[str, Callable[[Tokenizer, str | None], _Samples]] = {
    "fslr64k": _vertices,
    "fslr91k": _grayordinates,
    "schaefer400_tians3_buckner7": _parcels,
    "mni": _voxels,
}
