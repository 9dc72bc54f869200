"""What checkpoints and model folders have in common: a sealed state, a configuration, weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from fmritok.errors import expected
from fmritok.trainer.config import Config
from fmritok.trainer.errors import CheckpointError, ConfigError
from fmritok.trainer.recipe import saved_config
from fmritok.trainer.record.sealed_files import SealedFiles
from fmritok.trainer.record.tensor_files import load_weights

__all__ = ["WEIGHTS", "EncoderFolder"]

#: File of the weights.
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class EncoderFolder:
    """A folder with weights and an intact state; other files are checked when they are read.

    Attributes
    ----------
    folder : Path
    state : dict
        Content of the JSON file with the checksums.
    files : SealedFiles
    """

    folder: Path
    state: Mapping[str, Any]
    files: SealedFiles = field(compare=False, repr=False)

    #: Key of the configuration in the state, and its name in errors.
    config_key: ClassVar[str]
    config_name: ClassVar[str]

    @property
    def config(self) -> Config:
        """The configuration; options that the release did not have take their default.

        Options of other objectives, which release 0.1 saved, too, are left out.

        Raises
        ------
        CheckpointError
            If it has an option that this release does not know.
        """
        try:
            return saved_config(self.state[self.config_key])
        except ConfigError as error:
            raise CheckpointError(
                expected(self.config_name, self.folder, "options of this release",
                         f"others ({error})", "Use the fmritok release that wrote it.")
            ) from error  # fmt: skip

    @property
    def group_name(self) -> str:
        """Name of the token group that it was trained on."""
        return str(self.state["group"]["name"])

    def sha256(self) -> str:
        """Return the checksum of the weights."""
        return self.files.sha256(WEIGHTS)

    def load_weights(self, model: nn.Module) -> None:
        """Load the weights into a model.

        Raises
        ------
        CheckpointError
            If they are damaged or do not fit; names the first tensor that does not fit.
        """
        load_weights(self.files.path(WEIGHTS), model)
