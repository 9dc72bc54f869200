"""The ``network`` tokenizer: mean time courses of atlas parcels, sorted by functional network.

The method of Brain-Semantoks (Gijsen et al., arXiv 2512.11582): parcel means, a band-pass filter,
resampling to a common repetition time, and a z-score of each parcel over the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse

from fmritok.errors import FmritokError, RunError, expected, wrong_usage
from fmritok.terminal import spreadsheet_cell
from fmritok.tokenizers.base import Series, SeriesTokenizer, SeriesTokens, TokenGrid
from fmritok.tokenizers.network.atlas import Atlas, load_atlas
from fmritok.tokenizers.network.atlas_table import EMBEDDED_ATLAS
from fmritok.tokenizers.network.columns import find_parcels
from fmritok.tokenizers.spaces import ParcelSpace, SampleSpace
from fmritok.tokenizers.sparse import SparseMap
from fmritok.tokenizers.stored import StoredTokens
from fmritok.tokenizers.temporal import bandpass, check_tr, resample, resampled_frames, standardize

__all__ = ["NetworkTokenizer"]


class NetworkTokenizer(SeriesTokenizer):
    """Tokenize the mean time courses of parcels.

    Parameters
    ----------
    atlas : str
        ``seitzman300`` (shipped with nilearn), or the path of a table; see
        :mod:`fmritok.tokenizers.network.atlas_table`.
    band : tuple of float, optional
        Pass band: lowest and highest frequency, Hz. None: no filter.
    tr : float, optional
        Seconds between token frames. None: the run's own.
    columns : dict of str to str, optional
        Names of the columns of the atlas's table, where they are others: ``{name: parcel}``.
    networks_from : str
        Atlas whose nearest coordinate gives each parcel its network, if the table has no networks.
    """

    name: ClassVar[str] = "network"
    default_precision: ClassVar[str] = "float16"
    chunk_frames: ClassVar[int] = 64
    file_types: ClassVar[tuple[str, ...]] = (".tsv",)

    def __init__(
        self,
        atlas: str = EMBEDDED_ATLAS,
        *,
        band: tuple[float, float] | None = (0.01, 0.1),
        tr: float | None = 2.0,
        columns: Mapping[str, str] | None = None,
        networks_from: str = EMBEDDED_ATLAS,
    ) -> None:
        self.reference, self._columns, self._networks_from = atlas, columns, networks_from
        self.band = None if band is None else _pass_band(band)
        check_tr("network.tr", tr)
        self.tr = tr
        self._places: dict[str, SparseMap] = {}

    @cached_property
    def atlas(self) -> Atlas:
        """The atlas."""
        return load_atlas(self.reference, self._columns, self._networks_from)

    @property
    def template_space(self) -> str:
        """Space of volumes that label images or coordinates lie in; empty if not stated."""
        return self.atlas.space

    @cached_property
    def grid(self) -> TokenGrid:
        """One token per parcel, with one feature. Parcels are sorted by network."""
        atlas = self.atlas
        layout: dict[str, Any] = {
            "token_order": "parcels by network, in the order of `parcels`",
            "parcels": [str(name) for name in atlas.table["name"]],
            "networks": list(atlas.networks),
            "static": {"network": "index of each parcel's network in `networks`"},
        }
        static: dict[str, npt.NDArray[Any]] = {"network": atlas.network}
        if atlas.nearest:
            layout["static"]["network_distance"] = "mm to the coordinate whose network it has"
            static["network_distance"] = atlas.nearest.distance
        return TokenGrid(len(atlas), 1, atlas.centres, layout, static)

    @property
    def run_arrays(self) -> dict[str, tuple[int, ...]]:
        """Number and share of samples with signal, per parcel."""
        return {"samples": (len(self.atlas),), "coverage": (len(self.atlas),)}

    def provenance(self) -> dict[str, Any]:
        """Return all settings that change the tokens."""
        nearest = self.atlas.nearest
        return {
            "tokenizer": self.name,
            "atlas": {"sha256": self.atlas.sha256},
            **({} if nearest is None else {"networks": {
                "rule": "that of the nearest centre", "of_atlas": {"sha256": nearest.sha256},
                "distance_mm": [round(float(mm), 1) for mm in nearest.distance],
            }}),
            "band_hz": None if self.band is None else
            {"low": self.band[0], "high": self.band[1], "filter": "butterworth, order 5, twice"},
            "tr": self.tr if self.tr is None else {"seconds": self.tr, "interpolation": "linear"},
            "standardized": "each parcel over time",
            "layout": dict(self.grid.layout),
        }  # fmt: skip

    def notes(self) -> dict[str, Any]:
        """Return the atlas as the user gave it, and the one with networks."""
        nearest = self.atlas.nearest
        return {"atlas": self.reference} | ({"networks_from": nearest.atlas} if nearest else {})

    def timing(self, n_frames: int, tr: float) -> tuple[int, float]:
        """Return the number of frames and the repetition time after resampling."""
        return resampled_frames(n_frames, tr, self.tr), self.tr or tr

    def setup(self) -> None:
        """Load the atlas."""
        _ = self.grid

    @classmethod
    def save(cls, stored: StoredTokens, out: Path, overrides: Mapping[str, str]) -> list[Path]:
        """Write a table with one column per parcel. Needs no atlas."""
        import pandas as pd

        names = [spreadsheet_cell(str(name)) for name in stored.provenance["layout"]["parcels"]]
        table = pd.DataFrame(stored.tokens[:, :, 0], columns=names)
        seconds = (stored.first + np.arange(len(table))) * stored.tr
        table.insert(0, "seconds", seconds)
        table.to_csv(out, sep="\t", index=False, float_format="%.6g")
        return [out]

    def problem(self, space: SampleSpace) -> str:
        """Return why runs cannot be encoded: never, for time courses of parcels can be, too."""
        return ""

    def places(self, space: SampleSpace) -> SparseMap:
        """Return the map from samples to parcel means, or from named time courses to parcels."""
        if space.key not in self._places:
            members = self._members(space)
            sizes = np.array([len(m) for m in members])
            offsets = np.concatenate([[0], np.cumsum(sizes)])
            weights = np.repeat(1 / np.maximum(sizes, 1), sizes)
            entries = (weights, np.concatenate(members), offsets)
            self._places[space.key] = SparseMap(
                scipy.sparse.csr_array(entries, (len(members), space.n_samples))
            )
        return self._places[space.key]

    def _members(self, space: SampleSpace) -> list[npt.NDArray[np.int64]]:
        if not isinstance(space, ParcelSpace):
            return self.atlas.members(space)
        names = [str(name) for name in self.atlas.table["name"]]
        found = find_parcels(space, names, self.atlas.row, self.reference)
        return [np.array([column] if column >= 0 else [], np.int64) for column in found]

    def encode_series(
        self, series: Series, tr: float, places: SparseMap, signal: npt.NDArray[np.float32]
    ) -> SeriesTokens:
        """Filter, resample and standardize the mean time courses of parcels."""
        if not (signal > 0).any():
            raise RunError(
                expected("Run", f"in the parcels of {self.reference}", "signal", "none",
                         "Check that the data lie in the atlas's space.")
            )  # fmt: skip
        empty = signal == 0
        if self.band is not None:
            series = bandpass(series, tr, *self.band)
        if self.tr is not None:
            # After the band-pass, slower sampling needs no anti-alias filter.
            series = resample(series, tr, self.tr, "linear", antialias=not self._is_band_limited)
        series[empty] = 0
        standardize(series)
        return SeriesTokens(
            iter([np.ascontiguousarray(series.T)[:, :, None]]),
            {"empty_parcels": float(empty.sum())},
            {
                "samples": signal,
                "coverage": (signal / np.maximum(places.counts, 1)).astype(np.float32),
            },
        )

    @property
    def _is_band_limited(self) -> bool:
        return self.band is not None and self.tr is not None and self.band[1] < 0.5 / self.tr


def _pass_band(band: Any) -> tuple[float, float]:
    try:
        low, high = (float(frequency) for frequency in band)
    except (TypeError, ValueError):
        low = high = 0.0
    if not 0 < low < high:
        raise wrong_usage(FmritokError(
            expected("Option", "network.band", "two frequencies, the lower one first, in Hz",
                     band, "Give for instance network.band=[0.01,0.1], or null.")
        ))  # fmt: skip
    return low, high
