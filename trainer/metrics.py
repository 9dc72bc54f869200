"""The record of a training: JSON lines, TensorBoard, and the loss curve drawn from them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fmritok.pipeline.errors import expected
from fmritok.trainer.board import Board
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.faults import reason, writing
from fmritok.trainer.objectives import Figure
from fmritok.trainer.tracking import WandbRun

__all__ = ["MetricsLog", "draw_losses", "optionally", "read_metrics"]

_NAME = "metrics.jsonl"
_logger = logging.getLogger(__name__)


def optionally(what: object, do: Callable[[], Any]) -> bool:
    """Do what a training can go on without; if it fails, say so and return False.

    Its errors may be of any kind: W&B has its own, and they are no reason to stop.
    """
    try:
        do()
    except Exception as error:
        _logger.warning("Training goes on without %s: %s", what, reason(error))
        return False
    return True


class MetricsLog:
    """Appends rows to ``metrics.jsonl`` and figures to ``tensorboard/``.

    The rows are essential: a resumed training goes on with them. TensorBoard and W&B are not; the
    first failure of either is said, and training goes on without it.

    Parameters
    ----------
    folder : Path
        The run's folder.
    resume : Path, optional
        Folder of the run that is resumed: the same one, or the one that is branched from.
    size : int
        Bytes of that run's file that a resumed training keeps; later rows are dropped.
    step : int
        Last step that is kept.
    wandb : WandbRun, optional
        Gets what TensorBoard gets.

    Raises
    ------
    TrainingError
        If the disk does not take the rows.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resume: Path | None = None,
        size: int = 0,
        step: int = 0,
        wandb: WandbRun | None = None,
    ) -> None:
        self._path, self._size, self._wandb = folder / _NAME, 0, wandb
        self._board: Board | None = None
        source = None if resume is None else resume / _NAME
        with self._writing():
            if source is not None and source.exists() and self._path.exists():
                in_place = source.samefile(self._path)
            else:
                in_place = False
            # In place, nothing is written again: on a full disk, the rows would be lost.
            self._file = self._path.open("r+b" if in_place else "wb", buffering=0)
            if in_place:
                self._size = min(size, self._file.seek(0, os.SEEK_END))
                self._file.truncate(self._size)
                self._file.seek(self._size)
            elif source is not None and source.exists():
                self._append(source.read_bytes()[:size])
        optionally("TensorBoard", lambda: self._open_board(folder / "tensorboard", step + 1))

    def sync(self) -> int:
        """Make sure that all rows are on the disk, under their name; return their bytes.

        Raises
        ------
        TrainingError
            If they are not, for instance because somebody deleted the folder.
        """
        with self._writing():
            os.fsync(self._file.fileno())
            there = os.stat(self._path)
        if not os.path.samestat(there, os.fstat(self._file.fileno())):
            raise TrainingError(
                expected("Metrics", self._path, "the file that this training writes", "another one",
                         "Start again with another --out.")
            )  # fmt: skip
        return self._size

    def write(self, kind: str, row: dict[str, Any], *, draw: bool = True) -> None:
        """Append a row with its ``step``; it survives a killed process.

        Raises
        ------
        TrainingError
            If the disk does not take it; the rows before it are whole.
        """
        with self._writing():
            self._append(json.dumps({"kind": kind, **row}).encode() + b"\n")
        board, wandb = self._board, self._wandb
        if not draw:
            return
        if board is not None and not optionally("TensorBoard", lambda: _draw(board, kind, row)):
            self._board = None
        if wandb is not None and not optionally("W&B", lambda: wandb.write(kind, row)):
            self._wandb = None

    def close(self) -> None:
        """Close all of them."""
        with suppress(OSError):  # of some network disks; nothing is buffered here
            self._file.close()
        if self._board is not None:
            optionally("TensorBoard", self._board.close)
        if self._wandb is not None:
            optionally("W&B", self._wandb.close)

    def _open_board(self, folder: Path, first_step: int) -> None:
        self._board = Board(folder, first_step=first_step)

    def _append(self, data: bytes) -> None:
        """Write all of it, or leave the file as it was."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise
        self._size += len(data)

    def _writing(self) -> Any:
        then = "Then go on with --resume, or start again if there is no checkpoint."
        return writing("Metrics", self._path, then=then)


def _draw(board: Board, kind: str, row: dict[str, Any]) -> None:
    for name, value in row.items():
        if name != "step":
            board.add_scalar(f"{kind}/{name}", value, row["step"])


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's ``metrics.jsonl``."""
    return [json.loads(line) for line in (folder / _NAME).read_text().splitlines()]


def draw_losses(folder: Path, shown: Sequence[Figure]) -> Path:
    """Draw figures of training and validation, and those of a trivial model.

    Parameters
    ----------
    folder : Path
    shown : sequence of Figure
        One panel for each measure, with all that it is compared with.

    Returns
    -------
    Path
        ``loss.png`` in the run's folder.
    """
    from matplotlib.figure import Figure as Picture

    rows = read_metrics(folder)
    train = [row for row in rows if row["kind"] == "train"]
    validation = [row for row in rows if row["kind"] == "validation"]
    panels: dict[str, list[Figure]] = {}
    for one in shown:
        panels.setdefault(one.name, []).append(one)
    picture = Picture(figsize=(4.5 * max(len(panels), 1), 3.6), layout="constrained")
    grid = picture.subplots(1, max(len(panels), 1), squeeze=False)[0]
    for axes, (name, figures) in zip(grid, panels.items(), strict=False):
        for source, label, style in (
            (train, "training", {"lw": 0.8, "alpha": 0.6, "color": "tab:blue"}),
            (validation, "validation", {"marker": "o", "ms": 3, "color": "tab:orange"}),
        ):
            rows = [row for row in source if name in row]
            axes.plot([r["step"] for r in rows], [r[name] for r in rows], label=label, **style)
        for one, dashes in zip(figures, ("--", ":", "-."), strict=False):
            rows = [row for row in validation or train if one.trivial in row]
            steps, trivial = [r["step"] for r in rows], [r[one.trivial] for r in rows]
            axes.plot(steps, trivial, f"k{dashes}", lw=1, label=one.trivial_label)
        axes.set(title=figures[0].label, xlabel="step")
        axes.legend(frameon=False)
    picture.savefig(folder / "loss.png", dpi=120)
    return folder / "loss.png"
