"""Make the file operations of a command fail one at a time, or end it at any of them.

A command runs in a forked child, which meets its fault there and is gone afterwards: nothing of it
stays in this process, no lock, no cache and no patched function.

What ``kill -9`` leaves is what lies there at that moment. So one run, stopped at every operation
for a copy to be made, gives what is left by a kill at each of them; a write is stopped when half of
its bytes are there.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from children import in_child
from interception import Mode, Watch, error_of
from places import Place
from tiny import fmritok


@dataclass
class Outcome:
    """What a command did.

    Attributes
    ----------
    exit_code : int
    output : str
    traceback : str
        Of an exception that the command line did not turn into an error message.
    operations : list of str
        In the order in which they were asked for.
    struck : bool
        Whether the fault was met.
    """

    exit_code: int
    output: str
    traceback: str
    operations: list[str] = field(default_factory=list)
    struck: bool = False


def invoke(arguments: Collection[object]) -> Outcome:
    """Run a command in this process."""
    result = fmritok(*arguments)
    error = result.exception
    raised = error is not None and not isinstance(error, SystemExit)
    text = "".join(traceback.format_exception(error)) if raised else ""
    return Outcome(result.exit_code, result.output, text)


def with_fault(
    arguments: Collection[object], place: Place, number: int | None, mode: Mode = "error"
) -> Outcome:
    """Run a command in a child in which one operation fails; None for none.

    What it leaves is in the place afterwards.
    """

    def run() -> tuple[Outcome, Any]:
        watch = Watch({number} if number is not None else set(), Failing(mode))
        place.watch(watch)
        outcome = invoke(arguments)
        watch.is_armed = False
        outcome.operations, outcome.struck = watch.log, watch.struck > 0
        return outcome, place.to_send()

    outcome, sent = in_child(run)
    place.receive(sent)
    return outcome


def killed_everywhere(
    arguments: Collection[object], place: Place, wanted: Collection[int] | None = None
) -> tuple[Outcome, dict[int, Any]]:
    """Run a command in a child, and keep what a kill at each operation would have left.

    Parameters
    ----------
    arguments : collection
    place : Place
    wanted : collection of int, optional
        Numbers of operations; default: all.

    Returns
    -------
    Outcome
        Of the command, which was not disturbed.
    dict of int to object
        What the place held, by the number of the operation.
    """

    def run() -> tuple[Outcome, dict[int, Any]]:
        keep = _Keeping(place)
        watch = Watch(wanted, keep)
        place.watch(watch)
        outcome = invoke(arguments)
        watch.is_armed = False
        outcome.operations = watch.log
        return outcome, keep.kept

    found: tuple[Outcome, dict[int, Any]] = in_child(run)
    return found


class Failing:
    """Fails an operation."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode

    def __call__(self, number: int, name: str) -> OSError:
        error = error_of(errno.ENOSPC if self._mode == "full" else errno.EIO, name)
        error.unsure = self._mode == "unsure"  # type: ignore[attr-defined]
        return error


class _Keeping:
    """Copies the place at an operation, which then happens."""

    def __init__(self, place: Place) -> None:
        self.kept: dict[int, Any] = {}
        self._place = place

    def __call__(self, number: int, name: str) -> None:
        self.kept[number] = self._place.state()
