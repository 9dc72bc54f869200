"""Runs in another version of MNI152 than the template or atlas of a token group."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fmritok.tokenizers.mni import apart

__all__ = ["space_notes", "space_sentences"]


def space_notes(runs: pd.DataFrame, template_space: str) -> dict[str, Any]:
    """Return what a group records of spaces: its template's, and runs that lie apart from it.

    Parameters
    ----------
    runs : pd.DataFrame
        Rows of the catalogue.
    template_space : str
        Space of the template or atlas; empty if it does not say.

    Returns
    -------
    dict
        ``template``, and for every other version of MNI152 (under ``apart``) the number of runs,
        and median and 95th percentile of the distance, mm (None: not measured).
    """
    if not template_space:
        return {}
    found: dict[str, Any] = {"template": template_space, "apart": {}}
    for space, rows in runs[runs["problem"] == ""].groupby("space"):
        distance = apart(str(space), template_space)
        if distance is not None:
            found["apart"][str(space)] = {
                "runs": len(rows), "median_mm": distance.median,
                "percentile_95_mm": distance.percentile_95,
            }  # fmt: skip
    return found


def space_sentences(group: str, notes: dict[str, Any]) -> list[str]:
    """Say which runs lie apart from the template, and how far."""
    return [
        f"{group}: runs in {space} ({said['runs']}), template in {notes['template']}: "
        f"{apart(space, notes['template'])}. Runs are sampled as they are; see docs/spaces.md."
        for space, said in notes.get("apart", {}).items()
    ]
