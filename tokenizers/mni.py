"""Versions of the MNI152 template, the older MNI305, and how far they lie apart."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MNI152", "MNI305", "VERSIONS", "Apart", "apart"]

#: Some version of MNI152: its files do not say which.
MNI152 = "MNI152"
#: Of FreeSurfer's fsaverage.
MNI305 = "MNI305"
#: Names as in TemplateFlow: of FSL and HCP, of fMRIPrep by default, and of NIAK.
VERSIONS = ("MNI152NLin6Asym", "MNI152NLin2009cAsym", "MNI152NLin2009aSym")


class Apart(NamedTuple):
    """Distance of the same anatomy in two templates, mm; None if it was not measured."""

    median: float | None
    percentile_95: float | None

    def __str__(self) -> str:
        if self.median is None:
            return "an unknown distance apart, some mm"
        return f"{self.median} mm apart (95 % below {self.percentile_95} mm)"


#: By benchmarks/spaces.py, at the same parcels in both, or at vertices before and after moving.
_MEASURED = {
    frozenset(VERSIONS[:2]): Apart(1.6, 3.0),
    frozenset((VERSIONS[0], MNI305)): Apart(2.3, 2.6),
}


def apart(one: str, other: str) -> Apart | None:
    """Return how far two spaces lie apart; None if they are the same, or one has no known place."""
    if one == other or not {one, other} <= {*VERSIONS, MNI305}:
        return None
    return _MEASURED.get(frozenset((one, other)), Apart(None, None))
