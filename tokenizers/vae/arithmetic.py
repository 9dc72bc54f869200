"""The arithmetic of an image autoencoder, by name.

``fp32``
    IEEE single precision on every device.
``tf32``
    Products of numbers rounded to 10 bits, summed in fp32. GPUs have it since 2020; other devices
    round the numbers.
``bf16``, ``fp16``
    Weights and activations of 16 bits.
``delta``
    Deviations from the run's mean image, with fp16 products: :mod:`fmritok.tokenizers.vae.delta`.

Tokens are float32 in all of them. ``docs/precision.md`` has the errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch.overrides import TorchFunctionMode

from fmritok.errors import FmritokError, expected

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = [
    "ARITHMETICS",
    "Arithmetic",
    "check_arithmetic",
    "equal_batches",
    "fp32_products",
    "half_type",
    "rounded",
]

Arithmetic = Literal["fp32", "tf32", "bf16", "fp16", "delta"]
ARITHMETICS: tuple[str, ...] = get_args(Arithmetic)

_PRODUCTS = frozenset(["bmm", "conv2d", "linear", "matmul"])
#: The part of a float32 that TF32 does not have.
_LOST_BITS = 13


def check_arithmetic(arithmetic: str) -> Arithmetic:
    """Return a known arithmetic.

    Raises
    ------
    FmritokError
        If there is none of that name.
    """
    if arithmetic not in ARITHMETICS:
        raise FmritokError(
            expected("Arithmetic", "of tokenizer vae", f"one of {', '.join(ARITHMETICS)}",
                     arithmetic, "Choose one of them; docs/precision.md has their errors.")
        )  # fmt: skip
    return cast("Arithmetic", arithmetic)


def half_type(arithmetic: str) -> torch.dtype | None:
    """Return the type of weights and activations if it has 16 bits."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(arithmetic)


def rounded(arithmetic: str, device: torch.device) -> AbstractContextManager[Any]:
    """Emulate ``tf32`` within, on a device that does not have it."""
    if arithmetic == "tf32" and not _has_tf32(device):
        return _RoundedProducts()
    return nullcontext()


@contextmanager
def fp32_products(arithmetic: str, device: torch.device) -> Iterator[None]:
    """Choose how fp32 numbers are multiplied within; the process's own choice is restored.

    By default torch rounds inputs of convolutions to TF32 on a GPU. A program may ask for bf16
    products on a CPU, too.
    """
    tf32 = arithmetic == "tf32" and _has_tf32(device)
    cudnn = torch.backends.cudnn
    switches = _switches()
    newer_before = [switch.fp32_precision for switch in switches]
    try:
        older_before = cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:  # torch refuses to say, where the newer switches were set one by one
        older_before = None
    try:
        # Both kinds of switches, or torch finds that they contradict each other.
        cudnn.allow_tf32 = tf32
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        for switch in switches:
            switch.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        if older_before is not None:
            cudnn.allow_tf32 = older_before[0]
            torch.set_float32_matmul_precision(older_before[1])
        for switch, before in zip(switches, newer_before, strict=True):
            switch.fp32_precision = before


@contextmanager
def equal_batches(tries: bool = True) -> Iterator[None]:
    """Let cuDNN try its kernels within, once for each shape: it pays if batches are of one size."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = tries
    try:
        yield
    finally:
        cudnn.benchmark = before


def _switches() -> list[Any]:
    """Return the switches of newer releases of torch; before 2.9 there are none."""
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return []
    found = [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]
    return [*found, backends.mkldnn.conv, backends.mkldnn.matmul]


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


class _RoundedProducts(TorchFunctionMode):
    """Rounds the inputs and weights of products as TF32 does."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _PRODUCTS:
            args = (_to_tf32(args[0]), _to_tf32(args[1]), *args[2:])
        return func(*args, **(kwargs or {}))


def _to_tf32(x: torch.Tensor) -> torch.Tensor:
    """Round to the nearest number of 10 bits, ties away from 0."""
    half = 1 << (_LOST_BITS - 1)
    bits = x.contiguous().view(torch.int32) + half
    return (bits & ~(2 * half - 1)).view(torch.float32)
