"""Read the samples of a run: once, forward, whatever kind of file holds them."""

from __future__ import annotations

from fmritok.pipeline.sources.opening import RunSource, open_run

__all__ = ["RunSource", "open_run"]
