"""Scores of probes, written down with their folds and set beside those of permuted labels."""

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

__all__ = ["Row", "chance", "scores_table", "write_scores"]

_SHOWN = ("balanced_accuracy", "auc", "r")


@dataclass(frozen=True)
class Row:
    """The scores of one encoder on one target."""

    encoder: str
    source: list[dict[str, Any]]
    labels: Labels
    scores: list[Score]


def write_scores(out: Path, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Write ``probe.json``, two tables and ``folds.json``; return what the first holds.

    ``probe.csv`` has a row for each seed, ``probe_folds.csv`` one for each fold.

    Raises
    ------
    TrainingError
        If the disk does not take them.
    """
    summary, table, fold_table, folds = [], [], [], {}
    for row in rows:
        labels = row.labels
        figures: dict[str, Any] = {}
        for name in row.scores[0].figures:
            values = [score.figures[name] for score in row.scores]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
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
    """Return numbers as JSON has them, which has no NaN."""
    return [None if np.isnan(value) else float(value) for value in values]


def chance(name: str, scores: Sequence[Score]) -> dict[str, float] | None:
    """Sum up the scores of permuted labels, of all seeds together; None if there are none.

    ``limit`` is what the best 5 % of them reach, ``p`` the share that is at least as good as the
    mean over the seeds of the real labels' score. That mean scatters less than the score of one
    seed, so p is rather too large than too small.
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
    """Set mean and standard deviation over the seeds beside what permuted labels reach."""
    table = Table("encoder", "target", "n", "figure", "mean", "SD", "by chance", "95 %", "p")
    for row in summary:
        for name in _SHOWN:
            if name in row["figures"]:
                figure = row["figures"][name]
                found = figure["chance"]
                by_chance = ["-"] * 3 if found is None else [
                    f"{found['mean']:.3f}", f"{found['limit']:.3f}", f"{found['p']:.3f}",
                ]  # fmt: skip
                table.add_row(
                    row["encoder"], row["target"], str(row["n_units"]), name.replace("_", " "),
                    f"{figure['mean']:.3f}", f"{figure['sd']:.3f}", *by_chance,
                )  # fmt: skip
    return table
