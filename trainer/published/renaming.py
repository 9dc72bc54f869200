"""Rename the weights of a published model: each is taken once, and none is left."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from fmritok.errors import expected
from fmritok.trainer.errors import CheckpointError

__all__ = ["Renaming"]


class Renaming:
    """Weights under their published names, and those found so far under ours.

    Parameters
    ----------
    model : str
        Name of the published model, for errors.
    weights : mapping of str to torch.Tensor
    """

    def __init__(self, model: str, weights: Mapping[str, Tensor]) -> None:
        self.found: dict[str, Tensor] = {}
        self._model, self._left = model, dict(weights)

    def has(self, name: str) -> bool:
        """Tell whether a weight is there and not taken yet."""
        return name in self._left

    def take(self, name: str) -> Tensor:
        """Take one weight.

        Raises
        ------
        CheckpointError
            If it is not there.
        """
        if name not in self._left:
            raise CheckpointError(
                expected(f"Weights of {self._model}", name, "a tensor of that name", "none",
                         "Give the file that its authors released.")
            )  # fmt: skip
        return self._left.pop(name)

    def layers(self, names: Mapping[str, str]) -> None:
        """Take weight and bias of layers, by published name and ours."""
        for theirs, ours in names.items():
            for kind in ("weight", "bias"):
                self.found[f"{ours}.{kind}"] = self.take(f"{theirs}.{kind}")

    def numbers(self, prefix: str) -> list[int]:
        """Return the numbers that follow a prefix, in their order."""
        found = (re.match(rf"{re.escape(prefix)}\.(\d+)(\.|$)", name) for name in self._left)
        return sorted({int(match[1]) for match in found if match})

    def drop(self, pattern: str) -> None:
        """Leave out weights that are never used; ``pattern`` is matched from the beginning."""
        self._left = {n: value for n, value in self._left.items() if not re.match(pattern, n)}

    def finish(self) -> dict[str, Tensor]:
        """Return the weights under our names.

        Raises
        ------
        CheckpointError
            If one is left.
        """
        if self._left:
            raise CheckpointError(
                expected(f"Weights of {self._model}", next(iter(self._left)), "a known name",
                         "a tensor that fmritok's model does not have",
                         "Give the file that its authors released.")
            )  # fmt: skip
        return self.found
