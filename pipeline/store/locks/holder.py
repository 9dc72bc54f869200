"""The process that holds a lock or a lease, as others are told of it."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

__all__ = ["Holder"]


@dataclass(frozen=True)
class Holder:
    """The process that holds something.

    Attributes
    ----------
    host, machine : str
        Its name, and what tells it from others of that name (containers).
    pid : int
    began : float
        When the process started, seconds since 1970.
    since : float
        When it took hold, seconds since 1970.
    """

    host: str
    machine: str
    pid: int
    began: float
    since: float

    @classmethod
    def this_process(cls) -> Holder:
        """Describe the process that calls."""
        import psutil

        began = psutil.Process().create_time()
        return cls(socket.gethostname(), _machine(), os.getpid(), began, time.time())

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"process {self.pid} on {self.host} at work since {since}"

    def to_json(self) -> bytes:
        """Return the text that lock files hold."""
        return json.dumps(asdict(self)).encode()

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to have ended; False for those of other machines."""
        import psutil

        if (self.host, self.machine) != (socket.gethostname(), _machine()):
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.began) > 1
        except psutil.NoSuchProcess:
            return True


def _machine() -> str:
    """Return what tells this machine, or container, from another one of the same name."""
    parts = []
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    with suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            parts.append(file.read().strip())
    return " ".join(parts)
