"""How the autoencoder is run. What the user leaves open is chosen by the device, here.

Speeds behind the choices were measured on one H200 and on CPUs: ``docs/precision.md``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fmritok.device import compiles_by_default, count_gpus

__all__ = ["Execution", "choose_arithmetic", "choose_execution"]


@dataclass(frozen=True)
class Execution:
    """How an autoencoder is run.

    Attributes
    ----------
    arithmetic : str
        See :mod:`fmritok.tokenizers.vae.arithmetic`.
    device : str
        Kind of device, such as ``cuda``.
    batch_size : int
        Slices (with ``delta``: frames at one slice position) a batch.
    block_frames : int
        Frames of a run that are encoded together.
    channels_last : bool
        Memory layout of convolutions.
    compile : bool
        Whether the encoder goes through ``torch.compile``.
    tries_kernels : bool
        Whether cuDNN tries its kernels on the first batch. In true fp32 that takes 20 s.
    """

    arithmetic: str
    device: str
    batch_size: int
    block_frames: int
    channels_last: bool
    compile: bool
    tries_kernels: bool

    def notes(self) -> dict[str, Any]:
        """Return all of it by name, to be recorded."""
        return asdict(self)


def choose_arithmetic(arithmetic: str, device: str) -> str:
    """Return ``delta`` on a GPU and ``fp32`` elsewhere for ``auto``; else the arithmetic itself."""
    if arithmetic != "auto":
        return arithmetic
    return "delta" if _kind(device) == "cuda" else "fp32"


def choose_execution(
    arithmetic: str, device: str, *, batch_size: int | None, compile: bool | None
) -> Execution:
    """Choose what is None by the device.

    Parameters
    ----------
    arithmetic : str
        Not ``auto``.
    device : str
        As the user named it, such as ``auto`` or ``cuda:1``.
    batch_size : int, optional
    compile : bool, optional
        False is for few volumes: cuDNN tries no kernels either.
    """
    kind = _kind(device)
    on_gpu, half = kind == "cuda", arithmetic in ("bf16", "fp16")
    tries_kernels = on_gpu and compile is not False
    if batch_size is None:
        # All slices of a volume, or enough frames for large products; a CPU gains nothing by more.
        batch_size = (128 if arithmetic == "delta" else 288) if on_gpu else 16
    if compile is None:
        # A quarter to a half of the time. Compiling takes as long as 300 to 800 volumes do.
        compile = on_gpu and (half or arithmetic == "delta") and _compiles(device)
    block_frames = 8
    if arithmetic == "delta":  # the mean is encoded once a block
        block_frames = 512 if on_gpu else 64
    channels_last = half or (on_gpu and arithmetic != "fp32")
    return Execution(
        arithmetic, kind, batch_size, block_frames, channels_last, compile, tries_kernels
    )


def _kind(device: str) -> str:
    if device == "auto":
        return "cuda" if count_gpus() else "cpu"
    return device.partition(":")[0]


def _compiles(device: str) -> bool:
    import torch

    try:
        return compiles_by_default(torch.device("cuda" if device == "auto" else device))
    except (RuntimeError, AssertionError):  # no such device: refused where it is to compute
        return False
