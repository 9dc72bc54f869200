"""Probes of whole trainings: every encoder, every target, written down with its folds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.table import Table

from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.checkpoint import find_checkpoint, read_state, run_folder
from fmritok.trainer.features import load_encoder, run_features
from fmritok.trainer.probe import Labels, Score, labels_of, probe
from fmritok.trainer.windows import RunIndex

__all__ = ["Row", "probe_trainings", "scores_table", "write_scores"]


@dataclass(frozen=True)
class Row:
    """The scores of one encoder on one target."""

    encoder: str
    source: list[dict[str, Any]]
    labels: Labels
    scores: list[Score]


def probe_trainings(
    store: str,
    group_name: str | None,
    trainings: Sequence[Path],
    targets: Sequence[str],
    *,
    untrained: bool,
    seeds: Sequence[int],
    folds: int,
    crops: int,
    workers: int,
    device: torch.device,
) -> list[Row]:
    """Probe the encoders of trainings, and untrained ones of the same shapes.

    An untrained encoder is drawn anew for every seed.
    """
    opened, rows = TokenStore(store), []
    for training in trainings:
        checkpoint = find_checkpoint(training)
        state = read_state(checkpoint)
        group = opened.group(group_name or state["group"]["name"])
        runs = group.runs.sort_values("run_id", ignore_index=True)
        index = RunIndex.of(runs, runs["run_id"].tolist())
        chosen = [labels_of(target, runs, opened.phenotypes()) for target in targets]

        name = f"{state['config']['objective']['name']} {run_folder(checkpoint).name}"
        encoders: list[tuple[str, list[tuple[int | None, Sequence[int]]]]]
        encoders = [(name, [(None, seeds)])]
        if untrained:
            encoders.append((f"untrained, as {name}", [(seed, [seed]) for seed in seeds]))
        for encoder, draws in encoders:
            sources = []
            scores: list[list[Score]] = [[] for _ in chosen]
            for seed, of_folds in draws:
                frozen = load_encoder(checkpoint, group, untrained_seed=seed)
                sources.append(frozen.source)
                features = run_features(
                    frozen, group, index, crops=crops, device=device, workers=workers
                )
                for kept, labels in zip(scores, chosen, strict=True):
                    kept += probe(features, labels, runs, seeds=of_folds, folds=folds)
            for kept, labels in zip(scores, chosen, strict=True):
                rows.append(Row(encoder, sources, labels, kept))
    return rows


def write_scores(out: Path, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Write ``probe.json``, ``probe.csv`` and ``folds.json``; return what the first holds."""
    out.mkdir(parents=True, exist_ok=True)
    summary, table, folds = [], [], {}
    for row in rows:
        labels = row.labels
        figures: dict[str, Any] = {}
        for name in row.scores[0].figures:
            values = [score.figures[name] for score in row.scores]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            figures[name] = {"mean": float(np.mean(values)), "sd": spread, "values": values}
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
                "figures": figures,
                "folds": {s.seed: [split.sha256 for split in s.splits] for s in row.scores},
                "source": row.source,
            }
        )  # fmt: skip
        for score in row.scores:
            table.append({"encoder": row.encoder, "target": labels.target, "seed": score.seed,
                          **score.figures})  # fmt: skip
            for split in score.splits:
                folds[split.sha256] = json.loads(split.to_json())
    (out / "probe.json").write_text(json.dumps(summary, indent=1))
    (out / "folds.json").write_text(json.dumps(folds, indent=1))
    pd.DataFrame(table).to_csv(out / "probe.csv", index=False)
    return summary


def scores_table(summary: Sequence[dict[str, Any]]) -> Table:
    """Set mean and standard deviation over the seeds beside one another."""
    table = Table("encoder", "target", "n", "figure", "mean", "SD", "by chance")
    for row in summary:
        chance = {"balanced_accuracy": 1 / len(row["classes"] or [0]), "auc": 0.5, "r": 0.0}
        for name in chance:
            if name in row["figures"]:
                figure = row["figures"][name]
                table.add_row(
                    row["encoder"], row["target"], str(row["n_units"]), name.replace("_", " "),
                    f"{figure['mean']:.3f}", f"{figure['sd']:.3f}", f"{chance[name]:.2f}",
                )  # fmt: skip
    return table
