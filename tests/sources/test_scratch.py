"""Working arrays hold what is written, reserve room at once, and are no part of the memory."""

from __future__ import annotations

import errno

import numpy as np
import psutil
import pytest

from fmritok.pipeline.sources.scratch import ScratchArray


def test_slices_come_back_as_they_were_written(tmp_path, rng):
    values = rng.standard_normal((23, 4, 5)).astype(np.float32)
    array = ScratchArray(values.shape, np.float32, tmp_path)
    for first in (8, 0, 16):
        array[first : first + 8] = values[first : first + 8]
    assert len(array) == 23
    np.testing.assert_array_equal(array[3:19], values[3:19])
    np.testing.assert_array_equal(array[20:99], values[20:])
    assert array[5:5].shape == (0, 4, 5)


def test_nothing_is_left_behind_or_held_in_memory(tmp_path):
    before = psutil.Process().memory_info().rss
    array = ScratchArray((64, 1 << 20), np.int8, tmp_path)
    for row in range(64):
        array[row : row + 1] = np.full((1, 1 << 20), row, np.int8)
    assert (array[63:64] == 63).all()
    assert psutil.Process().memory_info().rss - before < 16 << 20
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_an_error_at_once(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        ScratchArray((4, 4), np.float32, tmp_path)
