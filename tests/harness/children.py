"""Call a function in a forked child, which takes what it did to this process with it."""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

_SECONDS = 60.0


class ChildError(Exception):
    """A child did not come back with a result."""


def in_child(function: Callable[[], Any], *, seconds: float = _SECONDS) -> Any:
    """Call a function in a forked child, and return what it returned.

    Raises
    ------
    ChildError
        If it raised, died or took too long.
    """
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as stacks:
        pid = os.fork()
        if pid == 0:
            try:
                faulthandler.dump_traceback_later(0.9 * seconds, file=stacks)
                torch.set_num_threads(1)  # the threads that the parent computed with are not here
                try:
                    content = pickle.dumps((True, function()))
                except BaseException:
                    content = pickle.dumps((False, traceback.format_exc()))
                answer.write(content)
                answer.flush()
            finally:
                os._exit(0)
        if not _ended(pid, seconds):
            stacks.seek(0)
            raise ChildError(f"it did not end within {seconds:.0f} s: {stacks.read().decode()}")
        answer.seek(0)
        content = answer.read()
    if not content:
        raise ChildError("it died")
    is_good, value = pickle.loads(content)
    if not is_good:
        raise ChildError(value)
    return value


@contextmanager
def running_child(function: Callable[[], Any]) -> Iterator[int]:
    """Call a function in a forked child that is killed in the end; yield its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            torch.set_num_threads(1)
            function()
        finally:
            os._exit(0)
    watched = os.pidfd_open(pid)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError, ChildProcessError):  # it was waited for
            signal.pidfd_send_signal(watched, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(watched)


def _ended(pid: int, seconds: float) -> bool:
    watched = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([watched], [], [], seconds)
        if not ended:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(watched)
        os.waitpid(pid, 0)
    return bool(ended)
