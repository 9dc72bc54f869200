"""The methods paragraph says what was done to the tokens, once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fmritok.report.methods import Methods, write_methods


def written(tokenizer: str, **settings: str) -> str:
    """Write the paragraph on a store of one token group."""
    group = {
        "name": "g", "tokenizer": tokenizer, "tokens": 9, "dim": 1, "dtype": "float16",
        "settings": [(name.replace("__", "."), value) for name, value in settings.items()],
    }  # fmt: skip
    cohort = SimpleNamespace(kinds=[], excluded=[], groups=[group])
    return write_methods(cohort, [], []).text


@pytest.mark.parametrize(("tokenizer", "settings", "words"), [
    ("network", {"band_hz__low": "0.01", "band_hz__high": "0.1", "tr__seconds": "2.0"},
     "were band-pass filtered (0.01 to 0.1 Hz), resampled to 2.0 s, standardized over each run"),
    ("network", {}, "were standardized over each run"),
    ("flatmap", {"template__space": "fsaverage5", "standardized": "each vertex over time"},
     "was standardized at each vertex of fsaverage5, interpolated onto a flat map of both "
     "hemispheres and cut into cells"),
    ("flatmap", {"template__space": "fsLR", "standardized": "each pixel over time",
                 "tr__seconds": "1.0"},
     "was taken at the vertices of fsLR, interpolated onto a flat map of both hemispheres, "
     "standardized at each pixel, resampled to 1.0 s and cut into cells"),
])  # fmt: skip
def test_steps_on_time_courses_are_named_in_their_order(tokenizer, settings, words):
    text = written(tokenizer, **settings)
    assert words in text
    assert "9 tokens of 1 feature a frame" in text


def test_a_sentence_is_written_once():
    methods = Methods()
    for _ in range(2):
        methods.say("A Transformer was pretrained", "transformer")
    assert methods.text == "A Transformer was pretrained [1]."
