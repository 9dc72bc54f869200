"""Two processes that stay alive and do one job of a distributed test after the other."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path


class TwoRanks:
    """Two processes that call functions of ``ranks.py`` together.

    The first imports torch, at the first job, and forks the other one. After a job that failed
    they are replaced.
    """

    def __init__(self) -> None:
        self._first: subprocess.Popen[bytes] | None = None
        self._pipes: list[Connection] = []

    def do(self, name: str, folder: Path, *arguments: object) -> None:
        """Call a function in both: ``function(rank, folder, *arguments)``.

        Arguments go through JSON. The processes meet by a file in ``folder``.
        """
        if self._first is None:
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
                    error = self._how_it_ended()
                if error:  # the other one may wait for it for ever
                    rank = self._pipes.index(pipe)
                    self.stop()
                    raise AssertionError(f"Rank {rank}: {error}")

    def stop(self) -> None:
        """End both processes."""
        if self._first is not None:
            os.killpg(self._first.pid, signal.SIGKILL)
            self._first.wait()
        for pipe in self._pipes:
            pipe.close()
        self._first, self._pipes = None, []

    def _how_it_ended(self) -> str:
        """Say that a process ended, and how the first one did if it has."""
        try:
            code = self._first.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it ended; the first process still runs"
        return f"it ended; the first process ended with {code} (below 0: that signal)"

    def _start(self) -> None:
        both = [Pipe(), Pipe()]
        theirs = [other.fileno() for _, other in both]
        self._first = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", __file__, *map(str, theirs)], pass_fds=theirs,
            stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
        )  # fmt: skip
        for own, other in both:
            other.close()
            self._pipes.append(own)


def _serve(all_jobs: list[Connection]) -> None:
    """Import once, fork, and do jobs in both processes until there are no more."""
    sys.path.append(str(Path(__file__).parent))
    functions = importlib.import_module("ranks")
    rank = 0 if os.fork() else 1
    jobs = all_jobs[rank]
    all_jobs[1 - rank].close()
    while True:
        try:
            name, *arguments = json.loads(jobs.recv_bytes())
        except EOFError:
            return
        try:
            getattr(functions, name)(rank, *arguments)
        except BaseException:
            jobs.send_bytes(traceback.format_exc().encode())
        else:
            jobs.send_bytes(b"")


if __name__ == "__main__":
    _serve([Connection(int(number)) for number in sys.argv[1:]])
