"""Write the scores of probes with folds and chance levels, as JSON, CSV and a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.table import Table

from fmritok.trainer.data.labels import Labels
from fmritok.trainer.evaluation.metrics import LOWER_IS_BETTER
from fmritok.trainer.evaluation.probe import Score
from fmritok.trainer.training.faults import write_whole, writing

__all__ = ["Row", "chance", "few_units", "scores_table", "write_scores"]

_SHOWN = ("balanced_accuracy", "auc", "r")
_FEW = 30


@dataclass(frozen=True)
class Row:
    """The scores of one encoder on one target."""

    encoder: str
    source: list[dict[str, Any]]
    labels: Labels
    scores: list[Score]


def write_scores(out: Path, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Write ``probe.json``, two tables and ``folds.json``; return the content of the first.

    ``probe.csv`` has one row per seed, ``probe_folds.csv`` one per fold.

    Raises
    ------
    TrainingError
        If the disk refuses.
    """
    summary, table, fold_table, folds = [], [], [], {}
    for row in rows:
        labels = row.labels
        figures: dict[str, Any] = {}
        for name in row.scores[0].figures:
            values = [score.figures[name] for score in row.scores]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            figures[name] = {
                "mean": float(np.mean(values)),
                "sd": spread,
                "values": values,
                "of_folds": [_or_none(score.of_folds[name]) for score in row.scores],
                "chance": chance(name, row.scores),
            }
        counts = dict(zip(*np.unique(labels.values, return_counts=True), strict=True))
        summary.append(
            {
                "encoder": row.encoder,
                "target": labels.target,
                "kind": labels.kind,
                "unit": labels.unit,
                "n_units": len(labels.values),
                "classes": {str(k): int(v) for k, v in counts.items()}
                if labels.kind == "classes" else None,
                **labels.details,
                "figures": figures,
                "folds": {s.seed: [split.sha256 for split in s.splits] for s in row.scores},
                "source": row.source,
            }
        )  # fmt: skip
        for score in row.scores:
            who = {"encoder": row.encoder, "target": labels.target, "seed": score.seed}
            by_chance = {
                f"{name}_chance": float(values.mean()) if len(values) else None
                for name, values in score.permuted.items()
            }
            table.append({**who, **score.figures, **by_chance})
            for fold, split in enumerate(score.splits):
                figures = {name: values[fold] for name, values in score.of_folds.items()}
                fold_table.append({**who, "fold": fold, **figures, "sha256": split.sha256})
                folds[split.sha256] = json.loads(split.to_json())
    files = {
        "probe.json": json.dumps(summary, indent=1),
        "folds.json": json.dumps(folds, indent=1),
        "probe.csv": pd.DataFrame(table).to_csv(index=False),
        "probe_folds.csv": pd.DataFrame(fold_table).to_csv(index=False),
    }
    with writing("Scores", out, then="Then probe again, or choose another folder with --out."):
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_whole(out / name, text)
    return summary


def _or_none(values: npt.NDArray[Any]) -> list[float | None]:
    """Return numbers with NaN as None, for JSON."""
    return [None if np.isnan(value) else float(value) for value in values]


def chance(name: str, scores: Sequence[Score]) -> dict[str, float] | None:
    """Summarise the scores of permuted labels over all seeds; None without any.

    ``limit`` is their best 5 % quantile. ``p`` is the share at least as good as the real labels'
    mean over the seeds. A permuted score is of a single seed and varies more than that mean: p is
    conservative.
    """
    permuted = np.concatenate([score.permuted[name] for score in scores])
    if not len(permuted):
        return None
    sign = -1 if name in LOWER_IS_BETTER else 1
    mean = np.mean([score.figures[name] for score in scores])
    as_good = int((sign * permuted >= sign * mean - 1e-12).sum())
    return {
        "mean": float(permuted.mean()),
        "limit": float(sign * np.quantile(sign * permuted, 0.95)),
        "p": (1 + as_good) / (1 + len(permuted)),
        "permutations": len(permuted),
    }


def scores_table(summary: Sequence[dict[str, Any]]) -> Table:
    """Return a table of mean and standard deviation over the seeds beside chance levels.

    One seed has no standard deviation.
    """
    table = Table("encoder", "target", "n", "figure", "mean", "SD", "by chance", "95 %", "p")
    for row in summary:
        for name in _SHOWN:
            if name in row["figures"]:
                figure = row["figures"][name]
                found = figure["chance"]
                by_chance = ["-"] * 3 if found is None else [
                    f"{found['mean']:.3f}", f"{found['limit']:.3f}", f"{found['p']:.3f}",
                ]  # fmt: skip
                sd = "-" if figure["sd"] is None else f"{figure['sd']:.3f}"
                table.add_row(
                    row["encoder"], row["target"], str(row["n_units"]), name.replace("_", " "),
                    f"{figure['mean']:.3f}", sd, *by_chance,
                )  # fmt: skip
    return table


def few_units(summary: Sequence[dict[str, Any]]) -> str | None:
    """Return a warning if a target has fewer than 30 units, None if none has."""
    few = {row["target"]: (row["n_units"], row["unit"]) for row in summary
           if row["n_units"] < _FEW}  # fmt: skip
    if not few:
        return None
    named = ", ".join(f"{target} ({n} {unit}s)" for target, (n, unit) in few.items())
    return f"Few units: {named}. Scores of fewer than {_FEW} vary widely by chance."
