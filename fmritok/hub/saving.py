"""Save encoders to folders, and push them to the Hugging Face Hub."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelHubMixin

from fmritok.errors import expected
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.pretrained.exporting import card_of, write_frozen
from fmritok.trainer.pretrained.facts import facts_of
from fmritok.trainer.record.finding import find_trained

if TYPE_CHECKING:
    from fmritok.trainer.evaluation.features import FrozenEncoder

__all__ = ["HubModel"]


class HubModel(ModelHubMixin, library_name="fmritok"):
    """An encoder that can be saved and pushed, by the mixin of ``huggingface_hub``.

    Attributes
    ----------
    license : str or None
        Identifier of the weights' licence, such as ``cc-by-4.0``.
    """

    _frozen: FrozenEncoder
    license: str | None = None
    _has_paths = True

    def save_pretrained(
        self, save_directory: str | Path, *, license: str | None = None, **options: Any
    ) -> str | None:
        """Write a model folder, as ``fmritok export`` does.

        Parameters
        ----------
        save_directory : path
        license : str, optional
            Default: :attr:`license`.
        **options
            Of the mixin: ``push_to_hub`` and ``repo_id``, among others.

        Raises
        ------
        CheckpointError
            If the checkpoint that the encoder was loaded from is gone: it has the facts.
        TrainingError
            If the disk refuses.
        """
        self.license = license or self.license
        if options.get("push_to_hub"):
            self._refuse_without_license()
        return super().save_pretrained(save_directory, **options)

    def push_to_hub(self, repo_id: str, *, license: str | None = None, **options: Any) -> str:
        """Upload the model folder to the hub. Of local files that it names, only names are kept.

        Parameters
        ----------
        repo_id : str
            Such as ``user/model``.
        license : str, optional
            Default: :attr:`license`.
        **options
            Of the mixin: ``private``, ``token``, ``branch`` and ``commit_message``, among others.

        Returns
        -------
        str
            URL of the commit.

        Raises
        ------
        ConfigError
            If there is no licence.
        """
        self.license = license or self.license
        self._refuse_without_license()
        public = copy(self)
        public._has_paths = False
        return str(super(HubModel, public).push_to_hub(repo_id, **options))

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """Return the model card, made from facts."""
        card: ModelCard = card_of(self._frozen, self._facts(), license=self.license)
        return card

    def _save_pretrained(self, save_directory: Path) -> None:
        write_frozen(
            self._frozen, self._facts(), save_directory, license=self.license,
            has_paths=self._has_paths,
        )  # fmt: skip

    def _facts(self) -> dict[str, Any]:
        return facts_of(find_trained(Path(str(self._frozen.source["checkpoint"]))))

    def _refuse_without_license(self) -> None:
        if self.license is None:
            raise ConfigError(
                expected("Licence", f"of the weights of {self._frozen.name}",
                         "an identifier such as cc-by-4.0", "none",
                         "Give license=..., after asking who has rights in the data.")
            )  # fmt: skip
