"""Description of the process that holds a lock or a lease, for messages to other processes."""

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
    """A process that holds a lock or a lease.

    Attributes
    ----------
    host, machine : str
        Host name, and an id of the machine. Containers may share a host name.
    pid : int
    began : float
        Start of the process, seconds since 1970.
    since : float
        Start of the lock or lease, seconds since 1970.
    """

    host: str
    machine: str
    pid: int
    began: float
    since: float

    @classmethod
    def this_process(cls) -> Holder:
        """Describe the calling process."""
        import psutil

        began = psutil.Process().create_time()
        return cls(socket.gethostname(), _machine(), os.getpid(), began, time.time())

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"process {self.pid} on {self.host} at work since {since}"

    def to_json(self) -> bytes:
        """Return the content of a lock file."""
        return json.dumps(asdict(self)).encode()

    @property
    def is_gone(self) -> bool:
        """Whether the process has certainly ended. Always False for other machines."""
        import psutil

        if (self.host, self.machine) != (socket.gethostname(), _machine()):
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.began) > 1
        except psutil.NoSuchProcess:
            return True


def _machine() -> str:
    """Return an id of this machine or container."""
    parts = []
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    with suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            parts.append(file.read().strip())
    return " ".join(parts)
