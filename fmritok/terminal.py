"""What is printed: text of stores and cohorts is shown as it is, and does nothing.

Names of runs, tasks and files come from other people. Escape sequences in them would reach the
terminal, rich would read brackets as markup, and a spreadsheet would compute cells that begin with
``=``.
"""

from __future__ import annotations

import logging
import re
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = [
    "Verbosity",
    "echo",
    "labelled",
    "log_to_terminal",
    "new_console",
    "plain",
    "remark",
    "set_verbosity",
    "spreadsheet_cell",
    "verbosity",
]

#: Control characters but tab and newline, and marks that reorder text or hide in it.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
#: What makes a spreadsheet take a cell for a formula.
_FORMULA = re.compile(r"[=+\-@\t\r]")


class Verbosity(IntEnum):
    """How much a command prints."""

    QUIET = 0
    """errors and the result"""
    NORMAL = 1
    """remarks and progress, too"""
    VERBOSE = 2
    """details and the tracebacks of errors, too"""


_chosen = Verbosity.NORMAL


def verbosity() -> Verbosity:
    """Return how much the command that runs in this process prints."""
    return _chosen


def set_verbosity(chosen: Verbosity) -> None:
    """Choose how much this process prints."""
    global _chosen
    _chosen = chosen


def plain(text: object) -> str:
    r"""Return text with hidden characters written out, as in ``\x1b``."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def echo(text: object, *, err: bool = False) -> None:
    """Print a line."""
    click.echo(plain(text), err=err)


def remark(text: object) -> None:
    """Print a line to stderr, apart from the results; nothing with ``--quiet``."""
    if _chosen > Verbosity.QUIET:
        echo(text, err=True)


def labelled(label: str, text: object) -> Text:
    """Return a line for a console that begins with a word in red."""
    from rich.text import Text

    return Text.assemble((label, "red"), " ", plain(text))


def new_console(*, stderr: bool = False, **options: Any) -> Console:
    """Return a console that prints strings as they are: no markup, no emoji, nothing hidden."""
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, *args: Any, **options: Any) -> Text:
            return super().render_str(plain(text), *args, **options)

    return Plain(stderr=stderr, markup=False, emoji=False, highlight=False, **options)


def log_to_terminal() -> None:
    """Print logged messages as they are: ours as ``-q`` and ``-v`` say, of others only warnings."""

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return plain(super().format(record))

    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(message)s"))
    handler.addFilter(_is_for_users)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    levels = {Verbosity.QUIET: logging.ERROR, Verbosity.VERBOSE: logging.DEBUG}
    logging.getLogger("fmritok").setLevel(levels.get(_chosen, logging.NOTSET))


def _is_for_users(record: logging.LogRecord) -> bool:
    """Leave out the steps of other packages, such as the fonts that matplotlib finds."""
    return record.name.partition(".")[0] == "fmritok" or record.levelno >= logging.WARNING


def spreadsheet_cell(text: str) -> str:
    """Return the text of a cell of a CSV or TSV file that no spreadsheet computes.

    A text that would be taken for a formula begins with an apostrophe. Numbers stay numbers.
    """
    if not _FORMULA.match(text):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
