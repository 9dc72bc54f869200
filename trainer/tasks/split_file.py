"""Splits that somebody else made: a file of ids, or the held-out side of a pretraining."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from fmritok.errors import expected
from fmritok.trainer.data.phenotypes import subjects_of
from fmritok.trainer.data.split import Split
from fmritok.trainer.errors import CheckpointError, ConfigError
from fmritok.trainer.pretrained.model_folder import ModelFolder
from fmritok.trainer.record.checkpoint import RUNS
from fmritok.trainer.record.finding import find_trained
from fmritok.trainer.tasks.splits import Fold, given_fold
from fmritok.trainer.tasks.task import did_you_mean
from fmritok.trainer.tasks.units import Units

__all__ = ["Pretraining", "held_out_fold", "overlap", "read_pretraining", "read_split",
           "says_who"]  # fmt: skip

_logger = logging.getLogger(__name__)
_SIDES = {"train": "train", "training": "train", "validation": "validation", "valid": "validation",
          "val": "validation", "test": "test", "testing": "test"}  # fmt: skip
_NAMED = 5


class Pretraining(NamedTuple):
    """Who an encoder was trained on."""

    name: str
    train: frozenset[str]
    """ids of the runs that it was trained on"""
    validation: frozenset[str]


def read_split(file: Path, units: Units) -> tuple[Fold, dict[str, Any]]:
    """Read the sides ``train``, ``validation`` and ``test`` of a given split.

    JSON or YAML with a list of ids for each side, or a table (``.csv``, ``.tsv``) with the columns
    ``id`` and ``split``. An id is that of a unit, of a subject with or without its dataset, or of
    a run.

    Returns
    -------
    fold : Fold
    record : dict
        Ids of the file that are no unit's, and units that the file does not name: ``count`` and
        some of them.

    Raises
    ------
    ConfigError
        If the file cannot be read, has an id twice, or none of a side's ids is known.
    LeakageError
        If a subject is on two sides.
    """
    sides = _read_sides(file)
    seen: dict[str, str] = {}
    for side, ids in sides.items():
        for name in ids:
            if name in seen:
                raise ConfigError(
                    expected("Split", file, "every id once",
                             f"{name} in {seen[name]} and in {side}"
                             if seen[name] != side else f"{name} twice in {side}",
                             "Remove it from one of them.")
                )  # fmt: skip
            seen[name] = side
    known = _positions(units)
    masks = {side: np.zeros(len(units), bool) for side in ("train", "validation", "test")}
    unknown: list[str] = []
    for side, ids in sides.items():
        there = [name for name in ids if name in known]
        unknown += [name for name in ids if name not in known]
        if ids and not there:
            step = did_you_mean(ids[0], list(known), "Give ids of subjects or of runs.")
            raise ConfigError(
                expected("Split", file, f"ids of task {units.task.name} in {side}, such as "
                         f"{units.ids[0]}", f"{ids[0]}; none of {len(ids)} is known", step)
            )  # fmt: skip
        for name in there:
            masks[side][known[name]] = True
    fold = given_fold(units, masks, file.name)
    nowhere = units.ids[~(fold.train | fold.validation | fold.test)].tolist()
    record = {
        "file": str(file),
        "unknown_ids": {"count": len(unknown), "ids": unknown[:_NAMED]},
        "units_on_no_side": {"count": len(nowhere), "ids": nowhere[:_NAMED]},
    }  # fmt: skip
    if unknown:
        _logger.warning("%s: %d of its ids are no unit of %s, such as %s", file, len(unknown),
                        units.task.name, ", ".join(unknown[:_NAMED]))  # fmt: skip
    return fold, record


def says_who(training: Path) -> bool:
    """Tell whether something with an encoder says who it was trained on; warn if it does not.

    A model folder does not: ids of participants are not exported.

    Raises
    ------
    CheckpointError
        If there is no checkpoint.
    """
    found = find_trained(training)
    if not isinstance(found, ModelFolder):
        return True
    _logger.warning("%s does not say who it was trained on: tested subjects may be among them",
                    found.folder)  # fmt: skip
    return False


def read_pretraining(training: Path) -> Pretraining:
    """Read who a training was trained on, and who it held out.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or nothing that says it.
    """
    checkpoint = find_trained(training)
    if isinstance(checkpoint, ModelFolder):
        raise CheckpointError(
            expected("Model", checkpoint.folder, "the runs that it was trained on",
                     "their numbers only: ids of participants are not exported",
                     "Give the training that it was exported from.")
        )  # fmt: skip
    if checkpoint.is_sealed or checkpoint.has(RUNS):
        tree = json.loads(checkpoint.read_bytes(RUNS))
        sides = [frozenset(map(str, tree[side])) for side in ("train", "validation")]
    else:
        split = Split.from_json(checkpoint.training / "split.json")
        sides = [frozenset(split.train), frozenset(split.validation)]
    return Pretraining(str(checkpoint.training), *sides)


def held_out_fold(pretraining: Pretraining, units: Units, runs: pd.DataFrame) -> Fold:
    """Test on subjects that a pretraining held out, train on those that it was trained on.

    Parameters
    ----------
    pretraining : Pretraining
    units : Units
    runs : pd.DataFrame
        All runs of the store, by which subjects of the pretraining are found.

    Raises
    ------
    CheckpointError
        If it held out none of the task's subjects.
    """
    train, test = (
        np.isin(units.subject, list(_people(side, runs)))
        for side in (pretraining.train, pretraining.validation)
    )
    if not test.any():
        raise CheckpointError(
            expected("Training", pretraining.name, f"held-out subjects of task {units.task.name}",
                     f"none of {len(pretraining.validation)} held-out runs is of one",
                     "Choose a training on this store, or split without --held-out.")
        )  # fmt: skip
    sides = {"train": train & ~test, "validation": np.zeros(len(units), bool), "test": test}
    return given_fold(units, sides, f"held out by {pretraining.name}")


def overlap(
    pretraining: Pretraining, units: Units, folds: list[Fold], runs: pd.DataFrame
) -> dict[str, Any]:
    """Count the subjects that a pretraining was trained on and that the task tests.

    Returns
    -------
    dict
        ``training``; ``test_subjects``, their number; ``seen``, the number of those in the
        training; ``subjects``, some of these; ``unknown_runs``, runs of the training that are
        not in this store and cannot be compared.
    """
    seen = _people(pretraining.train, runs)
    tested = {str(name) for fold in folds for name in units.subject[fold.test]}
    both = sorted(tested & seen)
    return {
        "training": pretraining.name,
        "test_subjects": len(tested),
        "seen": len(both),
        "subjects": both[:_NAMED],
        "unknown_runs": len(pretraining.train - set(runs["run_id"].astype(str))),
    }


def _people(run_ids: Collection[str], runs: pd.DataFrame) -> set[str]:
    return set(subjects_of(runs[runs["run_id"].isin(list(run_ids))]).tolist())


def _positions(units: Units) -> dict[str, npt.NDArray[np.int64]]:
    """Return the units that an id stands for: a unit's, a subject's, a run's."""
    table = pd.DataFrame({"unit": np.arange(len(units)), "subject": units.subject})
    used = units.labels.of_row >= 0
    of_run = pd.DataFrame(
        {"unit": units.labels.of_row[used], "name": units.runs["run_id"].to_numpy(str)[used]}
    )
    bare = table["subject"].str.partition("/")[2]
    by_dataset = table.assign(bare=bare).groupby("bare")["subject"].nunique()
    clear = bare.isin(by_dataset.index[by_dataset == 1])
    names = [
        of_run,
        pd.DataFrame({"unit": table["unit"][clear], "name": bare[clear]}),
        pd.DataFrame({"unit": table["unit"], "name": table["subject"]}),
        pd.DataFrame({"unit": table["unit"], "name": units.ids}),
    ]
    found: dict[str, npt.NDArray[np.int64]] = {}
    for one in names:
        for name, rows in one.groupby("name")["unit"]:
            found[str(name)] = np.unique(rows.to_numpy(np.int64))
    return found


def _read_sides(file: Path) -> dict[str, list[str]]:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from error
    if file.suffix.lower() in (".csv", ".tsv", ".txt"):
        return _from_table(file)
    try:
        tree = yaml.load(text, Loader=yaml.BaseLoader)  # ids keep their leading zeros
    except yaml.YAMLError as error:
        raise _unreadable(file, error) from error
    if not isinstance(tree, Mapping):
        raise _unreadable(file, f"a {type(tree).__name__}")
    sides: dict[str, list[str]] = {}
    for name, ids in tree.items():
        side = _SIDES.get(str(name).lower())
        if side is None:
            continue  # such as a comment or a checksum
        if isinstance(ids, Mapping) and "runs" in ids:  # a split.json of a training
            ids = ids["runs"]
        if not isinstance(ids, list):
            raise _unreadable(file, f"{name}: {ids!r}")
        sides.setdefault(side, []).extend(map(str, ids))
    if not sides:
        raise _unreadable(file, f"the fields {', '.join(map(str, tree)) or 'none'}")
    return sides


def _from_table(file: Path) -> dict[str, list[str]]:
    separator = "\t" if file.suffix.lower() == ".tsv" else None
    try:
        table = pd.read_csv(file, sep=separator, dtype=str, engine="python").fillna("")
    except (ValueError, OSError) as error:
        raise _unreadable(file, error) from error
    small = {str(name).strip().lower(): name for name in table}
    column = next((small[n] for n in ("id", "subject", "run_id", "unit") if n in small), None)
    of_side = next((small[n] for n in ("split", "side", "set") if n in small), None)
    if column is None or of_side is None:
        raise _unreadable(file, f"the columns {', '.join(map(str, table))}")
    sides: dict[str, list[str]] = {}
    for name, word in zip(table[column], table[of_side], strict=True):
        side = _SIDES.get(word.strip().lower())
        if side is None:
            raise _unreadable(file, f"{name} in {word!r}")
        sides.setdefault(side, []).append(name.strip())
    return sides


def _unreadable(file: Path, got: object) -> ConfigError:
    return ConfigError(
        expected("Split", file, "lists of ids under train, validation and test (JSON or YAML), or "
                 "a table with the columns id and split", got, "See docs/tasks.md.")
    )  # fmt: skip
