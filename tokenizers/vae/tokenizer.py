"""``vae``: a pretrained 2D image autoencoder over the slices of a volume, along all three axes.

After TABLeT (Kim et al., arXiv 2604.03619, CVPR 2026): every slice of a 96x96x96 volume is encoded
by a frozen image autoencoder; for spatial factor f and c channels the latents of the three axes
meet in (96/f)**3 tokens of 3*f*c features, each a cube of f**3 voxels seen from three directions.

It gives the same tokens as encoding every slice with the full model, and saves what does not change
them: the decoder is never loaded, the grey slice becomes three channels without a copy, slices that
are all background are encoded once, and batches run across frames and axes at one fixed size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from fmritok.device import choose_device, free_gpu_memory
from fmritok.errors import FmritokError, MachineError, expected
from fmritok.faults import is_out_of_memory
from fmritok.tokenizers.base import Frames, TokenGrid, Tokens, VolumeTokenizer
from fmritok.tokenizers.fidelity import time_course_error
from fmritok.tokenizers.grid import AFFINE, SHAPE, VOXEL_MM, cell_centres
from fmritok.tokenizers.vae.intensity import (
    Intensity,
    IntensityMode,
    VolumeStatistics,
    fit_intensity,
    run_array_shapes,
)
from fmritok.tokenizers.vae.weights import (
    EMBEDDED,
    Weights,
    build_on_meta,
    load_autoencoder,
    resolve_weights,
)

if TYPE_CHECKING:
    import torch

    from fmritok.tokenizers.vae.arithmetic import Arithmetic
    from fmritok.tokenizers.vae.delta import DeltaEncoder

__all__ = ["VaeTokenizer", "tokens_from_latents"]

_EDGE = SHAPE[0]
_AXES = 3
#: Slices of an axis from one to the next that an error is measured on.
_EVERY = 12
#: Where (frame, slice, row, column) of each slicing axis lie in (frame, ax0, ax1, ax2).
_TO_SLICES = ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2))
#: Where (frame, ax0, ax1, ax2, slice in cell, channel) lie in (frame, cell, slice, channel, row,
#: column) of each slicing axis.
_TO_CELLS = ((0, 1, 4, 5, 2, 3), (0, 4, 1, 5, 2, 3), (0, 4, 5, 1, 2, 3))


class VaeTokenizer(VolumeTokenizer):
    """Encode volumes by slices with a 2D image autoencoder of diffusers.

    Parameters
    ----------
    weights : str
        ``dcae-tiny`` (embedded), a local folder, or a fetched hub id.
    revision : str, optional
        Of a hub id.
    intensity : {"max", "zscore"}
    clip : float
        Standard deviations that become 1 in ``zscore``.
    arithmetic : {"fp32", "tf32", "bf16", "fp16", "delta"}
        See :mod:`fmritok.tokenizers.vae.arithmetic`. Tokens are float32 in all of them.
    batch_size : int
        Slices a batch; always filled up, because another size may round differently. It is
        halved when memory runs out, and stays smaller for the rest of the process. With ``delta``
        the slices are frames at one slice position.
    device : str
        Where to encode; ``auto`` takes a GPU if there is one.
    compile : bool
        Whether to run the encoder through ``torch.compile``; not with ``delta``.
    dtype : str, optional
        Older name of ``arithmetic``, in the notes of older stores.

    Raises
    ------
    FmritokError
        If there is no such arithmetic, or ``delta`` is to be compiled.
    """

    name: ClassVar[str] = "vae"
    machine_options: ClassVar[tuple[str, ...]] = ("batch_size", "device", "compile")

    def __init__(
        self,
        weights: str = EMBEDDED,
        *,
        revision: str | None = None,
        intensity: IntensityMode = "max",
        clip: float = 4.0,
        arithmetic: Arithmetic = "fp32",
        batch_size: int = 16,
        device: str = "auto",
        compile: bool = False,
        dtype: Arithmetic | None = None,
    ) -> None:
        self.weights: Weights = resolve_weights(weights, revision)
        self.intensity = intensity
        self.clip = clip
        self.arithmetic = _known(dtype or arithmetic, compile)
        self.batch_size = batch_size
        self.device = device
        self.compile = compile
        self._encoder: torch.nn.Module | None = None
        self._full: torch.nn.Module | None = None
        self._delta: DeltaEncoder | None = None
        #: What of `batch_size` has fitted into memory.
        self._fitting = batch_size
        self._background: dict[tuple[float, int], torch.Tensor] = {}

    @cached_property
    def latent_shape(self) -> tuple[int, int]:
        """Channels and cells along an edge of one slice's latent, read off the architecture."""
        import torch

        model = build_on_meta(self.weights, decoder=False)
        latent = _latent(model, torch.empty(1, 3, _EDGE, _EDGE, device="meta"))
        return latent.shape[1], latent.shape[2]

    @property
    def grid(self) -> TokenGrid:
        """Cells in (ax0, ax1, ax2) order; features: slicing axis, slice in the cell, channel."""
        channels, cells = self.latent_shape
        depth = _EDGE // cells
        layout = {
            "cells": [cells] * 3,
            "cell_mm": depth * VOXEL_MM,
            "token_order": "ax0 slowest, then ax1, ax2",
            "feature_shape": [_AXES, depth, channels],
            "feature_order": "slicing axis slowest, then slice in the cell, then latent channel",
        }
        return TokenGrid(cells**3, _AXES * depth * channels, cell_centres(cells), layout)

    @property
    def needs_voxel_statistics(self) -> bool:
        """Whether each voxel's mean and standard deviation are needed."""
        return self.intensity == "zscore" or self.arithmetic == "delta"

    @property
    def block_frames(self) -> int:
        """Frames to encode together: many with ``delta``, which encodes the mean with each."""
        return 64 if self.arithmetic == "delta" else super().block_frames

    @property
    def run_arrays(self) -> dict[str, tuple[int, ...]]:
        """The voxel statistics that undo ``zscore``."""
        return run_array_shapes(self.intensity)

    def provenance(self) -> dict[str, Any]:
        """Return what decides what the tokens mean."""
        return {
            "tokenizer": self.name,
            "weights": {"sha256": self.weights.sha256, "config": self.weights.config},
            "intensity": {"mode": self.intensity}
            | ({"clip": self.clip} if self.intensity == "zscore" else {}),
            "dtype": self.arithmetic,  # the name that the first stores gave it
            "space": {
                "name": "MNI152",
                "shape": list(SHAPE),
                "affine": AFFINE.tolist(),
            },
            "layout": dict(self.grid.layout),
        }

    def notes(self) -> dict[str, Any]:
        """Return where the weights came from and how they are run."""
        return {
            "weights": {"id": self.weights.id, "revision": self.weights.revision},
            "batch_size": self.batch_size,
            "compile": self.compile,
        }

    def setup(self) -> None:
        """Load the encoder onto the device."""
        if self._encoder is None:
            encoder = self._place(load_autoencoder(self.weights, decoder=False))
            if self.compile:
                encoder.encoder.compile(mode="default")  # type: ignore[union-attr, operator]
            self._encoder = encoder
            if self.arithmetic == "delta":
                from fmritok.tokenizers.vae.delta import DeltaEncoder

                self._delta = DeltaEncoder(lambda images: _latent(encoder, images))

    @property
    def is_approximate(self) -> bool:
        """Whether another arithmetic than ``fp32`` was asked for."""
        return self.arithmetic != "fp32"

    def measure_error(self, frames: Frames, intensity: Intensity) -> dict[str, Any]:
        """Measure the error of the tokens' time courses, against true fp32 on the same device.

        Only every twelfth slice of each axis is encoded, for time.

        Parameters
        ----------
        frames : np.ndarray of shape (n_frames, 96, 96, 96), float32
            Spread over a run: :func:`fmritok.tokenizers.fidelity.spread_frames`.
        intensity : Intensity
            The run's.

        Returns
        -------
        dict
            ``arithmetic``, ``against``, ``median`` and ``percentile_95`` of the relative error
            over features, ``frames``.
        """
        exact = VaeTokenizer(
            self.weights.id, revision=self.weights.revision or None, intensity=self.intensity,
            clip=self.clip, batch_size=self.batch_size, device=self.device,
        )  # fmt: skip
        exact.setup()
        some = slice(_EVERY // 2, None, _EVERY)
        found = time_course_error(
            self._within_memory(lambda: self._latents(frames, intensity, some)).swapaxes(0, 1),
            exact._within_memory(lambda: exact._latents(frames, intensity, some)).swapaxes(0, 1),
        )
        return {
            "arithmetic": self.arithmetic,
            "against": exact.arithmetic,
            "median": found.median,
            "percentile_95": found.percentile_95,
            "frames": len(frames),
        }

    def fit(self, statistics: VolumeStatistics) -> Intensity:
        """Return the run's intensity map."""
        return fit_intensity(self.intensity, statistics, clip=self.clip)

    def restore(
        self, scalars: Mapping[str, float], arrays: Mapping[str, npt.NDArray[np.float32]]
    ) -> Intensity:
        """Return the run's intensity map from its record and per-run arrays."""
        return Intensity(self.intensity, dict(scalars), dict(arrays))

    def encode(self, frames: Frames, intensity: Intensity) -> Tokens:
        """Encode volumes.

        Parameters
        ----------
        frames : np.ndarray of shape (n_frames, 96, 96, 96), float32
        intensity : Intensity

        Returns
        -------
        np.ndarray of shape (n_frames, n_tokens, dim), float32

        Raises
        ------
        MachineError
            If memory does not take a single slice.
        """
        return self._within_memory(lambda: self._encode(frames, intensity))

    def _encode(self, frames: Frames, intensity: Intensity) -> Tokens:
        import torch

        latents = torch.from_numpy(self._latents(frames, intensity))
        tokens: Tokens = tokens_from_latents(latents).numpy()
        return tokens

    def _latents(
        self, frames: Frames, intensity: Intensity, some: slice = slice(None)
    ) -> npt.NDArray[np.float32]:
        """Encode all slices, or some along each axis (3, n_frames, slices, channels, ...)."""
        import torch

        from fmritok.tokenizers.vae.arithmetic import fp32_products, rounded

        volumes = torch.from_numpy(intensity.forward(frames))
        slices = [volumes.permute(order)[:, some] for order in _TO_SLICES]
        device = next(self._ready.parameters()).device
        with torch.inference_mode(), fp32_products(self.arithmetic, device):
            if self._delta is not None:
                mean = frames.mean(0) if intensity.mean is None else intensity.mean
                near = torch.from_numpy(intensity.forward(mean[None]))
                means = [near.permute(order)[0, some] for order in _TO_SLICES]
                found = self._by_position(self._delta, slices, means, intensity.fill, device)
            else:
                with rounded(self.arithmetic, device):
                    found = self._by_frame(slices, intensity.fill)
        values: npt.NDArray[np.float32] = found.numpy()
        return values

    def _by_frame(self, slices: list[torch.Tensor], fill: float) -> torch.Tensor:
        """Encode slices in batches that run across frames and axes."""
        import torch

        drawn = [(s != fill).flatten(2).any(-1) for s in slices]
        empty = self._background_latent(fill)
        latents = empty.repeat(_AXES, *slices[0].shape[:2], 1, 1, 1)
        pending = torch.cat([s[where] for s, where in zip(slices, drawn, strict=True)])
        encoded = [self._encode_batch(part, fill) for part in pending.split(self._fitting)]
        by_axis = torch.cat(encoded).cpu().split([int(where.sum()) for where in drawn])
        for axis, where in enumerate(drawn):
            latents[axis][where] = by_axis[axis]
        return latents

    def _by_position(
        self,
        delta: DeltaEncoder,
        slices: list[torch.Tensor],
        means: list[torch.Tensor],
        fill: float,
        device: torch.device,
    ) -> torch.Tensor:
        """Encode slices position by position, as deviations from the mean there."""
        import torch

        from fmritok.tokenizers.vae.positions import encode_positions

        blank = torch.full((1, 3, _EDGE, _EDGE), fill, device=device)
        empty = delta.base(blank).latents[0].float().cpu()
        along = [
            encode_positions(delta, *axis, empty, fill, frames=self._fitting, device=device)
            for axis in zip(slices, means, strict=True)
        ]
        return torch.stack(along)

    def decode(self, tokens: Tokens, intensity: Intensity) -> Frames:
        """Decode tokens: the mean of what the three slicing axes give.

        Parameters
        ----------
        tokens : np.ndarray of shape (n_frames, n_tokens, dim), float32
        intensity : Intensity

        Returns
        -------
        np.ndarray of shape (n_frames, 96, 96, 96), float32

        Raises
        ------
        MachineError
            If memory does not take a single slice.
        """
        return self._within_memory(lambda: self._decode(tokens, intensity))

    def _decode(self, tokens: Tokens, intensity: Intensity) -> Frames:
        import torch

        if self._full is None:
            self._full = self._place(load_autoencoder(self.weights, decoder=True))
        channels, cells = self.latent_shape
        latents = latents_from_tokens(torch.from_numpy(tokens), channels, cells)
        total = torch.zeros(len(tokens), *SHAPE)
        with torch.inference_mode():
            for axis, order in enumerate(_TO_SLICES):
                flat = latents[axis].flatten(0, 1)
                decoded = torch.cat(
                    [self._decode_batch(part) for part in flat.split(self._fitting)]
                )
                back = tuple(int(i) for i in np.argsort(order))
                total += decoded.reshape(len(tokens), _EDGE, _EDGE, _EDGE).permute(back)
        return intensity.inverse((total / _AXES).numpy())

    @property
    def _ready(self) -> torch.nn.Module:
        assert self._encoder is not None, "setup() comes before encode()"
        return self._encoder

    def _place(self, model: torch.nn.Module) -> torch.nn.Module:
        """Move a model to the device and type; 16-bit convolutions prefer channels last."""
        import torch

        from fmritok.tokenizers.vae.arithmetic import half_type

        device = choose_device(self.device)
        half = half_type(self.arithmetic)
        if half is not None:
            model = model.to(half)
            return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.to(device)

    def _within_memory(self, work: Callable[[], npt.NDArray[np.float32]]) -> Frames | Tokens:
        """Do work in batches; where memory does not take them, again in batches of half the size.

        All of the work is done again: one call never mixes two batch sizes.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:  # torch's own error is a RuntimeError
                if not is_out_of_memory(error):
                    raise
                if self._fitting == 1:
                    raise MachineError(
                        expected("Memory", f"of device {self.device}", "room for a batch of 1 "
                                 f"slice, after every larger one (--batch-size {self.batch_size})",
                                 str(error).strip().partition("\n")[0].rstrip("."),
                                 "Free the GPU (nvidia-smi shows who uses it) or encode with "
                                 "--device cpu; on a CPU, use fewer --workers.")
                    ) from error  # fmt: skip
            # The error is gone by now, and with it the tensors that its traceback held.
            self._fitting //= 2
            free_gpu_memory()

    def _encode_batch(self, slices: torch.Tensor, fill: float) -> torch.Tensor:
        """Encode slices (n, 96, 96), no more than fit, to float32 latents on the device."""
        import torch

        n = len(slices)
        if n < self._fitting:
            empty = torch.full((self._fitting - n, _EDGE, _EDGE), fill)
            slices = torch.cat([slices, empty])
        weight = next(self._ready.parameters())
        x = slices[:, None].to(weight.device, weight.dtype)
        if weight.dtype != torch.float32:
            x = x.contiguous(memory_format=torch.channels_last)
        return _latent(self._ready, x.expand(-1, 3, -1, -1))[:n].float()

    def _decode_batch(self, latents: torch.Tensor) -> torch.Tensor:
        assert self._full is not None
        weight = next(self._full.parameters())
        decoded = self._full.decode(latents.to(weight.device, weight.dtype)).sample  # type: ignore[operator]
        return decoded.float().mean(1).cpu()  # type: ignore[no-any-return]

    def _background_latent(self, fill: float) -> torch.Tensor:
        """Return the latent of an empty slice, encoded once, at the size of every other batch."""
        import torch

        key = fill, self._fitting
        if key not in self._background:
            empty = torch.full((1, _EDGE, _EDGE), fill)
            self._background[key] = self._encode_batch(empty, fill)[0].cpu()
        return self._background[key]


def _known(arithmetic: str, compile: bool) -> str:
    """Refuse an arithmetic that there is not."""
    from fmritok.tokenizers.vae.arithmetic import ARITHMETICS

    if arithmetic not in ARITHMETICS:
        raise FmritokError(
            expected("Arithmetic", "of tokenizer vae", f"one of {', '.join(ARITHMETICS)}",
                     arithmetic, "Choose one of them; docs/precision.md has their errors.")
        )  # fmt: skip
    if compile and arithmetic == "delta":
        raise FmritokError(
            expected("Tokenizer vae", "with --arithmetic delta", "no --compile", "--compile",
                     "Leave it away: delta is not compiled.")
        )  # fmt: skip
    return arithmetic


def _latent(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the latent of any diffusers autoencoder: the mode, where it is a distribution."""
    encoded = model.encode(x)  # type: ignore[operator]
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist.mode()  # type: ignore[no-any-return]
    return encoded.latent if hasattr(encoded, "latent") else encoded.latents  # type: ignore[no-any-return]


def tokens_from_latents(latents: torch.Tensor) -> torch.Tensor:
    """Gather the latents of three slicing axes into tokens.

    Parameters
    ----------
    latents : torch.Tensor of shape (3, n_frames, 96, channels, cells, cells)
        By slicing axis, frame and slice. The planes of axis 0 are (ax1, ax2), of axis 1 (ax0, ax2)
        and of axis 2 (ax0, ax1).

    Returns
    -------
    torch.Tensor of shape (n_frames, cells**3, 3 * 96 / cells * channels)
    """
    import torch

    _, n_frames, edge, channels, cells, _ = latents.shape
    split = latents.reshape(_AXES, n_frames, cells, edge // cells, channels, cells, cells)
    blocks = [block.permute(order) for block, order in zip(split, _TO_CELLS, strict=True)]
    return torch.stack(blocks, dim=4).reshape(n_frames, cells**3, -1)


def latents_from_tokens(tokens: torch.Tensor, channels: int, cells: int) -> torch.Tensor:
    """Undo :func:`tokens_from_latents`."""
    import torch

    n_frames = len(tokens)
    blocks = tokens.reshape(n_frames, cells, cells, cells, _AXES, _EDGE // cells, channels)
    axes = []
    for axis, order in enumerate(_TO_CELLS):
        back = tuple(int(i) for i in np.argsort(order))
        axes.append(
            blocks.select(4, axis).permute(back).reshape(n_frames, _EDGE, channels, cells, cells)
        )
    return torch.stack(axes)
