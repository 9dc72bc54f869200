"""The number that a fine-tuned classifier gives: log odds of a class, or a predicted number."""

from __future__ import annotations

import torch
from torch import Tensor

from fmritok.errors import expected
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.finetuning.kept import KeptClassifier
from fmritok.trainer.model.pooling import pooled
from fmritok.trainer.saliency.readout import Number

__all__ = ["FinetunedReadout"]


class FinetunedReadout(Number):
    """What a fine-tuned classifier says of each window.

    Parameters
    ----------
    kept : KeptClassifier
    of_class : str, optional
        Class whose log odds are given. Default: the last one.

    Raises
    ------
    ConfigError
        If there is no such class.
    """

    def __init__(self, kept: KeptClassifier, of_class: str | None = None) -> None:
        super().__init__(kept.model.encoder)
        self.model, self.mean, self.sd = kept.model, kept.mean, kept.sd
        self.number: int | None = None
        self.name = kept.target
        if kept.classes:
            chosen = kept.classes[-1] if of_class is None else of_class
            self.number = _place(kept.classes, chosen)
            self.name = f"log odds of {kept.target}: {chosen}"
        elif of_class is not None:
            raise ConfigError(
                expected("Option", "--class", f"none: {kept.target} is a number", of_class,
                         "Leave it out.")
            )  # fmt: skip

    def forward(
        self, x_BUCF: Tensor, static_BSD: Tensor | None, times_BU: Tensor, valid_BU: Tensor | None
    ) -> Tensor:
        """Return the number of each window [B]."""
        encoded = self.encoder(self.encoder.embed(x_BUCF), static_BSD, times_BU, valid_BU)
        outputs_BX = self.model.head(pooled(encoded, valid_BU, self.model.pool)).float()
        if self.number is None:
            predicted_B: Tensor = self.mean + self.sd * outputs_BX[:, 0]
            return predicted_B
        others = [place for place in range(outputs_BX.shape[1]) if place != self.number]
        logit_B: Tensor = outputs_BX[:, self.number] - torch.logsumexp(outputs_BX[:, others], 1)
        return logit_B


def _place(classes: tuple[str, ...], of_class: str) -> int:
    if of_class not in classes:
        raise ConfigError(
            expected("Option", "--class", f"one of {', '.join(classes)}", of_class,
                     "Choose one of them.")
        )  # fmt: skip
    return classes.index(of_class)
