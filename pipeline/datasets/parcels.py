"""Adapter of parcel time courses that were computed elsewhere, described by a small YAML file.

``ROOT/parcels.yaml`` (or the YAML file itself as root) says how the files are called, which axis is
time, and which atlas, repetition times and phenotypes belong to them; see
:mod:`fmritok.pipeline.parcels.description`. Files are text (``.1D``, ``.tsv``, ``.csv``), ``.npy``,
HDF5 or ``ptseries.nii``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fmritok.errors import CatalogError, expected, wrong_usage
from fmritok.pipeline.catalog.building import build_cohort
from fmritok.pipeline.catalog.cohort import Cohort, Input
from fmritok.pipeline.catalog.found import Found, RunFile, checked_root
from fmritok.pipeline.catalog.phenotypes import Phenotypes
from fmritok.pipeline.datasets.bids_files import safe_id
from fmritok.pipeline.headers.sidecar import Sidecar, read_sidecar
from fmritok.pipeline.parcels.description import Description, read_description
from fmritok.pipeline.parcels.layout import SeriesLayout
from fmritok.pipeline.parcels.pattern import FoundSeries, find_series
from fmritok.pipeline.parcels.phenotypes import read_phenotypes
from fmritok.pipeline.parcels.times import Times
from fmritok.pipeline.tables.remarks import Reason, Remark
from fmritok.pipeline.tables.small_files import UnreadableError, read_json
from fmritok.tokenizers.network.tokenizer import NetworkTokenizer

__all__ = ["catalog_parcels", "network_options"]

#: Short names of entities in run ids, as in BIDS.
_SHORT = {"subject": "sub", "session": "ses"}
#: Columns of phenotypes with the head motion of a subject's runs, mm.
_MOTION = ("motion", "mean_fd")


def catalog_parcels(root: Path, *, tr: float | None = None, input: Input = "volume") -> Cohort:
    """Catalogue parcel time courses as a YAML file describes them (docs/parcels.md).

    Raises
    ------
    CatalogError
        If the description is wrong, no file fits its pattern, or a table is broken.
    AtlasError
        If the atlas cannot be read.
    """
    if input != "volume":
        raise wrong_usage(CatalogError(
            expected("Option", f"--input {input} for --dataset parcels", "none", input,
                     "Leave it out: files of parcels are neither volumes nor surfaces.")
        ))  # fmt: skip
    about = read_description(root)
    checked_root(about.root)
    found = Found()
    series = _find(about, found)
    phenotypes = Phenotypes()
    if about.phenotypes:
        phenotypes = read_phenotypes("parcels", about.phenotypes, about.id_digits)
    layout = SeriesLayout(len(NetworkTokenizer(**about.atlas).atlas), about.frames, about.skip)
    rows = _by_subject(phenotypes)
    times = Times(about)
    for one in series:
        found.files.append(_run(one, about, layout, rows, times, tr, found))
    return build_cohort("parcels", about.root, found, phenotypes, tr=tr,
                        looked_for=" or ".join(about.patterns))  # fmt: skip


def network_options(root: Path) -> dict[str, Any]:
    """Return the options of the tokenizer ``network`` for a cohort: its atlas.

    Raises
    ------
    CatalogError
        If the description is wrong.
    """
    return dict(read_description(root).atlas)


def _find(about: Description, found: Found) -> list[FoundSeries]:
    """Return the runs of all patterns. Files that two patterns find count once."""
    series: dict[Path, FoundSeries] = {}
    for pattern in about.patterns:
        for one in find_series(about.root, pattern, about.path):
            if not one.problem:
                series.setdefault(one.path, one)
            else:
                found.left_out.append((one.path, one.problem))
    return list(series.values())


def _run(
    one: FoundSeries,
    about: Description,
    layout: SeriesLayout,
    rows: Mapping[tuple[str, str], Mapping[str, Any]],
    times: Times,
    tr: float | None,
    found: Found,
) -> RunFile:
    entities = dict(one.entities)
    subject = entities["subject"].zfill(about.id_digits)
    entities["subject"] = subject
    session = entities.get("session", "")
    row = rows.get((subject, session)) or rows.get((subject, ""), {})
    site = entities.get("site") or _text(row.get("site"))
    in_id = [f"{_SHORT.get(k, k)}-{v}" for k, v in entities.items() if k != "site"]
    is_cifti = one.path.name.endswith(".ptseries.nii")
    sidecar, problem = Sidecar(), ""
    if tr is None:
        sidecar, problem = times.of(one.path, subject, site)
        if not problem and math.isnan(sidecar.tr):
            sidecar = _beside(one.path, found) or sidecar
            if math.isnan(sidecar.tr) and not is_cifti:
                problem = expected(
                    "Repetition time", f"of {one.path}", "seconds between frames", "none",
                    f"Give it as `tr` in {about.path}, as RepetitionTime in the JSON file of the "
                    "run's name, or for all runs with --tr SECONDS.",
                )  # fmt: skip
    return RunFile(
        run_id=safe_id("_".join(["parcels", *in_id])),
        subject=subject,
        path=one.path,
        session=session,
        task=entities.get("task") or about.task,
        site=site,
        family=_text(row.get("family")),
        space="",
        sidecar=sidecar,
        usual_tr=() if math.isnan(sidecar.tr) else (sidecar.tr,),
        layout="" if is_cifti else layout.to_text(),
        motion=next((float(row[name]) for name in _MOTION
                     if isinstance(row.get(name), int | float)), math.nan),
        problem=problem,
    )  # fmt: skip


def _beside(path: Path, found: Found) -> Sidecar | None:
    """Return the timing in the JSON file of a run's name; None if there is none."""
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    file = path.with_name(name.rpartition(".")[0] + ".json")
    try:
        fields = read_json(file)
    except UnreadableError as error:
        if str(error) != Reason.MISSING:
            found.questioned.append((file, Remark.NO_SIDECAR.with_reason(error)))
        return None
    rate = fields.get("SamplingFrequency")
    if "RepetitionTime" not in fields and isinstance(rate, int | float) and rate > 0:
        fields["RepetitionTime"] = round(1 / rate, 6)
    return read_sidecar({key: (value, file) for key, value in fields.items()})


def _by_subject(phenotypes: Phenotypes) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the phenotypes by subject and session; the session is empty for all sessions."""
    rows: Iterable[dict[Any, Any]] = phenotypes.table.to_dict("records")
    return {
        (str(row["subject"]), str(row["session"])): {str(k): v for k, v in row.items()}
        for row in rows
    }


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value)
