"""Save the meaning of a token group in a checkpoint: an encoder then needs no store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fmritok.errors import expected
from fmritok.pipeline.store.documents.difference import first_difference
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.data.mixing import MixedGroup
from fmritok.trainer.errors import CheckpointError

__all__ = ["SavedGroup"]

#: Fields of a contract that define the meaning of tokens; the others define their storage.
_MEANING = ("tokens_per_frame", "dim", "provenance")


@dataclass(frozen=True, eq=False)
class SavedGroup:
    """The meaning of a group's tokens: contract, notes and static arrays; no runs.

    Attributes
    ----------
    name : str
    contract : dict
        Shapes, store dtype and provenance.
    notes : dict
        Facts beside the meaning, such as the path of the weights.
    arrays : dict of str to np.ndarray
        Static arrays, such as coordinates and the pixel mask.
    """

    name: str
    contract: Mapping[str, Any]
    notes: Mapping[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]]

    @classmethod
    def of(cls, group: TokenGroup | MixedGroup) -> SavedGroup:
        """Take the meaning of a group."""
        first = group.groups[0] if isinstance(group, MixedGroup) else group
        return cls(group.name, group.contract, first.notes, first.static)

    @classmethod
    def from_bytes(cls, data: bytes, where: object) -> SavedGroup:
        """Read the bytes of :meth:`to_bytes`.

        Raises
        ------
        CheckpointError
            If they are not of that form.
        """
        try:
            length = int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8 : 8 + length])["__metadata__"]
            said = json.loads(metadata["group"])
            return cls(said["name"], said["contract"], said["notes"], load(data))
        except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            raise CheckpointError(
                expected("Token group of checkpoint", where, "the bytes of a saved group", error,
                         "Use another checkpoint.")
            ) from error  # fmt: skip

    def to_bytes(self) -> bytes:
        """Return it as a safetensors file with JSON in its metadata."""
        said = {"name": self.name, "contract": self.contract, "notes": self.notes}
        arrays = {name: np.ascontiguousarray(values) for name, values in self.arrays.items()}
        return save(arrays, metadata={"group": json.dumps(said, sort_keys=True)})

    @property
    def n_tokens(self) -> int:
        """Tokens of a frame."""
        return int(self.contract["tokens_per_frame"])

    @property
    def dim(self) -> int:
        """Features of a token."""
        return int(self.contract["dim"])

    @property
    def precision(self) -> str:
        """Store dtype."""
        return str(self.contract["precision"])

    @property
    def provenance(self) -> dict[str, Any]:
        """Provenance of the tokens."""
        return dict(self.contract["provenance"])

    def array(self, name: str) -> npt.NDArray[Any]:
        """Return a static array."""
        return self.arrays[name]

    def refuse_others(self, contract: Mapping[str, Any], where: object) -> None:
        """Refuse tokens of another meaning than those of the training.

        Raises
        ------
        CheckpointError
            Naming the first field that differs.
        """
        trained, now = ({name: c[name] for name in _MEANING} for c in (self.contract, contract))
        difference = first_difference(trained, json.loads(json.dumps(now)))
        if difference is not None:
            field, before, after = difference
            raise CheckpointError(
                expected("Tokens for the encoder", where,
                         f"{field} = {before!r} (as it was trained)", repr(after),
                         "Tokenize with the same options.")
            )  # fmt: skip
