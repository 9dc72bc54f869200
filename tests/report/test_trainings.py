"""A training on other tokens than the store has is named in the report."""

from __future__ import annotations

from types import SimpleNamespace

from stores import write_two_groups

from fmritok.pipeline.store.reader import TokenStore
from fmritok.report.page import other_tokens


def test_trainings_on_other_tokens_are_named(tmp_path):
    store = TokenStore(write_two_groups(tmp_path / "tokens.zarr", n_subjects=2))
    own = SimpleNamespace(name="own", group="cells", provenance=store["cells"].provenance)
    other = SimpleNamespace(name="other", group="cells", provenance={"tokenizer": "vae"})
    assert other_tokens(store, own) == []
    (note,) = other_tokens(store, other)
    assert "Training other was on other tokens" in note
