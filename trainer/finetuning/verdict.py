"""What came of each row, in one sentence: beside the dummy, beside its twin, over the epochs."""

from __future__ import annotations

from typing import Any

from fmritok.trainer.evaluation.metrics import LOWER_IS_BETTER
from fmritok.trainer.finetuning.engine import CONTROL, DUMMY, SCRATCH

__all__ = ["verdicts"]


def verdicts(tree: dict[str, Any]) -> list[str]:
    """Return a sentence on each trained row.

    Parameters
    ----------
    tree : dict
        What ``scores.json`` holds.
    """
    names = [row["row"] for row in tree["rows"]]
    said = []
    for row in tree["rows"]:
        name = row["row"]
        if name == DUMMY:
            continue
        parts = [_beside(tree, name, DUMMY, "chance (row dummy)")]
        if SCRATCH in names and name not in (SCRATCH, CONTROL):
            parts.append(_beside(tree, name, SCRATCH, "its twin from scratch"))
        parts.append(_epochs(row))
        said.append(f"Verdict on {name}: {'; '.join(parts)}.")
    return said


def _beside(tree: dict[str, Any], name: str, other: str, label: str) -> str:
    """Compare two rows by the task's metric; a difference counts if its interval lacks 0."""
    pair = next(d for d in tree["differences"] if {d["row"], d["minus"]} == {name, other})
    sign = 1 if pair["row"] == name else -1
    mean = sign * pair["mean"]
    low, high = sorted(sign * bound for bound in pair["interval"] or (-mean, mean))
    better = -mean if tree["metric"] in LOWER_IS_BETTER else mean
    word = "not different from" if low <= 0 <= high else (
        "better than" if better > 0 else "worse than"
    )  # fmt: skip
    metric = tree["metric"].replace("_", " ")
    return f"{word} {label} ({metric} {mean:+.3f}, {low:+.3f} to {high:+.3f})"


def _epochs(row: dict[str, Any]) -> str:
    best, last = sorted(row["best_epochs"]), row["at_most_epochs"]
    median = best[len(best) // 2]
    span = f"{best[0]} to {best[-1]}" if best[0] < best[-1] else str(best[0])
    text = f"best epoch {span} of at most {last}"
    if median >= last > 1:
        return f"{text}: still improving, so raise train.epochs"
    if median == 1 and last > 1:
        return f"{text}: the first was the best, so lower optim.lr or train fewer weights"
    return text
