"""Write TensorBoard scalars synchronously, with errors raised at once (no writer thread)."""

from __future__ import annotations

import itertools
import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

__all__ = ["Board"]

_count = itertools.count()


class Board:
    """Appends scalars to a new event file.

    Parameters
    ----------
    folder : Path
        Log folder of TensorBoard.
    first_step : int
        TensorBoard ignores this step and later ones in older files: a resumed training writes
        them again.

    Raises
    ------
    OSError
        If a file cannot be written; also from the methods.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        folder.mkdir(exist_ok=True)
        number = f"{os.getpid()}.{next(_count):06d}"  # TensorBoard sorts by name
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{number}"
        self._file = (folder / name).open("wb", buffering=0)
        self._writer = RecordWriter(self._file)
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=first_step, file_version="brain.Event:2"))
        self._write(Event(step=first_step, session_log=start))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Write one scalar."""
        figure = Summary.Value(tag=name, simple_value=value)
        self._write(Event(step=step, summary=Summary(value=[figure])))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
