"""``vae``: a pretrained 2D image autoencoder over the slices of a volume, along all three axes.

After TABLeT (Kim et al., arXiv 2604.03619, CVPR 2026): every slice of a 96x96x96 volume is encoded
by a frozen image autoencoder; for spatial factor f and c channels the latents of the three axes
meet in (96/f)**3 tokens of 3*f*c features, each a cube of f**3 voxels seen from three directions.

It gives the same tokens as encoding every slice with the full model, in less time: the decoder is
not loaded, the grey slice becomes three channels without a copy, slices that are all background are
encoded once, and batches of one fixed size run across frames and axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from fmritok.device import fetch, send
from fmritok.tokenizers.base import Frames, TokenGrid, Tokens, VolumeTokenizer
from fmritok.tokenizers.fidelity import time_course_error
from fmritok.tokenizers.grid import AFFINE, SHAPE, VOXEL_MM, cell_centres
from fmritok.tokenizers.option_types import refused_option
from fmritok.tokenizers.vae.execution import Execution, choose_arithmetic, choose_execution
from fmritok.tokenizers.vae.intensity import (
    Intensity,
    IntensityMode,
    VolumeStatistics,
    as_tensor,
    fit_intensity,
    run_array_shapes,
)
from fmritok.tokenizers.vae.weights import EMBEDDED, Weights, build_on_meta, resolve_weights

if TYPE_CHECKING:
    import torch

    from fmritok.tokenizers.vae.arithmetic import Arithmetic
    from fmritok.tokenizers.vae.autoencoder import SliceAutoencoder

__all__ = ["VaeTokenizer"]

_EDGE = SHAPE[0]
_AXES = 3
#: Slices of an axis from one to the next that an error is measured on.
_EVERY = 12


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
    arithmetic : {"auto", "fp32", "tf32", "bf16", "fp16", "delta"}
        See :mod:`fmritok.tokenizers.vae.arithmetic`. ``auto``: ``delta`` on a GPU, else ``fp32``.
        Tokens are float32 in all of them.
    batch_size : int, optional
        Slices a batch; always filled up, because another size may round differently. It is
        halved when memory runs out, and stays smaller for the rest of the process. With ``delta``
        the slices are frames at one slice position. Default: by the device, as is ``compile``; see
        :mod:`fmritok.tokenizers.vae.execution`.
    device : str
        Where to encode; ``auto`` takes a GPU if there is one.
    compile : bool, optional
        Whether to run the encoder through ``torch.compile``. False is for few volumes.
    dtype : str, optional
        Older name of ``arithmetic``, in the notes of older stores.

    Raises
    ------
    FmritokError
        If there is no such arithmetic, or a size is not above 0.
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
        arithmetic: Arithmetic | Literal["auto"] = "auto",
        batch_size: int | None = None,
        device: str = "auto",
        compile: bool | None = None,
        dtype: Arithmetic | None = None,
    ) -> None:
        from fmritok.tokenizers.vae.arithmetic import check_arithmetic

        for option, size in (("batch_size", batch_size), ("clip", clip)):
            if size is not None and not size > 0:
                raise refused_option(f"vae.{option}", "a number above 0", size)
        self.weights: Weights = resolve_weights(weights, revision)
        self.intensity = intensity
        self.clip = clip
        named = choose_arithmetic(dtype or arithmetic, device)
        self.arithmetic = check_arithmetic(named)
        self.batch_size = batch_size
        self.device = device
        self.compile = compile

    @cached_property
    def execution(self) -> Execution:
        """How this machine runs the autoencoder."""
        return choose_execution(
            self.arithmetic, self.device, batch_size=self.batch_size, compile=self.compile
        )

    @property
    def decided(self) -> dict[str, Any]:
        """The arithmetic, which ``auto`` leaves to the machine."""
        return {"arithmetic": self.arithmetic}

    @property
    def compute_device(self) -> str:
        """Where encoding and what follows it are computed."""
        return str(self._autoencoder.device)

    @cached_property
    def latent_shape(self) -> tuple[int, int]:
        """Channels and cells along an edge of one slice's latent, read off the architecture."""
        import torch

        from fmritok.tokenizers.vae.autoencoder import latent_of

        model = build_on_meta(self.weights, decoder=False)
        latent = latent_of(model, torch.empty(1, 3, _EDGE, _EDGE, device="meta"))
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
        return self.execution.block_frames

    @property
    def timing_frames(self) -> int:
        """A whole batch with ``delta``, whose batches are frames."""
        return self.execution.batch_size if self.arithmetic == "delta" else 1

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
            **self.execution.notes(),
        }

    def setup(self) -> None:
        """Load the encoder onto the device, and compile it if it is to be."""
        self._autoencoder.prepare()

    @cached_property
    def _autoencoder(self) -> SliceAutoencoder:
        from fmritok.tokenizers.vae.autoencoder import SliceAutoencoder

        return SliceAutoencoder(self.weights, self.execution, self.device)

    @property
    def is_approximate(self) -> bool:
        """Whether another arithmetic than ``fp32`` was asked for."""
        return self.arithmetic != "fp32"

    def measure_error(self, frames: Frames, intensity: Intensity) -> dict[str, Any]:
        """Measure the error of the tokens' time courses, against true fp32 on the same device.

        Only every twelfth slice of each axis is encoded, and nothing is compiled, for time.

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
        some = slice(_EVERY // 2, None, _EVERY)
        compared: tuple[Arithmetic, ...] = (self.arithmetic, "fp32")
        own, exact = (
            VaeTokenizer(
                self.weights.id, revision=self.weights.revision or None, intensity=self.intensity,
                clip=self.clip, arithmetic=arithmetic, device=self.device,
                batch_size=self.batch_size, compile=False,
            ).latents(frames, intensity, some).swapaxes(0, 1)
            for arithmetic in compared
        )  # fmt: skip
        found = time_course_error(own, exact)
        return {
            "arithmetic": self.arithmetic,
            "against": "fp32",
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
        from fmritok.tokenizers.vae.slices import tokens_from_latents

        tokens: Tokens = fetch(tokens_from_latents(self._encode(frames, intensity))).numpy()
        return tokens

    def latents(
        self, frames: Frames, intensity: Intensity, some: slice = slice(None)
    ) -> npt.NDArray[np.float32]:
        """Encode all slices along each axis, or some of them.

        Parameters
        ----------
        frames : np.ndarray of shape (n_frames, 96, 96, 96), float32
        intensity : Intensity
        some : slice
            Which slices of each axis.

        Returns
        -------
        np.ndarray of shape (3, n_frames, n_slices, channels, cells, cells), float32
        """
        values: npt.NDArray[np.float32] = fetch(self._encode(frames, intensity, some)).numpy()
        return values

    def _encode(
        self, frames: Frames, intensity: Intensity, some: slice = slice(None)
    ) -> torch.Tensor:
        """Return latents on the device; frames become slices there, too."""
        from fmritok.tokenizers.vae.slices import slices_of

        device = self._autoencoder.device
        slices = slices_of(intensity.normalize(send(as_tensor(frames), device)), some)
        means = None
        if self.arithmetic == "delta":
            mean = frames.mean(0) if intensity.mean is None else intensity.mean
            near = slices_of(intensity.normalize(send(as_tensor(mean[None]), device)), some)
            means = [along[0] for along in near]
        return self._autoencoder.encode(slices, means, intensity.fill)

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
        import torch

        from fmritok.tokenizers.vae.slices import latents_from_tokens, mean_volumes

        latents = latents_from_tokens(torch.from_numpy(tokens), *self.latent_shape)
        return intensity.inverse(mean_volumes(self._autoencoder.decode(latents)).numpy())
