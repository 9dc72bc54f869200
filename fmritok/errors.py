"""Errors of fmritok and the form of their messages.

Every message is ``<what> <where>: expected <...>, got <...>. <next step>``, built by
:func:`expected`. In functions that Python code
calls, options of commands become arguments: :func:`in_python_words`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = [
    "AtlasError",
    "CatalogError",
    "FmritokError",
    "MachineError",
    "NoSpaceError",
    "ProvenanceMismatchError",
    "RunError",
    "StoreError",
    "WeightsError",
    "expected",
    "in_python_words",
    "python_words",
    "wrong_usage",
]

Error = TypeVar("Error", bound="FmritokError")
_VALUES = {"null": "None", "true": "True", "false": "False"}
_SET = re.compile(r"--set \w+\.(\w+)=(\[[^\]]*\]|[^\s,;]+?)(?=[.,;)]*(?:\s|$))")
_TOKENIZER = re.compile(r"--(intensity|arithmetic|batch-size) (\w+)")
_OF_ITS_OWN = re.compile(r" \(and --group NAME, [^)]*\)")
_FLAG = re.compile(r"--(\w+)")


class FmritokError(Exception):
    """Base of all errors raised on purpose; the command line prints them without a traceback.

    Attributes
    ----------
    exit_status : int
        Of a command that ends with it: 1, or 2 for wrong usage.
    """

    exit_status: int = 1


class CatalogError(FmritokError, ValueError):
    """A cohort on disk, or its phenotype tables, cannot be catalogued."""


class RunError(FmritokError, ValueError):
    """One run cannot be tokenized; the others can."""


class MachineError(FmritokError):
    """A fault of the machine or the set-up, not of a run: tokenization stops.

    No run is recorded as failed; see :mod:`fmritok.faults`.
    """


class NoSpaceError(MachineError, OSError):
    """The disk of the store or of the scratch folder is full."""


class AtlasError(FmritokError, ValueError):
    """An atlas cannot be read, or does not fit the data."""


class WeightsError(FmritokError, ValueError):
    """Weights are missing, unsafe or do not fit their configuration."""


class StoreError(FmritokError, ValueError):
    """A token store is missing, damaged or not a token store."""


class ProvenanceMismatchError(StoreError):
    """Tokens to be written or mixed were made with another configuration."""


def expected(what: str, where: object, expected: str, got: object, next_step: str) -> str:
    """Build the one message form of fmritok's errors.

    Parameters
    ----------
    what : str
        Subject of the error, in a few words.
    where : object
        The file, run or option concerned.
    expected, got : str, object
        What was needed and what was found.
    next_step : str
        One sentence with the next action.

    Returns
    -------
    str
        ``<what> <where>: expected <expected>, got <got>. <next step>``
    """
    return f"{what} {where}: expected {expected}, got {got}. {next_step}"


def wrong_usage(error: Error) -> Error:
    """Mark an error as one of usage: a wrong value of an option, or a file that is not there."""
    error.exit_status = 2
    return error


def python_words(message: str) -> str:
    """Return a message in which options of commands are arguments of functions.

    Commands in backticks stay: they can be run.
    """
    parts = message.split("`")
    for i in range(0, len(parts), 2):
        text = _OF_ITS_OWN.sub("", parts[i])
        text = _SET.sub(lambda m: f'options={{"{m[1]}": {_VALUES.get(m[2], m[2])}}}', text)
        text = _TOKENIZER.sub(_as_option, text)
        text = text.replace("--group NAME", 'store["NAME"]').replace("--tr SECONDS", "tr=SECONDS")
        parts[i] = _FLAG.sub(r"\1", text)
    return "`".join(parts)


@contextmanager
def in_python_words() -> Iterator[None]:
    """Give errors of the block their :func:`python_words`."""
    try:
        yield
    except FmritokError as error:
        error.args = tuple(python_words(a) if isinstance(a, str) else a for a in error.args)
        raise


def _as_option(found: re.Match[str]) -> str:
    name, value = found[1].replace("-", "_"), found[2]
    return f'options={{"{name}": {value if value.isdigit() else repr(value)}}}'.replace("'", '"')
