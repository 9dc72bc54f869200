"""Progress of long steps: a bar with the time left on a terminal, a dated line elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from fmritok.quantities import duration
from fmritok.terminal import Verbosity, new_console, plain, verbosity

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

__all__ = ["Progress", "report", "tracked"]

#: Steps that end sooner print nothing where there is no terminal, s.
QUIET_S = 10.0
#: Between two lines where there is no terminal, s.
EVERY_S = 30.0
#: Columns that a bar keeps beside its text.
_BAR = 6

Item = TypeVar("Item")
#: The step of this process, innermost last.
_AT_WORK: list[Progress] = []


def report(done: float, total: float, unit: str) -> None:
    """Tell the step that is at work in this process, if there is one, how far it is."""
    if _AT_WORK:
        _AT_WORK[-1](done, total, unit)


def tracked(items: Iterable[Item], total: int, unit: str) -> Iterator[Item]:
    """Yield items, and report how many were worked on."""
    for done, item in enumerate(items):
        report(done, total, unit)
        yield item
    report(total, total, unit)


class Progress:
    """Context in which a step tells how far it is; printed to stderr.

    On a terminal, a bar is drawn, which disappears at the end. Without one, as in the log of a
    cluster's job, a line with date and time is printed every 30 s, for steps that take longer
    than 10 s. With ``--quiet``, nothing is printed.

    Parameters
    ----------
    step : str
        What is done, such as ``verify``.
    console : Console, optional
        Default: stderr.
    begun_at : float
        Work that was done before, such as the steps of a resumed training.
    """

    def __init__(self, step: str, *, console: Console | None = None, begun_at: float = 0.0) -> None:
        self.step = step
        self.console: Console = console or new_console(stderr=True)
        self._begun_at = self._done = begun_at
        self._total = 0.0
        self._unit, self._count = "", ""
        self._remarks: Sequence[str] = ()
        self._start = self._began = time.monotonic()
        self._ended = threading.Event()
        self._lines: threading.Thread | None = None
        self._bar: Bar | None = None
        self._has_spoken = False

    def __enter__(self) -> Progress:
        self._start = self._began = time.monotonic()
        _AT_WORK.append(self)
        if verbosity() == Verbosity.QUIET:
            return self
        if self.console.is_terminal:
            self._bar = self._new_bar()
            self._bar.start()
        else:
            self._lines = threading.Thread(target=self._print_lines, daemon=True)
            self._lines.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _AT_WORK.remove(self)
        self._ended.set()
        if self._bar:
            self._bar.stop()
        if self._lines:
            self._lines.join()
            if self._has_spoken and error is None:
                self._print(f"done in {duration(time.monotonic() - self._began)}")

    def __call__(
        self,
        done: float,
        total: float,
        unit: str,
        *,
        count: str = "",
        remarks: Sequence[str] = (),
    ) -> None:
        """Tell how far the step is.

        Parameters
        ----------
        done, total : float
            Work; the time left is estimated from it.
        unit : str
            Of the work, such as ``runs``. Another one than before begins another part of the step,
            or goes on with one: the time left is estimated from what is done from now on.
        count : str, optional
            What is shown of it; default: ``DONE of TOTAL UNIT``.
        remarks : sequence of str
            What else is shown, such as a rate. A narrow terminal shows the first ones alone.
        """
        if unit != self._unit or done < self._done:
            self._unit = unit
            if self._total:
                self._start, self._begun_at = time.monotonic(), done
        self._done, self._total, self._remarks = done, total, remarks
        of = f" of {total:,.0f}" if total else ""
        self._count = count or f"{done:,.0f}{of} {unit}"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total or None)

    @property
    def left(self) -> str:
        """The time left as text; empty if nothing can be said."""
        done, left = self._done - self._begun_at, self._total - self._done
        if done <= 0 or left <= 0:
            return ""
        return f"{duration((time.monotonic() - self._start) * left / done)} left"

    def _text(self, width: int) -> str:
        """Return the text beside the bar; remarks that do not fit into the width are left out."""
        for shown in range(len(self._remarks), -1, -1):
            parts = [self._count, *self._remarks[:shown], self.left]
            text = plain("  ".join(part for part in parts if part))
            if len(text) <= width:
                break
        return text

    def _new_bar(self) -> Bar:
        from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
        from rich.progress import Progress as Bar
        from rich.table import Column
        from rich.text import Text

        class Said(ProgressColumn):
            """Text of this step; the bar takes what it leaves of the line."""

            max_refresh = 0.5

            def render(self, task: Task, *, of: Progress = self) -> Text:
                room = of.console.width - len(plain(of.step)) - _BAR - 2
                return Text(of._text(room), overflow="ellipsis")

        bar = Bar(
            TextColumn(plain(self.step), markup=False),
            BarColumn(None, table_column=Column(ratio=1)),
            Said(table_column=Column(no_wrap=True)),
            console=self.console,
            transient=True,
            expand=True,
        )
        bar.add_task("", total=None)
        return bar

    def _print_lines(self) -> None:
        wait = QUIET_S
        while not self._ended.wait(wait):
            parts = [self._count or "started", *self._remarks, self.left]
            self._print(", ".join(part for part in parts if part))
            wait = EVERY_S

    def _print(self, text: str) -> None:
        self._has_spoken = True
        now = datetime.now().isoformat(" ", "seconds")
        self.console.print(f"{now} {self.step}: {text}", soft_wrap=True)
