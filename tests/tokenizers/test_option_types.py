"""Values of options are of the type that the tokenizer's constructor says, else one error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from fmritok.errors import FmritokError
from fmritok.tokenizers.option_types import check_types
from fmritok.tokenizers.registry import build_tokenizer

if TYPE_CHECKING:
    from nowhere import Unknown


class Tokenizer:
    def __init__(
        self,
        atlas: str = "",
        size: int | None = None,
        clip: float = 1.0,
        fast: bool = False,
        kind: Literal["max", "mean"] | Literal["auto"] | None = None,
        names: Mapping[str, str] | None = None,
        band: tuple[float, float] | None = None,
        odd: Unknown = None,
    ) -> None:
        pass


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("atlas", 5, "text"),
        ("atlas", None, "text"),
        ("size", "4", "a whole number or null"),
        ("size", 1.5, "a whole number or null"),
        ("size", True, "a whole number or null"),
        ("clip", "1e-4", "a number"),
        ("clip", False, "a number"),
        ("fast", 1, "true or false"),
        ("kind", "median", "one of max, mean, auto or null"),
        ("names", "abc", "names with values or null"),
    ],
)
def test_values_of_another_type_are_wrong_usage(option, value, wanted):
    with pytest.raises(FmritokError) as caught:
        check_types("mine", Tokenizer, {option: value})
    assert str(caught.value) == (
        f"Option mine.{option}: expected {wanted}, got {value!r}. "
        f"Change it in `options`, on the command line with --set mine.{option}=VALUE."
    )
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("atlas", Path("table.tsv")),
        ("size", np.int64(4)),
        ("size", None),
        ("clip", 1),
        ("clip", np.float32(0.5)),
        ("kind", "auto"),
        ("names", {"name": "parcel"}),
        ("band", [0.01, 0.1]),
        ("odd", object()),
    ],
)
def test_values_of_the_type_and_types_that_are_not_known_pass(option, value):
    check_types("mine", Tokenizer, {option: value})


@pytest.mark.parametrize("option", ["network.atlas", "flatmap.template", "vae.batch_size"])
def test_built_in_tokenizers_refuse_values_of_another_type(option):
    name, _, option = option.partition(".")
    with pytest.raises(FmritokError, match=rf"Option {name}\.{option}: expected .* got \[5\]"):
        build_tokenizer(name, {option: [5]})
