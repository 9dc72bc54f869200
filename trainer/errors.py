"""Errors of the training half; see :mod:`fmritok.errors` for the form of the messages."""

from __future__ import annotations

from fmritok.errors import FmritokError

__all__ = [
    "CheckpointError",
    "ConfigError",
    "LeakageError",
    "OtherProcessError",
    "StoppedError",
    "TrainingError",
]


class ConfigError(FmritokError, ValueError):
    """An option is unknown, of the wrong type, or conflicts with another."""

    exit_status = 2


class CheckpointError(FmritokError, ValueError):
    """A checkpoint is missing, damaged, or belongs to another training."""


class TrainingError(FmritokError, RuntimeError):
    """Training cannot start or continue."""


class OtherProcessError(TrainingError):
    """Another rank failed and reports the error; this one only exits."""


class LeakageError(TrainingError):
    """A subject or a family is on both sides of a split."""


class StoppedError(TrainingError):
    """Training stopped early on request and saved a checkpoint.

    Parameters
    ----------
    message : str
    name : str
        Name of the signal.
    """

    def __init__(self, message: str, name: str = "SIGTERM") -> None:
        super().__init__(message)
        self.exit_status = 130 if name == "SIGINT" else 143
