"""``participants.tsv``: subjects of a BIDS data set, described by its JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from fmritok.pipeline.errors import CatalogError, expected
from fmritok.pipeline.phenotypes import AGE, SEX, Column, Phenotypes, sex_labels, tidy
from fmritok.pipeline.text_table import find_column, read_text_table

__all__ = ["read_participants"]


def read_participants(dataset: str, folders: Iterable[Path]) -> Phenotypes:
    """Read the first ``participants.tsv`` of some folders, with units and meanings from the JSON.

    Raises
    ------
    CatalogError
        If the table or its description is broken.
    """
    path = next(
        (f / "participants.tsv" for f in folders if (f / "participants.tsv").exists()), None
    )
    if path is None:
        return Phenotypes()
    table = read_text_table(path, ["participant_id"])
    table["subject"] = table["subject"].str.removeprefix("sub-")
    about = _description(path.with_suffix(".json"))
    names = list(map(str, table))
    described = {name: _column(about.get(name), f"{path.name}: {name}") for name in names}
    sex = find_column(table.columns, ["sex", "gender"])
    if sex:
        described_by = about.get(sex)
        levels = described_by.get("Levels") or {} if isinstance(described_by, dict) else {}
        table, original = _aside(table, sex, "sex")
        table["sex"] = sex_labels(table[original], _codes(levels))
        described["sex"] = Column(SEX.meaning, "", f"{path.name}: {sex}", SEX.kind)
    age = find_column(table.columns, ["age", "age_years"])
    if age:
        table, original = _aside(table, age, "age")
        years = table[original].str.rstrip("+")  # 89+, as privacy rules have it
        if pd.to_numeric(years.where(years != ""), errors="coerce").notna().eq(years != "").all():
            table["age"] = years
            described["age"] = Column(AGE.meaning, AGE.unit, f"{path.name}: {age}", AGE.kind)
    site = find_column(table.columns, ["site", "site_id"])
    if site:
        table["site"] = table[site]
        described["site"] = Column("site", "", f"{path.name}: {site}", "text")
    return tidy(dataset, table, described)


def _aside(table: pd.DataFrame, column: str, name: str) -> tuple[pd.DataFrame, str]:
    """Keep a column as it is under another name, where the harmonised one takes its own."""
    if column != name:
        return table, column
    kept = f"{name}_as_given"
    return table.rename(columns={column: kept}), kept


def _codes(levels: dict[str, Any]) -> dict[str, str]:
    codes = {}
    for code, label in levels.items():
        text = label.get("Description", "") if isinstance(label, dict) else str(label)
        found = sex_labels(pd.Series([text])).iloc[0]
        if found:
            codes[str(code).lower()] = found
    return codes


def _column(about: Any, source: str) -> Column:
    about = about if isinstance(about, dict) else {}
    meaning = about.get("Description") or about.get("LongName") or ""
    return Column(str(meaning), str(about.get("Units") or ""), source)


def _description(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise CatalogError(
            expected("Description of the participants", path, "JSON", error, "Repair it.")
        ) from error
    return about if isinstance(about, dict) else {}
