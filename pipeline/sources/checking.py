"""Checks of the values of a run while it is read. Invalid values are errors, never zeros."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import RunError, expected
from fmritok.pipeline.sources.opening import RunSource
from fmritok.tokenizers.spaces import LEFT, RIGHT, VOXEL, SurfaceSpace

__all__ = ["checked_blocks"]

Block = npt.NDArray[Any]

#: Range of magnitudes of float32, the type in which runs are processed.
_FLOAT32 = (float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max))
#: Share of values at the limit of an integer type above which a run counts as clipped.
_CLIPPED = 1e-3


def checked_blocks(source: RunSource, path: str) -> Iterator[Block]:
    """Yield the blocks of a run, and refuse invalid values.

    Samples that are NaN in all frames have no data, such as fMRIPrep's medial wall and SPM's
    background. They become 0. Samples that are NaN in some frames are damage.

    Raises
    ------
    RunError
        If values are infinite, NaN in some frames, beyond float32, clipped, equal in a whole frame,
        or constant over time in the run or in one hemisphere.
    """
    checks = _Checks(source, path)
    blocks = source.blocks()
    for block in blocks:
        clean = checks.checked(block)
        if clean is None:
            checks.refuse_damage(blocks)
        else:
            yield clean
    checks.finish()


class _Checks:
    """State of the checks of a run, updated block by block."""

    def __init__(self, source: RunSource, path: str) -> None:
        self._source, self._path = source, path
        self._done = 0
        self._first: Block | None = None
        self._varies: npt.NDArray[np.bool_]
        self._constant: tuple[int, float] | None = None
        self._at_limit = self._values = 0
        self._low, self._high = np.inf, -np.inf
        #: Samples that were NaN in all frames so far, and in some frames.
        self._always: npt.NDArray[np.bool_] | None = None
        self._ever: npt.NDArray[np.bool_]
        self._first_damaged = 0

    def checked(self, block: Block) -> Block | None:
        """Return a block with 0 for samples without data; None if NaN are in some frames only."""
        if block.dtype.kind == "f":
            filled = self._without_nan(block)
            if filled is None:
                return None
            block = filled
        low, high = block.min(axis=1), block.max(axis=1)
        if self._constant is None and (low == high).any():
            at = int(np.argmax(low == high))
            self._constant = self._done + at, float(low[at])
        self._low, self._high = min(self._low, low.min()), max(self._high, high.max())
        self._refuse_unless(self._largest <= _FLOAT32[1])
        self._count_limits(block, low, high)
        self._compare(block)
        self._done += len(block)
        return block

    def refuse_damage(self, blocks: Iterator[Block]) -> None:
        """Read the run to its end, count its damaged samples, and refuse it."""
        for block in blocks:
            self._count_nan(np.isnan(block))
        assert self._always is not None
        damaged = int((self._ever & ~self._always).sum())
        space = self._source.space
        places = "voxels"
        if isinstance(space, SurfaceSpace):
            places = "grayordinates" if (space.part == VOXEL).any() else "vertices"
        raise self._refusal(
            f"Frame {self._first_damaged} of", "finite intensities",
            f"{damaged} NaN {places} that are finite in other frames",
            "Repair the run: only NaN in all frames means that there are no data.",
        )  # fmt: skip

    def finish(self) -> None:
        """Run the checks that need the whole run."""
        if self._first is None or not self._varies.any():
            zero = self._first is None or not np.any(self._first != self._zero)
            got = "nothing but 0" if zero else "the same in every frame"
            if self._always is not None and self._always.all():
                got = "NaN everywhere"
            raise self._refusal("Run", "intensities that vary over time", got,
                                "Check the preprocessing of this run.")  # fmt: skip
        if self._constant is not None:
            frame, value = self._constant
            raise self._refusal(
                f"Frame {frame} of", "intensities that differ within a frame",
                f"{value:g} in all of them", "Repair the run, or leave it out.",
            )  # fmt: skip
        self._refuse_unless(self._largest >= _FLOAT32[0])
        if self._at_limit > _CLIPPED * self._values:
            limits = np.iinfo(self._source.dtype)
            raise self._refusal(
                "Run", "intensities within the range of its integers",
                f"{self._at_limit / self._values:.1%} of them at {limits.min} or {limits.max}",
                "They were clipped: convert the run again, to float32.",
            )  # fmt: skip
        self._refuse_still_hemispheres()

    def _without_nan(self, block: Block) -> Block | None:
        none_before = self._always is None or not self._always.any()
        with np.errstate(over="ignore"):  # then every value is checked
            total = block.sum(dtype=np.float64)
        if none_before and np.isfinite(total):
            self._always = self._ever = np.zeros(block.shape[1], bool)
            return block
        nan = np.isnan(block)
        if np.isinf(block).any():
            frame = int(np.argmax(np.isinf(block).any(axis=1)))
            raise self._refusal(
                f"Frame {self._done + frame} of", "finite intensities",
                f"{int(np.isinf(block[frame]).sum())} infinite ones", "Repair the run.",
            )  # fmt: skip
        before = self._always
        self._count_nan(nan)
        assert self._always is not None
        reference = nan[0] if before is None else before
        odd = (nan != reference).any(axis=1)
        if odd.any():
            frame = int(np.argmax(odd))
            appears = (nan[frame] & ~reference).any()
            self._first_damaged = self._done + frame if appears else 0
            return None
        return np.where(nan, block.dtype.type(self._zero), block) if reference.any() else block

    def _count_nan(self, nan: npt.NDArray[np.bool_]) -> None:
        every, some = np.asarray(nan.all(axis=0)), np.asarray(nan.any(axis=0))
        if self._always is None:
            self._always, self._ever = every, some
        else:
            self._always, self._ever = self._always & every, self._ever | some

    def _count_limits(self, block: Block, low: Block, high: Block) -> None:
        self._values += block.size
        if block.dtype.kind in "iu":
            limits = np.iinfo(block.dtype)
            if high.max() == limits.max:
                self._at_limit += int((block == limits.max).sum())
            # with a slope, tools map the smallest value to the smallest integer
            is_plain = self._source.slope == 1 and self._source.intercept == 0
            if is_plain and limits.min < 0 and low.min() == limits.min:
                self._at_limit += int((block == limits.min).sum())

    def _compare(self, block: Block) -> None:
        """Update the mask of samples that vary, compared as float32 for wider types."""
        if block.dtype.itemsize > 4 or block.dtype.kind in "iu" and block.dtype.itemsize == 4:
            with np.errstate(over="ignore"):
                block = block.astype(np.float32)
        if self._first is None:
            self._first = block[0].copy()
            self._varies = np.zeros(block.shape[1], bool)
        if isinstance(self._source.space, SurfaceSpace) or not self._varies.any():
            self._varies |= (block != self._first).any(axis=0)

    @property
    def _largest(self) -> float:
        """The largest magnitude so far, with slope and intercept applied."""
        largest = max(abs(float(self._low)), abs(float(self._high)))
        return largest * abs(self._source.slope) + abs(self._source.intercept)

    def _refuse_unless(self, fits: bool) -> None:
        if not fits:
            raise self._refusal(
                "Run", f"intensities of {_FLOAT32[0]:.0e} to {_FLOAT32[1]:.0e} (float32)",
                f"{self._largest:.3g}", "Scale the run, or correct its slope (scl_slope).",
            )  # fmt: skip

    def _refuse_still_hemispheres(self) -> None:
        space = self._source.space
        if not isinstance(space, SurfaceSpace):
            return
        for part, name in ((LEFT, "left"), (RIGHT, "right")):
            inside = space.part == part
            if inside.any() and not self._varies[inside].any():
                assert self._first is not None
                still = np.any(self._first[inside])
                raise self._refusal(
                    "Run", f"a {name} hemisphere that varies over time",
                    "the same in every frame" if still else "nothing but 0 or NaN",
                    "Check the preprocessing of this run.",
                )  # fmt: skip

    @property
    def _zero(self) -> float:
        return -self._source.intercept / self._source.slope

    def _refusal(self, what: str, wanted: str, got: str, next_step: str) -> RunError:
        return RunError(expected(what, self._path, wanted, got, next_step))
