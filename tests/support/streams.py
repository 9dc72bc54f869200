"""Endless batches of random windows, as a training asks for them."""

from __future__ import annotations

from functools import partial
from typing import Any

from fmritok.trainer.data.drawing import random_windows
from fmritok.trainer.data.windows import RunIndex, WindowBatches, Windows


def random_batches(
    index: RunIndex, *, batch_size: int, epoch: int = 0, seen: int = 0, **options: Any
) -> WindowBatches:
    """Return batches from a position on; the options are those of random_windows."""
    windows_of = partial(_windows, index, options)
    return WindowBatches(windows_of, batch_size=batch_size, epoch=epoch, seen=seen)


def _windows(index: RunIndex, options: dict[str, Any], epoch: int) -> Windows:
    return random_windows(index, epoch=epoch, **options)
