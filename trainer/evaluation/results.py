"""The results of a task: predictions, scores with intervals, folds and the task, in one folder.

``scores.json`` is written last and has the sha256 of the other files, so a folder with a
``scores.json`` that fits them is whole.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from fmritok.errors import expected
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.chance import Score, chance
from fmritok.trainer.evaluation.crossval import Row
from fmritok.trainer.evaluation.intervals import (
    DRAWS,
    bootstrap,
    drawn_counts,
    interval,
    mean_over_folds,
)
from fmritok.trainer.evaluation.metrics import METRICS
from fmritok.trainer.tasks.splits import Fold, splits_json
from fmritok.trainer.tasks.task import task_yaml
from fmritok.trainer.tasks.units import Units
from fmritok.trainer.training.faults import write_whole, writing

__all__ = ["FILES", "Results", "read_results", "results_table", "summary", "write_results"]

FORMAT = "fmritok scores 1"
#: In the order in which they are written.
FILES = ("predictions.csv", "scores.csv", "splits.json", "task.yaml", "scores.json")


@dataclass(frozen=True)
class Results:
    """Rows of models on the same units and folds.

    Attributes
    ----------
    units : Units
    folds : tuple of Fold
    rows : tuple of Row
    details : dict
        What else the record should say: store, group, split file, overlap with a pretraining.
    """

    units: Units
    folds: tuple[Fold, ...]
    rows: tuple[Row, ...]
    details: dict[str, Any] = field(default_factory=dict)


def summary(results: Results, *, draws: int = DRAWS) -> dict[str, Any]:
    """Sum up the scores of all rows, and their paired differences by the task's metric.

    Parameters
    ----------
    results : Results
    draws : int
        Of the bootstrap over families of units; every row gets the same ones.

    Raises
    ------
    ConfigError
        If the task's metric could be computed in no fold.
    """
    units, task = results.units, results.units.task
    counts = drawn_counts(units.labels.family, draws=draws)
    ones = np.ones((1, len(units)))
    rows, drawn, own = [], {}, {}
    for row in results.rows:
        scores = _scores(row)
        drawn[row.name] = bootstrap(partial(row.metrics, units), counts)
        point = row.metrics(units, ones)
        own[row.name] = float(point[task.metric][0])
        if np.isnan(own[row.name]):
            raise ConfigError(
                expected("Folds", f"of task {task.name}", f"one in which {task.metric} can be "
                         "computed", "labels that are all the same within each fold",
                         "Choose another split, or fewer folds.")
            )  # fmt: skip
        figures = {}
        for name in METRICS[task.kind]:
            values = [score.figures[name] for score in scores]
            figures[name] = {
                "mean": _number(point[name][0]),
                "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "interval": interval(drawn[row.name][name]),
                "chance": chance(name, scores),
                "seeds": [_number(value) for value in values],
                "folds": [[_number(x) for x in score.of_folds[name]] for score in scores],
            }
        rows.append({"row": row.name, **row.details, "figures": figures})
    differences = []
    for one, other in combinations(own, 2):
        of_draws = drawn[other][task.metric] - drawn[one][task.metric]
        mean, bounds = own[other] - own[one], interval(of_draws)
        differences.append(
            {"row": other, "minus": one, "metric": task.metric, "mean": mean, "interval": bounds}
        )
    names, numbers = np.unique(units.labels.values, return_counts=True)
    return {
        "format": FORMAT,
        "task": task.name,
        "target": task.target[0],
        "kind": task.kind,
        "unit": task.unit,
        "metric": task.metric,
        "n_units": len(units),
        "n_subjects": len(np.unique(units.subject)),
        "n_families": len(np.unique(units.labels.family)),
        "classes": {str(n): int(c) for n, c in zip(names, numbers, strict=True)}
        if task.kind in ("binary", "multiclass") else None,
        "excluded": units.excluded,
        "folds": [
            {"seed": f.seed, "fold": f.number, "name": f.name, "train": int(f.train.sum()),
             "validation": int(f.validation.sum()), "test": int(f.test.sum()),
             "sha256": f.sha256(units.ids)} for f in results.folds
        ],
        "not_scored": _not_scored(results),
        "bootstrap": {"draws": draws, "of": "families of units"},
        **results.details,
        "rows": rows,
        "differences": differences,
    }  # fmt: skip


def write_results(out: Path, results: Results, *, draws: int = DRAWS) -> dict[str, Any]:
    """Write predictions, scores, folds and the resolved task; return what ``scores.json`` holds.

    Raises
    ------
    TrainingError
        If the disk does not take them.
    ConfigError
        If the task's metric could be computed in no fold.
    """
    tree = summary(results, draws=draws)
    files = {
        "predictions.csv": _predictions(results).to_csv(index=False),
        "scores.csv": _scores_csv(tree).to_csv(index=False),
        "splits.json": splits_json(results.units, results.folds),
        "task.yaml": task_yaml(results.units.task),
    }
    tree["files"] = {name: _sha256(text.encode()) for name, text in files.items()}
    files["scores.json"] = json.dumps(tree, indent=1, allow_nan=False)
    with writing("Results", out, then="Then run it again, or choose another folder with --out."):
        out.mkdir(parents=True, exist_ok=True)
        (out / "scores.json").unlink(missing_ok=True)
        for name in FILES:
            write_whole(out / name, files[name])
    return tree


def read_results(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return ``scores.json`` and the predictions of a folder, compared with their checksums.

    Ids, sites and names of classes are text, whatever they look like.

    Raises
    ------
    ConfigError
        If a file is missing, or is not the one that was written with the scores.
    """
    try:
        tree = json.loads((folder / "scores.json").read_text())
        wrong = [
            name for name, sha256 in tree["files"].items()
            if _sha256((folder / name).read_bytes()) != sha256
        ]  # fmt: skip
        known = tree["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unwhole(folder, error) from error
    if wrong or not known:
        raise _unwhole(folder, f"another {', '.join(wrong) or 'format'}")
    text = ["row", "unit", "subject", "family", "site"]
    text += [] if tree["kind"] == "regression" else ["truth", "predicted"]
    # classes may be named 01, NA or None
    predictions = pd.read_csv(folder / "predictions.csv", dtype=dict.fromkeys(text, str),
                              keep_default_na=False)  # fmt: skip
    lacking = {"family", "truth"} - set(predictions.columns)
    if lacking:
        raise _unwhole(folder, f"predictions without {', '.join(sorted(lacking))}")
    return tree, predictions


def results_table(tree: dict[str, Any]) -> Table:
    """Set each row's scores beside their intervals and what permuted labels reach."""
    table = Table("row", "metric", "mean", "SD", "95 % interval", "by chance", "p")
    for row in tree["rows"]:
        for name, figure in row["figures"].items():
            low_high, found = figure["interval"], figure["chance"]
            table.add_row(
                row["row"],
                name.replace("_", " ") + (" *" if name == tree["metric"] else ""),
                _shown(figure["mean"]),
                _shown(figure["sd"]),
                " to ".join(map(_shown, low_high)) if low_high else "-",
                _shown(found and found["mean"]),
                _shown(found and found["p"]),
            )
    return table


def _scores(row: Row) -> list[Score]:
    """Gather the folds of each seed; see :class:`fmritok.trainer.evaluation.chance.Score`."""
    scores = []
    for seed in dict.fromkeys(one.fold.seed for one in row.predictions):
        own = [one for one in row.predictions if one.fold.seed == seed]
        of_folds = {name: np.array([one.metrics[name] for one in own]) for name in own[0].metrics}
        permuted = {
            name: mean_over_folds(np.stack([one.permuted[name] for one in own]))
            for name in of_folds
        }
        scores.append(
            Score(
                seed,
                {name: float(mean_over_folds(values)) for name, values in of_folds.items()},
                of_folds,
                {name: values[~np.isnan(values)] for name, values in permuted.items()},
            )
        )
    return scores


def _predictions(results: Results) -> pd.DataFrame:
    """One row for each model, fold and tested unit."""
    units, kind = results.units, results.units.task.kind
    parts = []
    for row in results.rows:
        for one in row.predictions:
            part = {
                "row": row.name, "unit": units.ids[one.test], "subject": units.subject[one.test],
                "family": units.labels.family[one.test], "site": units.site[one.test],
                "fold": one.fold.number, "seed": one.fold.seed,
                "truth": units.labels.values[one.test],
            }  # fmt: skip
            if kind == "regression":
                part |= {"score": one.scores[:, 0], "sd": one.sd}
            elif kind == "retrieval":
                part["score"] = one.scores[:, 1]
                part["found_first"] = one.scores[:, 0].astype(bool)
            else:
                best = one.scores.argmax(1)
                part["score"] = one.scores[:, 1] if kind == "binary" else one.scores.max(1)
                part["predicted"] = np.array(units.classes)[best]
                part |= {
                    f"p({name})": one.scores[:, code] for code, name in enumerate(units.classes)
                }
            parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def _scores_csv(tree: dict[str, Any]) -> pd.DataFrame:
    table = []
    for row in tree["rows"]:
        for name, figure in row["figures"].items():
            low, high = figure["interval"] or (None, None)
            found = figure["chance"] or {}
            table.append(
                {"task": tree["task"], "row": row["row"], "metric": name, "mean": figure["mean"],
                 "sd": figure["sd"], "low": low, "high": high, "n_units": tree["n_units"],
                 "chance": found.get("mean"), "chance_limit": found.get("limit"),
                 "p": found.get("p")}
            )  # fmt: skip
    return pd.DataFrame(table)


def _not_scored(results: Results) -> list[dict[str, Any]]:
    """Name the folds in which a metric could not be computed."""
    found = []
    for one in results.rows[0].predictions:
        lacking = [name for name, value in one.metrics.items() if np.isnan(value)]
        if lacking:
            labels = np.unique(results.units.labels.values[one.test])
            found.append({"seed": one.fold.seed, "fold": one.fold.number, "name": one.fold.name,
                          "metrics": lacking, "n_labels": len(labels)})  # fmt: skip
    return found


def _number(value: Any) -> float | None:
    """Return a number as JSON has it, which has no NaN."""
    return None if np.isnan(value) else float(value)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _unwhole(folder: Path, got: object) -> ConfigError:
    return ConfigError(
        expected("Results", folder, f"{', '.join(FILES)}, as they were written together", got,
                 "Make these results again.")
    )  # fmt: skip
