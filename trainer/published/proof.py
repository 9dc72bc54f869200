"""Compare an imported encoder with figures that the published code gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fmritok.errors import expected
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.model.model import EncoderOutput, TokenTransformer
from fmritok.trainer.record.saved_group import SavedGroup

__all__ = ["TOLERANCE", "largest_difference"]

#: Largest difference from stored outputs that are about 1 in size.
TOLERANCE = 1e-5

_Arrays = Mapping[str, npt.NDArray[Any]]
_Compared = Mapping[str, tuple[Tensor, npt.NDArray[Any]]]


def largest_difference(
    method: str, encoder: TokenTransformer, group: SavedGroup, folder: Path
) -> float:
    """Return the largest difference from stored outputs.

    Parameters
    ----------
    method : str
    encoder : TokenTransformer
    group : SavedGroup
        Meaning of its tokens.
    folder : Path
        With ``inputs.npz`` and ``outputs.npz``, such as ``docs/weights.md`` describes.

    Raises
    ------
    CheckpointError
        If the files are not there or do not fit the encoder, or an output differs by more than
        1e-5; the first such output is named.
    """
    try:
        with (
            np.load(folder / "inputs.npz", allow_pickle=False) as inputs,
            np.load(folder / "outputs.npz", allow_pickle=False) as outputs,
            torch.no_grad(),
        ):
            compared = _FIGURES[method](encoder.eval(), group, dict(inputs), dict(outputs))
    except (OSError, KeyError, ValueError, RuntimeError, IndexError) as error:
        raise CheckpointError(
            expected("Stored figures", folder, "inputs.npz and outputs.npz of this model",
                     f"{type(error).__name__}: {error}", "See docs/weights.md.")
        ) from error  # fmt: skip
    largest = 0.0
    for name, (ours, theirs) in compared.items():
        difference = float(np.abs(ours.numpy() - theirs).max())
        if not difference <= TOLERANCE:
            raise CheckpointError(
                expected("Output", f"{name} of {folder}", f"a difference of at most {TOLERANCE}",
                         f"{difference:.3g}", "These weights and figures are of different models, "
                         "or the import is wrong: report it.")
            )  # fmt: skip
        largest = max(largest, difference)
    return largest


def _encoded(encoder: TokenTransformer, frames_BTSD: Tensor) -> EncoderOutput:
    """Encode frames that are normalised already, a second apart."""
    B, T = frames_BTSD.shape[:2]
    times_BT = torch.arange(float(T)).expand(B, -1)
    step = encoder.grid.layout.patch
    x_BUCW = encoder.embed(encoder.grid.fold(frames_BTSD))
    out: EncoderOutput = encoder(x_BUCW, None, times_BT[:, ::step])
    return out


def _of_cortexmae(
    encoder: TokenTransformer, group: SavedGroup, inputs: _Arrays, outputs: _Arrays
) -> _Compared:
    """Compare CLS and tokens of a clip: frames x cortical pixels of the image, row by row."""
    known, place = group.array("pixel_mask").astype(bool), group.provenance["layout"]
    edge, columns = place["patch"], place["image"][1]
    row, column = group.array("cell").T[:, :, None]
    y, x = np.divmod(np.arange(known.shape[1]), edge)
    pixel = (row * edge + y) * columns + column * edge + x
    clip = inputs["clip"].astype(np.float32)
    frames = np.zeros((len(clip), known.size), np.float32)
    frames[:, np.flatnonzero(known)[np.argsort(pixel[known])]] = clip
    out = _encoded(encoder, torch.from_numpy(frames.reshape(1, len(clip), *known.shape)))
    order = np.argsort(outputs["embed_ids"].ravel())
    return {
        "embed_cls": (out.cls, outputs["embed_cls"]),
        "embed_tokens": (out.tokens.flatten(1, 2), outputs["embed_tokens"][:, order]),
    }


def _of_semantoks(
    encoder: TokenTransformer, group: SavedGroup, inputs: _Arrays, outputs: _Arrays
) -> _Compared:
    """Compare CLS and tokens of the first view: parcels x frames, the left half of cortex first."""
    parts = {"LH": 0, "RH": 1}
    networks = group.provenance["layout"]["networks"]
    rank = [
        parts.get(f"{name}__".split("_")[1], 2 + networks[network].startswith("Cereb"))
        for name, network in zip(
            group.provenance["layout"]["parcels"], group.array("network"), strict=True
        )
    ]
    place = np.argsort(np.argsort(rank, kind="stable"), kind="stable")
    view = torch.from_numpy(inputs["view1"].astype(np.float32))[:, place]
    out = _encoded(encoder, view.mT[..., None])
    tokens = out.tokens.transpose(1, 2).flatten(1, 2)
    return {
        "feature_cls": (out.cls, outputs["feature_cls"]),
        "teacher_tokens": (torch.cat([out.cls[:, None], tokens], 1), outputs["teacher_tokens"]),
    }


def _of_tablet(
    encoder: TokenTransformer, group: SavedGroup, inputs: _Arrays, outputs: _Arrays
) -> _Compared:
    """Compare CLS and tokens of regrouped latents, frame by frame."""
    tokens = torch.from_numpy(outputs["tokens"].astype(np.float32))
    out = _encoded(encoder, torch.unflatten(tokens, 1, (-1, group.n_tokens)))
    encoded = torch.cat([out.cls[:, None], out.tokens.flatten(1, 2)], 1)
    return {"cls": (out.cls, outputs["cls"]), "encoded": (encoded, outputs["encoded"])}


_FIGURES: dict[str, Callable[[TokenTransformer, SavedGroup, _Arrays, _Arrays], _Compared]] = {
    "cortexmae": _of_cortexmae,
    "semantoks": _of_semantoks,
    "tablet": _of_tablet,
}
