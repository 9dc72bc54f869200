"""Two processes that stay alive and do one job of a distributed test after the other."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path


class TwoRanks:
    """Two processes that call functions of ``ranks.py`` together.

    They import torch once, at the first job. After a job that failed they are replaced.
    """

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pipes: list[Connection] = []

    def do(self, name: str, folder: Path, *arguments: object) -> None:
        """Call a function in both: ``function(rank, folder, *arguments)``.

        Arguments go through JSON. The processes meet by a file in ``folder``.
        """
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send_bytes(json.dumps([name, str(folder), *arguments]).encode())
        at_work = list(self._pipes)
        while at_work:
            for pipe in wait(at_work):
                at_work.remove(pipe)
                try:
                    error = pipe.recv_bytes().decode()
                except EOFError:
                    error = "it ended"
                if error:  # the other one may wait for it for ever
                    rank = self._pipes.index(pipe)
                    self.stop()
                    raise AssertionError(f"Rank {rank}: {error}")

    def stop(self) -> None:
        """End both processes."""
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.kill()
            process.wait()
            pipe.close()
        self._processes, self._pipes = [], []

    def _start(self) -> None:
        for rank in range(2):
            own, other = Pipe()
            command = [sys.executable, __file__, str(rank), str(other.fileno())]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
            self._processes.append(
                subprocess.Popen(
                    command, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL, env=environment
                )
            )
            other.close()
            self._pipes.append(own)


def _serve(rank: int, jobs: Connection) -> None:
    """Do jobs until there are no more."""
    sys.path.append(str(Path(__file__).parent))
    functions = importlib.import_module("ranks")
    while True:
        try:
            name, *arguments = json.loads(jobs.recv_bytes())
        except EOFError:
            return
        try:
            getattr(functions, name)(rank, *arguments)
        except Exception:
            jobs.send_bytes(traceback.format_exc().encode())
        else:
            jobs.send_bytes(b"")


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Connection(int(sys.argv[2])))
