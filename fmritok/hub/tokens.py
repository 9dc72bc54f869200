"""The tokens that the weights of a published method read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from fmritok.errors import expected
from fmritok.pipeline.tokenization.plan import plan_group
from fmritok.tokenizers.registry import build_tokenizer
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.published.methods import METHODS
from fmritok.trainer.record.saved_group import SavedGroup

__all__ = ["tokens_of_method"]


def tokens_of_method(method: str, assignments: Sequence[str]) -> SavedGroup:
    """Return the meaning of the tokens of a method, by its tokenizer.

    Parameters
    ----------
    method : str
        Such as ``cortexmae``.
    assignments : sequence of str
        ``TOKENIZER.OPTION=VALUE``, such as ``flatmap.template=FOLDER``.

    Raises
    ------
    ConfigError
        If an assignment is not of that form or of another tokenizer, or a needed one is missing.
    FmritokError
        If the tokenizer cannot be built.
    """
    said = METHODS[method]
    given: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        tokenizer, _, option = key.partition(".")
        if not equals or tokenizer != said.tokenizer or not option:
            raise ConfigError(
                expected("Option", "--set", f"{said.tokenizer}.OPTION=VALUE, as {method} reads "
                         f"tokens of {said.tokenizer}", repr(text), "Correct it.")
            )  # fmt: skip
        given[option] = yaml.safe_load(value)
    if said.needed not in given:
        raise ConfigError(
            expected("Option", "--set", f"{said.tokenizer}.{said.needed}=PATH", "none",
                     f"The tokens of {method} depend on it: see docs/weights.md.")
        )  # fmt: skip
    options = {**said.token_options(), **given}
    spec = plan_group(build_tokenizer(said.tokenizer, options), options).spec
    return SavedGroup(spec.name, spec.contract(), spec.notes, spec.static)
