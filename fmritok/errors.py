"""Errors of fmritok and the form of their messages.

Every message is ``<what> <where>: expected <...>, got <...>. <next step>``, built by
:func:`expected`.
"""

from __future__ import annotations

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
    "wrong_usage",
]

Error = TypeVar("Error", bound="FmritokError")


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
