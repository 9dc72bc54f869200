"""Stored tokens of a run, and reconstruction of their tokenizer for decoding."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import FmritokError, expected

if TYPE_CHECKING:
    from fmritok.tokenizers.base import Tokenizer

__all__ = ["StoredTokens", "kept_options", "rebuild"]


@dataclass(frozen=True, eq=False)
class StoredTokens:
    """Tokens of consecutive frames of one run, with the metadata of their group.

    Attributes
    ----------
    run_id : str
    tokens : np.ndarray of shape (n_frames, n_tokens, dim), float32
    tr : float
        Seconds between frames.
    first : int
        Index of the first frame in the run.
    provenance, notes : dict
        Metadata of the token group.
    array : callable
        Returns a static array of the group by its name.
    scalars : dict of str to float
        Numbers stored with the run.
    arrays : dict of str to np.ndarray
        Arrays stored with the run.
    """

    run_id: str
    tokens: npt.NDArray[np.float32]
    tr: float
    first: int
    provenance: Mapping[str, Any]
    notes: Mapping[str, Any]
    array: Callable[[str], npt.NDArray[Any]]
    scalars: Mapping[str, float] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


def kept_options(tokenizer: Tokenizer, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options to record: all but the tokenizer's ``machine_options``."""
    kept = {name: value for name, value in options.items() if name not in tokenizer.machine_options}
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain


def rebuild(stored: StoredTokens, kind: type[Tokenizer], overrides: Mapping[str, str]) -> Tokenizer:
    """Rebuild the tokenizer that wrote a group, and compare its provenance.

    Parameters
    ----------
    stored : StoredTokens
    kind : type
        Class of the tokenizer.
    overrides : dict of str to str
        Options that differ on this machine, such as the path of the weights.

    Raises
    ------
    FmritokError
        If the provenance differs. The error names the first differing field.
    """
    options = {**stored.notes["options"], **overrides}
    if "weights" in overrides:
        options.pop("revision", None)  # of a hub id
    tokenizer = kind(**options)
    made = json.loads(json.dumps(tokenizer.provenance()))
    for name in sorted({*made, *stored.provenance}):
        before, now = stored.provenance.get(name), made.get(name)
        if before != now:
            raise FmritokError(
                expected("Tokenizer", f"{kind.name}({options})",
                         f"{name} = {before!r}, as in the store", repr(now),
                         "Give the path of its files on this machine with --weights or --template.")
            )  # fmt: skip
    return tokenizer
