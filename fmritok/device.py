"""Which device computes, and how many processes fit a machine: decided here for all commands.

``auto`` is a GPU if torch sees one, else the CPU. Under ``torchrun`` each process takes the GPU of
its number on the machine. torch is imported when it is needed.
"""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fmritok.errors import FmritokError, expected

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch

__all__ = [
    "Fetch", "choose_device", "compiles_by_default", "count_cores", "count_gpus", "current",
    "fetch", "free_gpu_memory", "local_rank", "peak_memory", "send", "visible_gpus",
]  # fmt: skip


def choose_device(name: str = "auto", *, error: type[FmritokError] = FmritokError) -> torch.device:
    """Return the device of a name, such as ``auto``, ``cpu`` or ``cuda:1``.

    A GPU becomes this process's current one: what torch does without a device named, such as
    pinning memory, then touches no other GPU.

    Parameters
    ----------
    name : str
    error : type
        Kind of error to raise.

    Raises
    ------
    FmritokError
        If torch cannot use that device here.
    """
    import torch

    if name == "auto":
        name = "cuda" if count_gpus() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank()}"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            if not torch.cuda.is_available():  # a build without CUDA raises AttributeError
                raise RuntimeError("torch finds no GPU")
            torch.cuda.set_device(device)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
    except (RuntimeError, AssertionError) as problem:
        reason, *_ = str(problem).partition(". ")[0].splitlines()
        raise error(
            expected("Option", "device", "a device that torch can use here, such as cpu or cuda",
                     f"{name!r} ({reason})", "Leave it out.")
        ) from problem  # fmt: skip
    return device


def local_rank() -> int:
    """Return the number of this process among those that ``torchrun`` started on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def count_gpus() -> int:
    """Return the number of GPUs that torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def visible_gpus() -> list[str]:
    """Return the GPUs of this process, as ``CUDA_VISIBLE_DEVICES`` of one process can name them.

    Numbers, or what the variable says now: a scheduler may have granted other numbers, UUIDs, or
    parts of a GPU (MIG). torch sees one part only, however many are granted.
    """
    count = count_gpus()
    granted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if granted is None or not count:
        return [str(number) for number in range(count)]
    names = [name.strip() for name in granted.split(",")]
    parts = [name for name in names if name.startswith("MIG-")]
    return parts or names[:count]


def count_cores() -> int:
    """Return the number of cores that this process may use, as a scheduler granted them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_gpu_memory() -> None:
    """Return cached memory to the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def send(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the host on a device, without waiting for the device."""
    if device.type == "cuda" and x.device.type == "cpu":
        with current(device):
            # Rows that an expanded tensor has once in memory cannot be pinned as they are.
            x = x.contiguous().pin_memory()
    return x.to(device, non_blocking=True)


def fetch(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor of a device on the host, by way of pinned memory from a GPU."""
    return Fetch(x).wait()


class Fetch:
    """A copy from a device to the host that was begun.

    Parameters
    ----------
    x : Tensor
        A GPU goes on computing: the copy follows what it was given to do so far.
    """

    def __init__(self, x: torch.Tensor) -> None:
        import torch

        self._done: torch.cuda.Event | None = None
        if not x.is_cuda:
            self._host = x.cpu()
            return
        with current(x.device):
            self._host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
            self._host.copy_(x, non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    @property
    def is_done(self) -> bool:
        """Whether the copy is complete."""
        return self._done is None or bool(self._done.query())  # type: ignore[no-untyped-call]

    def wait(self) -> torch.Tensor:
        """Wait for the copy, and return it."""
        if self._done is not None:
            self._done.synchronize()
        return self._host


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one of this thread within; each thread begins with the first GPU."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def peak_memory(device: torch.device) -> int:
    """Return the peak of a GPU's allocated memory, or this process's resident memory, in bytes."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    import psutil

    return int(psutil.Process().memory_info().rss)


def compiles_by_default(device: torch.device) -> bool:
    """Tell whether ``torch.compile`` is worth it and has what it needs.

    That is a GPU of compute capability 7.0 or newer, Triton, and a C compiler.
    """
    import torch

    if device.type != "cuda" or find_spec("triton") is None:
        return False
    if not any(map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))):
        return False
    return torch.cuda.get_device_capability(device) >= (7, 0)
