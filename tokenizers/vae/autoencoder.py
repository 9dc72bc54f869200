"""An image autoencoder on a device: slices to latents and back, in batches that fit its memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import torch

from fmritok.device import choose_device, current, fetch, free_gpu_memory, send
from fmritok.errors import MachineError, expected
from fmritok.faults import is_out_of_memory
from fmritok.tokenizers.grid import SHAPE
from fmritok.tokenizers.vae.arithmetic import equal_batches, fp32_products, half_type, rounded
from fmritok.tokenizers.vae.delta import DeltaEncoder
from fmritok.tokenizers.vae.execution import Execution
from fmritok.tokenizers.vae.positions import encode_positions
from fmritok.tokenizers.vae.weights import Weights, load_autoencoder

__all__ = ["SliceAutoencoder", "latent_of"]

T = TypeVar("T")

#: Torch's switches for products hold for all threads of a process: one of them encodes at a time.
_ONE_AT_A_TIME = threading.Lock()


class SliceAutoencoder:
    """An autoencoder of diffusers over grey slices.

    Parameters
    ----------
    weights : Weights
    execution : Execution
        Its batch is halved when memory runs out, and stays smaller.
    device : str
    """

    def __init__(self, weights: Weights, execution: Execution, device: str) -> None:
        self._weights, self._execution, self._name = weights, execution, device
        self._arithmetic = execution.arithmetic
        self._fitting = execution.batch_size
        self._background: dict[tuple[float, int], torch.Tensor] = {}

    @cached_property
    def device(self) -> torch.device:
        """Where it computes."""
        return choose_device(self._name)

    @cached_property
    def model(self) -> torch.nn.Module:
        """The autoencoder without its decoder, on the device."""
        model = self._place(load_autoencoder(self._weights, decoder=False))
        if self._execution.compile and self._arithmetic != "delta":
            model.encoder.compile(mode="default")  # type: ignore[union-attr, operator]
        return model

    @cached_property
    def _full(self) -> torch.nn.Module:
        return self._place(load_autoencoder(self._weights, decoder=True))

    @cached_property
    def _delta(self) -> DeltaEncoder:
        return DeltaEncoder(
            lambda images: latent_of(self.model, images),
            compile=self._execution.compile,
            channels_last=self._execution.channels_last,
        )

    def prepare(self) -> None:
        """Load the encoder onto the device, and compile it if it is to be.

        Raises
        ------
        MachineError
            If memory does not take a single slice.
        """
        _ = self.model
        if self._execution.compile:
            blank = torch.zeros(1, 1, *SHAPE[1:], device=self.device)
            blank[..., 0] = 1  # what is all background is not encoded
            self.encode([blank], [blank[0]], fill=0)

    def encode(
        self, slices: list[torch.Tensor], means: list[torch.Tensor] | None, fill: float
    ) -> torch.Tensor:
        """Encode slices along several axes.

        Parameters
        ----------
        slices : list of torch.Tensor of shape (n_frames, n_slices, height, width)
            By slicing axis, on the device.
        means : list of torch.Tensor of shape (n_slices, height, width), optional
            The run's mean slices, for ``delta``.
        fill : float
            Value of the background.

        Returns
        -------
        torch.Tensor of shape (n_axes, n_frames, n_slices, channels, cells, cells), float32
            On the device.

        Raises
        ------
        MachineError
            If memory does not take a single slice.
        """

        def work() -> torch.Tensor:
            with torch.inference_mode(), fp32_products(self._arithmetic, self.device):
                if self._arithmetic == "delta":
                    assert means is not None
                    return self._by_position(self._delta, slices, means, fill)
                tries = equal_batches(self._execution.tries_kernels)
                with rounded(self._arithmetic, self.device), tries:
                    return self._by_frame(slices, fill)

        return self._within_memory(work)

    def decode(self, latents: torch.Tensor) -> list[torch.Tensor]:
        """Decode latents (n_axes, n_frames, n_slices, channels, cells, cells) to grey slices.

        Returns
        -------
        list of torch.Tensor of shape (n_frames, n_slices, height, width), float32

        Raises
        ------
        MachineError
            If memory does not take a single slice.
        """

        def work() -> list[torch.Tensor]:
            with torch.inference_mode():
                parts = [one.flatten(0, 1).split(self._fitting) for one in latents]
                found = [torch.cat([self._decode_batch(part) for part in axis]) for axis in parts]
            return [values.unflatten(0, latents.shape[1:3]) for values in found]

        return self._within_memory(work)

    def _place(self, model: torch.nn.Module) -> torch.nn.Module:
        """Move a model to the device, the type of its weights and the layout."""
        model = model.to(self.device, half_type(self._arithmetic))
        if self._execution.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def _by_frame(self, slices: list[torch.Tensor], fill: float) -> torch.Tensor:
        """Encode slices in batches that run across frames and axes."""
        drawn = [(s != fill).flatten(2).any(-1) for s in slices]
        empty = self._background_latent(fill)
        latents = empty.repeat(len(slices), *slices[0].shape[:2], 1, 1, 1)
        pending = torch.cat([s[where] for s, where in zip(slices, drawn, strict=True)])
        encoded = [self._encode_batch(part, fill) for part in pending.split(self._fitting)]
        by_axis = torch.cat(encoded).split([int(where.sum()) for where in drawn])
        for axis, where in enumerate(drawn):
            latents[axis][where] = by_axis[axis]
        return latents

    def _by_position(
        self,
        delta: DeltaEncoder,
        slices: list[torch.Tensor],
        means: list[torch.Tensor],
        fill: float,
    ) -> torch.Tensor:
        """Encode slices position by position, as deviations from the mean there."""
        blank = torch.full((1, 3, *slices[0].shape[2:]), fill, device=self.device)
        empty = delta.base(blank).latents[0].float()
        along = [
            encode_positions(
                delta, *axis, empty, fill,
                frames=self._fitting, tries_kernels=self._execution.tries_kernels,
            )
            for axis in zip(slices, means, strict=True)
        ]  # fmt: skip
        return torch.stack(along)

    def _encode_batch(self, slices: torch.Tensor, fill: float) -> torch.Tensor:
        """Encode slices (n, height, width), no more than fit, to float32 latents on the device."""
        n = len(slices)
        if n < self._fitting:
            empty = slices.new_full((self._fitting - n, *slices.shape[1:]), fill)
            slices = torch.cat([slices, empty])
        x = slices[:, None].to(next(self.model.parameters()).dtype)
        if self._execution.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return latent_of(self.model, x.expand(-1, 3, -1, -1))[:n].float()

    def _decode_batch(self, latents: torch.Tensor) -> torch.Tensor:
        weight = next(self._full.parameters())
        placed = send(latents, weight.device).to(weight.dtype)
        return fetch(self._full.decode(placed).sample.float().mean(1))  # type: ignore[operator]

    def _background_latent(self, fill: float) -> torch.Tensor:
        """Return the latent of an empty slice, encoded once, at the size of every other batch."""
        key = fill, self._fitting
        if key not in self._background:
            empty = torch.full((1, *SHAPE[1:]), fill, device=self.device)
            self._background[key] = self._encode_batch(empty, fill)[0]
        return self._background[key]

    def _within_memory(self, work: Callable[[], T]) -> T:
        """Do work in batches; where memory does not take them, again in batches of half the size.

        All of the work is done again: one call never mixes two batch sizes.
        """
        while True:
            try:
                with _ONE_AT_A_TIME, current(self.device):
                    return work()
            except (RuntimeError, MemoryError) as error:  # torch's own error is a RuntimeError
                if not is_out_of_memory(error):
                    raise
                if self._fitting == 1:
                    tried = self._execution.batch_size
                    raise MachineError(
                        expected("Memory", f"of device {self._name}", "room for a batch of 1 "
                                 f"slice, after every larger one (--batch-size {tried})",
                                 str(error).strip().partition("\n")[0].rstrip("."),
                                 "Free the GPU (nvidia-smi shows who uses it) or encode with "
                                 "--device cpu; on a CPU, use fewer --workers.")
                    ) from error  # fmt: skip
            # The error is gone by now, and with it the tensors that its traceback held.
            self._fitting //= 2
            free_gpu_memory()


def latent_of(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the latent of any diffusers autoencoder: the mode, where it is a distribution."""
    encoded = model.encode(x)  # type: ignore[operator]
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist.mode()  # type: ignore[no-any-return]
    return encoded.latent if hasattr(encoded, "latent") else encoded.latents  # type: ignore[no-any-return]
