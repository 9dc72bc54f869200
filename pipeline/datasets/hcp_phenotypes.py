"""Phenotypes of HCP Young Adult: the unrestricted and the restricted table of subjects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from fmritok.errors import CatalogError, expected
from fmritok.pipeline.catalog.phenotypes import AGE, SEX, Column, Phenotypes, sex_labels, tidy
from fmritok.pipeline.tables.remarks import Remark
from fmritok.pipeline.tables.small_files import UnreadableError
from fmritok.pipeline.tables.subject_table import read_subject_table
from fmritok.pipeline.tables.text_table import CSV

__all__ = ["hcp_phenotypes"]

_COLUMNS = {
    "sex": SEX,
    "age": AGE,
    "Age": Column("age, in bins: not years", kind="text"),
    "Gender": Column("sex: F or M", kind="text"),
    "Family_ID": Column("family: siblings share it", kind="text"),
    "Mother_ID": Column("mother", kind="text"),
    "Father_ID": Column("father", kind="text"),
    "Age_in_Yrs": Column("age", "years", kind="number"),
    "PMAT24_A_CR": Column("Penn matrices: correct responses (fluid intelligence)", "of 24"),
    "CogTotalComp_AgeAdj": Column("NIH Toolbox total cognition", "age-adjusted score"),
    "CogFluidComp_AgeAdj": Column("NIH Toolbox fluid cognition", "age-adjusted score"),
    "CogCrystalComp_AgeAdj": Column("NIH Toolbox crystallized cognition", "age-adjusted score"),
    "CogTotalComp_Unadj": Column("NIH Toolbox total cognition", "unadjusted score"),
    "CogFluidComp_Unadj": Column("NIH Toolbox fluid cognition", "unadjusted score"),
    "CogCrystalComp_Unadj": Column("NIH Toolbox crystallized cognition", "unadjusted score"),
    **{
        f"NEOFAC_{letter}": Column(f"NEO-FFI: {trait}", "of 48")
        for letter, trait in zip(
            "AOCNE",
            ("agreeableness", "openness", "conscientiousness", "neuroticism", "extraversion"),
            strict=True,
        )
    },
}


def hcp_phenotypes(dataset: str, root: Path) -> Phenotypes:
    """Join the unrestricted and the restricted table by subject. Either may be missing."""
    joined = pd.DataFrame({"subject": pd.Series(dtype=str)})
    questioned: list[tuple[Path, str]] = []
    source: dict[str, str] = {}
    for start in ("unrestricted", "restricted"):
        tables = sorted(p for p in root.glob("*.csv") if p.name.lower().startswith(start))
        if len(tables) > 1:
            raise CatalogError(
                expected(f"Tables {start}*.csv in", root, "one file",
                         ", ".join(p.name for p in tables), "Keep the newest.")
            )  # fmt: skip
        for path in tables:
            try:
                table, said = read_subject_table(path, CSV, ["Subject"])
            except UnreadableError as error:
                if start == "restricted":
                    raise CatalogError(
                        expected("Phenotype table", path, "a table with the families of subjects",
                                 error, "Without it, siblings could be split apart. Mend the file, "
                                 "or move it away.")
                    ) from error  # fmt: skip
                questioned.append((path, Remark.NO_PHENOTYPES.with_reason(error)))
                continue
            questioned += [(path, words) for words in said]
            new = [c for c in table.columns if c == "subject" or c not in joined.columns]
            source |= {c: f"{path.name}: {c}" for c in new}
            joined = joined.merge(table[new], on="subject", how="outer").fillna("")
    if joined.empty:
        return Phenotypes(questioned=questioned)
    if "Gender" in joined:
        joined["sex"] = sex_labels(joined["Gender"])
        source["sex"] = source["Gender"]
    if "Age_in_Yrs" in joined:
        joined["age"] = joined["Age_in_Yrs"]
        source["age"] = source["Age_in_Yrs"]
    found = tidy(dataset, joined, _COLUMNS, source=source, path=root)
    return replace(found, questioned=[*questioned, *found.questioned])
