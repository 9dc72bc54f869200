"""Write the metrics of a training: JSON lines, TensorBoard, W&B."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fmritok.errors import expected
from fmritok.trainer.config import Config
from fmritok.trainer.data.split import Split
from fmritok.trainer.errors import TrainingError
from fmritok.trainer.faults import reason, write_whole, writing
from fmritok.trainer.recipe import to_yaml
from fmritok.trainer.record.board import Board
from fmritok.trainer.record.checkpoint import METRICS, Checkpoint
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.record.resuming import earlier_rows
from fmritok.trainer.record.tracking import WandbTracker

__all__ = [
    "MetricsLog",
    "begin_record",
    "last_figures",
    "optionally",
    "read_metrics",
]

_logger = logging.getLogger(__name__)


def optionally(what: object, do: Callable[[], Any]) -> bool:
    """Do an optional part of the record; on any error, warn and return False.

    All exceptions are caught: TensorBoard and W&B raise their own, and training goes on.
    """
    try:
        do()
    except Exception as error:
        _logger.warning("Training goes on without %s: %s", what, reason(error))
        return False
    return True


class MetricsLog:
    """Appends rows to ``metrics.jsonl`` and scalars to ``tensorboard/`` and W&B.

    Rows are required: checkpoints keep them. TensorBoard and W&B are optional: after the first
    failure of one, training warns and goes on without it.

    Parameters
    ----------
    folder : TrainingFolder
    rows : bytes
        First lines: for a resumed training those up to its checkpoint. The old content of the file
        is replaced.
    step : int
        Last step of ``rows``.
    wandb : WandbTracker, optional
        Gets the same scalars as TensorBoard.

    Raises
    ------
    TrainingError
        If the disk does not take the rows.
    """

    def __init__(
        self,
        folder: TrainingFolder,
        *,
        rows: bytes = b"",
        step: int = 0,
        wandb: WandbTracker | None = None,
    ) -> None:
        self._path, self._wandb = folder.metrics, wandb
        self._size, self._digest = len(rows), hashlib.sha256(rows)
        self._board: Board | None = None
        with self._writing():
            write_whole(self._path, rows)
            self._file = self._path.open("r+b", buffering=0)
            self._file.seek(self._size)
        optionally("TensorBoard", lambda: self._open_board(folder.tensorboard, step + 1))

    def rows(self) -> bytes:
        """Flush the rows to the disk, check the file and return its content.

        Raises
        ------
        TrainingError
            If the file is not what this training wrote, for instance because it was deleted.
        """
        with self._writing():
            os.fsync(self._file.fileno())
            rows = self._path.read_bytes()
        if hashlib.sha256(rows).digest() != self._digest.digest():
            raise TrainingError(
                expected("Metrics", self._path, "the rows that this training wrote", "others",
                         "Go on with --resume, which writes them again, or choose another --out.")
            )  # fmt: skip
        return rows

    def write(self, kind: str, row: dict[str, Any], *, plot: bool = True) -> None:
        """Append a row with its ``step``, unbuffered: it survives a killed process.

        Raises
        ------
        TrainingError
            If the disk refuses; earlier rows are intact.
        """
        with self._writing():
            self._append(json.dumps({"kind": kind, **row}).encode() + b"\n")
        board, wandb = self._board, self._wandb
        if not plot:
            return
        if board is not None and not optionally(
            "TensorBoard", lambda: _add_scalars(board, kind, row)
        ):
            self._board = None
        if wandb is not None and not optionally("W&B", lambda: wandb.write(kind, row)):
            self._wandb = None

    def close(self) -> None:
        """Close the file, TensorBoard and W&B."""
        with suppress(OSError):  # from some network disks; nothing is buffered
            self._file.close()
        if self._board is not None:
            optionally("TensorBoard", self._board.close)
        if self._wandb is not None:
            optionally("W&B", self._wandb.close)

    def _open_board(self, folder: Path, first_step: int) -> None:
        self._board = Board(folder, first_step=first_step)

    def _append(self, data: bytes) -> None:
        """Append all bytes, or restore the file."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise
        self._size += len(data)
        self._digest.update(data)

    def _writing(self) -> Any:
        then = "Then go on with --resume, or start again if there is no checkpoint."
        return writing("Metrics", self._path, then=then)


def begin_record(
    folder: TrainingFolder,
    config: Config,
    split: Split,
    checkpoint: Checkpoint | None,
    project: str | None,
) -> MetricsLog:
    """Write configuration and split, and open the metrics of a training.

    Parameters
    ----------
    folder : TrainingFolder
    config : Config
    split : Split
    checkpoint : Checkpoint, optional
        The checkpoint to resume from; its rows come first.
    project : str, optional
        W&B project.

    Raises
    ------
    TrainingError
        If the disk or W&B refuses.
    """
    folder.write(folder.config, to_yaml(config))
    folder.write(folder.split, split.to_json())
    wandb = None if project is None else WandbTracker(folder, project, asdict(config))
    rows, step = (b"", 0) if checkpoint is None else (earlier_rows(checkpoint), checkpoint.step)
    return MetricsLog(folder, rows=rows, step=step, wandb=wandb)


def _add_scalars(board: Board, kind: str, row: dict[str, Any]) -> None:
    for name, value in row.items():
        if name != "step":
            board.add_scalar(f"{kind}/{name}", value, row["step"])


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a training's ``metrics.jsonl``, without an incomplete last row.

    Raises
    ------
    TrainingError
        If another row cannot be read.
    """
    whole, _, _ = (folder / METRICS).read_bytes().rpartition(b"\n")
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError, RecursionError) as error:
            raise TrainingError(
                expected("Metrics", folder / METRICS, f"a row of JSON in line {number}",
                         "something else", "Go on with --resume, which writes the rows again.")
            ) from error  # fmt: skip
    return rows


def last_figures(folder: Path) -> dict[str, float]:
    """Return the figures of the last row; empty without rows."""
    row = (read_metrics(folder) or [{}])[-1]
    return {name: value for name, value in row.items() if isinstance(value, float)}
