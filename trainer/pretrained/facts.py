"""Facts of an encoder for its model card: cohorts by their counts, and the last losses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from fmritok.trainer.objectives.registry import objective_class
from fmritok.trainer.pretrained.cohorts import SIDES
from fmritok.trainer.pretrained.model_folder import ModelFolder
from fmritok.trainer.record.checkpoint import RUNS, Checkpoint
from fmritok.trainer.record.resuming import earlier_rows
from fmritok.trainer.training.verdict import verdict

__all__ = ["facts_of"]


def facts_of(found: Checkpoint | ModelFolder) -> dict[str, Any]:
    """Return what is known of an encoder, JSON-able and without ids of participants.

    Returns
    -------
    dict
        ``step``; ``cohorts``, see :func:`fmritok.trainer.pretrained.cohorts.count_cohorts`;
        ``figures``, rows of (name, value, name and value of the trivial model); ``verdict``;
        ``versions``. Those of a model folder are returned as they are.

    Raises
    ------
    CheckpointError
        If a file is damaged.
    """
    if isinstance(found, ModelFolder):
        return found.facts
    state = found.state
    rows = [json.loads(line) for line in earlier_rows(found).splitlines()]
    shown = objective_class(found.config.objective.name).figures
    validated = [row for row in rows if row["kind"] == "validation"]
    last: dict[str, Any] = validated[-1] if validated else {}
    return {
        "step": found.step,
        "cohorts": state.get("cohorts") or _runs_by_cohort(found),
        "figures": [
            {"name": one.label, "value": last[one.name], "beside": one.trivial_label,
             "value_beside": last[one.trivial]}
            for one in shown if one.name in last and one.trivial in last
        ],
        "verdict": verdict(rows, shown),
        "checkpoint_sha256": found.sha256(),
        "versions": {"fmritok": state.get("fmritok", version("fmritok")),
                     "torch": state.get("torch")},
    }  # fmt: skip


def _runs_by_cohort(checkpoint: Checkpoint) -> dict[str, Any]:
    """Count the runs of a checkpoint that does not have the numbers of its subjects."""
    if not checkpoint.has(RUNS):
        return {}
    sides: Mapping[str, Mapping[str, Any]] = json.loads(checkpoint.read_bytes(RUNS))
    counts: dict[str, Any] = {}
    for side in SIDES:
        for run, marks in sides[side].items():
            own = counts.setdefault(run.partition("_")[0], {}).setdefault(
                side, {"subjects": None, "runs": 0, "hours": 0.0}
            )
            own["runs"] += 1
            own["hours"] += marks["tr"] * marks["n_frames"] / 3600
    return counts
