"""The results of a task: predictions, scores with intervals, folds and the task, in one folder.

``scores.json`` is written last and has the sha256 of the other files, so a folder with a
``scores.json`` that fits them is whole.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from fmritok.errors import expected
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.statistics.intervals import (
    DRAWS,
)
from fmritok.trainer.evaluation.summary import FORMAT, Results, summary
from fmritok.trainer.faults import write_whole, writing
from fmritok.trainer.tasks.splits import splits_json
from fmritok.trainer.tasks.task import task_yaml

__all__ = ["FILES", "read_results", "results_table", "write_results"]

#: In the order in which they are written.
FILES = ("predictions.csv", "scores.csv", "splits.json", "task.yaml", "scores.json")


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
    table = Table("row", "metric", "mean", "SD", "95 % interval", "by chance", "p",
                  caption="* main metric of the task", caption_justify="left")  # fmt: skip
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


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _unwhole(folder: Path, got: object) -> ConfigError:
    return ConfigError(
        expected("Results", folder, f"{', '.join(FILES)}, as they were written together", got,
                 "Make these results again.")
    )  # fmt: skip
