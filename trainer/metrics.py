"""The record of a training: JSON lines, TensorBoard, and the loss curve drawn from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from fmritok.trainer.objectives import Figure
from fmritok.trainer.tracking import WandbRun

__all__ = ["MetricsLog", "draw_losses", "read_metrics"]

_NAME = "metrics.jsonl"


class MetricsLog:
    """Appends rows to ``metrics.jsonl`` and figures to ``tensorboard/``.

    Parameters
    ----------
    folder : Path
        The run's folder.
    resume : Path, optional
        Folder of the run that is resumed: the same one, or the one that is branched from.
    size : int
        Bytes of that run's file that a resumed training keeps; later rows are dropped.
    step : int
        Last step that is kept.
    wandb : WandbRun, optional
        Gets what TensorBoard gets.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resume: Path | None = None,
        size: int = 0,
        step: int = 0,
        wandb: WandbRun | None = None,
    ) -> None:
        kept = b""
        if resume is not None and (resume / _NAME).exists():
            kept = (resume / _NAME).read_bytes()[:size]
        self._file = (folder / _NAME).open("wb")
        self._file.write(kept)
        self._file.flush()
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._wandb = wandb

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def write(self, kind: str, row: dict[str, Any], *, draw: bool = True) -> None:
        """Append a row with its ``step``; it survives a killed process."""
        self._file.write(json.dumps({"kind": kind, **row}).encode() + b"\n")
        self._file.flush()
        if not draw:
            return
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(f"{kind}/{name}", value, row["step"])
        if self._wandb is not None:
            self._wandb.write(kind, row)

    def close(self) -> None:
        """Close all of them."""
        self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's ``metrics.jsonl``."""
    return [json.loads(line) for line in (folder / _NAME).read_text().splitlines()]


def draw_losses(folder: Path, shown: Sequence[Figure]) -> Path:
    """Draw figures of training and validation, and those of a trivial model.

    Parameters
    ----------
    folder : Path
    shown : sequence of Figure
        One panel for each measure, with all that it is compared with.

    Returns
    -------
    Path
        ``loss.png`` in the run's folder.
    """
    from matplotlib.figure import Figure as Picture

    rows = read_metrics(folder)
    train = [row for row in rows if row["kind"] == "train"]
    validation = [row for row in rows if row["kind"] == "validation"]
    panels: dict[str, list[Figure]] = {}
    for one in shown:
        panels.setdefault(one.name, []).append(one)
    picture = Picture(figsize=(4.5 * max(len(panels), 1), 3.6), layout="constrained")
    grid = picture.subplots(1, max(len(panels), 1), squeeze=False)[0]
    for axes, (name, figures) in zip(grid, panels.items(), strict=False):
        for source, label, style in (
            (train, "training", {"lw": 0.8, "alpha": 0.6, "color": "tab:blue"}),
            (validation, "validation", {"marker": "o", "ms": 3, "color": "tab:orange"}),
        ):
            rows = [row for row in source if name in row]
            axes.plot([r["step"] for r in rows], [r[name] for r in rows], label=label, **style)
        for one, dashes in zip(figures, ("--", ":", "-."), strict=False):
            rows = [row for row in validation or train if one.trivial in row]
            steps, trivial = [r["step"] for r in rows], [r[one.trivial] for r in rows]
            axes.plot(steps, trivial, f"k{dashes}", lw=1, label=one.trivial_label)
        axes.set(title=figures[0].label, xlabel="step")
        axes.legend(frameon=False)
    picture.savefig(folder / "loss.png", dpi=120)
    return folder / "loss.png"
