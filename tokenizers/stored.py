"""Tokens as a store gives them back, and the tokenizer that made them built again."""

from __future__ import annotations

import inspect
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
    """Consecutive frames of one run.

    Attributes
    ----------
    run_id : str
    tokens : np.ndarray of shape (n_frames, n_tokens, dim), float32
    tr : float
        Seconds between frames.
    first : int
        Number of the first frame within the run.
    provenance, notes : dict
        Of the token group.
    array : callable
        Returns a static array of the group by its name.
    scalars : dict of str to float
        Numbers that were kept with the run.
    arrays : dict of str to np.ndarray
        Arrays that were kept with the run.
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
    """Return the options that build a tokenizer of the same tokens on any machine."""
    kept = {name: value for name, value in options.items() if name not in tokenizer.machine_options}
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain


def rebuild(stored: StoredTokens, kind: type[Tokenizer], overrides: Mapping[str, str]) -> Tokenizer:
    """Build the tokenizer that wrote a group, and check that it is the same.

    Parameters
    ----------
    stored : StoredTokens
    kind : type
        Its class.
    overrides : dict of str to str
        Options that are different here, such as where the weights lie.

    Raises
    ------
    FmritokError
        If it is not the same: the first field of the provenance that differs is named.
    """
    known = inspect.signature(kind).parameters
    unknown = [name for name in overrides if name not in known]
    if unknown:
        raise FmritokError(
            expected("Option", f"--{unknown[0]} of tokenizer {kind.name}", "none of that name",
                     overrides[unknown[0]], "Leave it away.")
        )  # fmt: skip
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
                         f"{name} = {before!r} (as the store was made)", repr(now),
                         "Say where its files lie on this machine with --weights or --template.")
            )  # fmt: skip
    return tokenizer
