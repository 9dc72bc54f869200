"""Resume exactly: find the checkpoint, compare configuration and tokens, restore the split."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fmritok.errors import expected
from fmritok.pipeline.store.documents.difference import first_difference
from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.config import Config
from fmritok.trainer.data.mixing import MixedGroup
from fmritok.trainer.data.split import Split, check_no_leakage, split_runs, with_subjects
from fmritok.trainer.errors import CheckpointError, TrainingError
from fmritok.trainer.record.checkpoint import METRICS, RUNS, Checkpoint, is_checkpoint
from fmritok.trainer.record.folder import TrainingFolder

__all__ = [
    "FREE", "choose_split", "earlier_rows", "hold_and_open", "open_checkpoint", "refuse_mismatch",
    "resumed_config", "runs_json", "to_resume",
]  # fmt: skip

_logger = logging.getLogger(__name__)

#: Options that a resumed training may change, and why the weights do not depend on them. All others
#: change what is learned, how numbers are rounded, or which windows are validated on.
FREE = {
    "train.log_every": "figures are only measured",
    "train.validate_every": "a validation changes no weight and uses no random number",
    "train.checkpoint_every": "a checkpoint is a copy",
    "train.keep_checkpoints": "number of copies",
}
_LENGTHS = ("train.steps", "train.epochs")
#: Columns of the runs table that identify the tokens of a run.
_MARKS = ("checksum", "tr", "n_frames")


def runs_json(group: TokenGroup | MixedGroup, split: Split) -> bytes:
    """Return the runs of both sides of a split with the marks of their tokens, as JSON."""
    marks = _marks(group)
    sides = {name: {run: marks[run] for run in runs} for name, runs in asdict(split).items()}
    return json.dumps(sides).encode()


def open_checkpoint(resume: Path, out: TrainingFolder) -> Checkpoint:
    """Find the checkpoint to resume from, and check its files.

    Parameters
    ----------
    resume : Path
        A checkpoint, or the folder of a training: then its latest undamaged checkpoint.
    out : TrainingFolder
        Folder of the resumed training.

    Raises
    ------
    CheckpointError
        If it is damaged, or ``out`` has a later one or those of another training.
    """
    if is_checkpoint(resume):
        found = Checkpoint.read(resume)
        found.check()
    else:
        found = TrainingFolder(resume).last_whole()
    in_place = out.has(found)
    for other in reversed(out.checkpoints()):
        if in_place and os.path.samefile(other, found.folder):
            break
        if not in_place or _is_whole(other):
            raise CheckpointError(
                expected("Checkpoint for resuming", resume, f"the latest of {out.path}",
                         f"another one than {other.name}",
                         "Delete the later ones, or branch off into another folder with --out.")
            )  # fmt: skip
    return found


def hold_and_open(resume: Path, out: TrainingFolder) -> Checkpoint:
    """Lock the folder of the resumed training, and find the checkpoint.

    Raises
    ------
    TrainingError
        If another training has locked the folder.
    CheckpointError
        See :func:`open_checkpoint`.
    """
    if resume.is_dir():  # create no folder for a wrong path
        out.hold()
    try:
        return open_checkpoint(resume, out)
    except BaseException:
        out.release()
        raise


def to_resume(
    resume: Path | Checkpoint, out: TrainingFolder, config: Config, group: TokenGroup | MixedGroup
) -> Checkpoint:
    """Return the checkpoint to resume from, compared with configuration and tokens.

    Raises
    ------
    CheckpointError
        See :func:`open_checkpoint` and :func:`refuse_mismatch`.
    """
    checkpoint = open_checkpoint(resume, out) if isinstance(resume, Path) else resume
    refuse_mismatch(checkpoint, config, group)
    return checkpoint


def resumed_config(config: Config, checkpoint: Checkpoint) -> Config:
    """Return a configuration whose choices by device are those of the checkpoint."""
    if config.train.compile is not None:
        return config
    return replace(config, train=replace(config.train, compile=checkpoint.config.train.compile))


def refuse_mismatch(checkpoint: Checkpoint, config: Config, group: TokenGroup | MixedGroup) -> None:
    """Refuse to resume with another configuration or other tokens.

    Raises
    ------
    CheckpointError
        Naming the first option, field or run that differs.
    """
    saved, now = (_deciding(c) for c in (checkpoint.config, resumed_config(config, checkpoint)))
    before, after = ({name: tree[name] for name in _LENGTHS} for tree in (saved, now))
    next_step = (
        "The learning rate schedule depends on the total number of steps: start a new training "
        "with --init-from."
    )
    _refuse(checkpoint, "Configuration", before, after, next_step)
    next_step = "Resume without changed options, or start a new training with --init-from."
    _refuse(checkpoint, "Configuration", saved, now, next_step)
    next_step = "Use the store it was trained on, or start a new training with --init-from."
    trained = checkpoint.state["group"]
    before = {"name": trained["name"], **trained["contract"]}
    after = {"name": group.name, **group.contract}
    _refuse(checkpoint, "Tokens", before, after, next_step)
    if not checkpoint.is_sealed:
        return
    marks = _marks(group)
    for side in json.loads(checkpoint.read_bytes(RUNS)).values():
        for run, mark in side.items():
            found = marks.get(run, {"checksum": "no finished run of that id"})
            if found != mark:
                _refuse(checkpoint, f"Tokens of run {run}", mark, found, next_step)


def choose_split(
    config: Config, group: TokenGroup | MixedGroup, checkpoint: Checkpoint | None = None
) -> Split:
    """Split the store's runs, or take the split of the training that is resumed.

    Raises
    ------
    CheckpointError
        If a checkpoint of format 1 has lost the split.json of its training.
    LeakageError, TrainingError
        If a subject is on both sides, or there is no training run.
    """
    runs, data = group.runs, config.data
    if checkpoint is not None:
        split = _saved_split(checkpoint)
    else:
        split = split_runs(
            runs, fraction=data.validation_fraction, seed=data.split_seed, hold_out=data.hold_out
        )
        if data.subjects is not None:
            split = with_subjects(runs, split, subjects=data.subjects, seed=data.split_seed)
    check_no_leakage(runs, split)
    if not split.train:
        raise TrainingError(
            expected("Token group", f"{group.name} of {group.location}",
                     "at least one finished run", "none", "Run `fmritok tokenize` first.")
        )  # fmt: skip
    if not split.validation:
        why = "data.validation_fraction is 0" if not data.validation_fraction else (
            "the store has a single subject or family, which cannot be split"
        )  # fmt: skip
        _logger.warning("Training WITHOUT validation: %s", why)
    return split


def earlier_rows(checkpoint: Checkpoint) -> bytes:
    """Return the metrics up to a checkpoint, as lines of JSON."""
    if checkpoint.is_sealed:
        return checkpoint.read_bytes(METRICS)
    file, size = checkpoint.training / METRICS, int(checkpoint.state.get("metrics_bytes", 0))
    try:
        return file.read_bytes()[:size]
    except OSError as error:
        _logger.warning("The rows of earlier steps are lost: %s", error)
        return b""


def _saved_split(checkpoint: Checkpoint) -> Split:
    if checkpoint.is_sealed:
        sides = json.loads(checkpoint.read_bytes(RUNS))
        return Split(**{name: tuple(runs) for name, runs in sides.items()})
    file = checkpoint.training / "split.json"
    split = Split.from_json(file)
    saved, now = {"sha256": checkpoint.state["split"]}, {"sha256": split.sha256}
    _refuse(checkpoint, f"Split {file}", saved, now, "Restore split.json from a copy.")
    return split


def _deciding(config: Config) -> dict[str, Any]:
    """Return the options that change the result, by dotted name."""
    sections = asdict(config).items()
    flat = {f"{name}.{key}": value for name, tree in sections for key, value in tree.items()}
    return {name: value for name, value in flat.items() if name not in FREE}


def _marks(group: TokenGroup | MixedGroup) -> dict[str, dict[str, Any]]:
    """Return the marks of every finished run's tokens, by run id."""
    runs: pd.DataFrame = group.runs
    columns = list(_MARKS)
    if isinstance(group, MixedGroup) and group.weights is not None:
        columns.append("store")  # weights are shares of stores
    rows = runs[columns].to_dict("records")
    return dict(zip(runs["run_id"].tolist(), rows, strict=True))


def _is_whole(folder: Path) -> bool:
    try:
        Checkpoint.read(folder).check()
    except CheckpointError:
        return False
    return True


def _refuse(
    checkpoint: Checkpoint, what: str, saved: Mapping[str, Any], now: Mapping[str, Any],
    next_step: str,
) -> None:  # fmt: skip
    """Refuse a difference to the saved values, naming the first field that differs."""
    difference = first_difference(json.loads(json.dumps(saved)), json.loads(json.dumps(now)))
    if difference is not None:
        name, before, after = difference
        raise CheckpointError(
            expected(f"{what} for resuming", checkpoint.folder,
                     f"{name} = {before!r} (as it was saved)", repr(after), next_step)
        )  # fmt: skip
