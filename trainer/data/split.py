"""Split runs into training and validation by subject, with families kept together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fmritok.errors import expected
from fmritok.quantities import counted
from fmritok.trainer.errors import CheckpointError, ConfigError, LeakageError

__all__ = ["Split", "check_no_leakage", "split_runs", "with_subjects"]

#: Columns of runs by whose values subjects can be held out.
_NAMED_BY = ("site", "dataset", "subject", "family")


@dataclass(frozen=True)
class Split:
    """Sorted ids of the training and validation runs; validation may be empty."""

    train: tuple[str, ...]
    validation: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Checksum of both sides."""
        return _sha256([*self.train, "|", *self.validation])

    def to_json(self) -> str:
        """Return the split as JSON, with checksums of each side and of both."""
        sides = {
            name: {"n_runs": len(runs), "sha256": _sha256(runs), "runs": runs}
            for name, runs in asdict(self).items()
        }
        return json.dumps({"sha256": self.sha256, **sides}, indent=1)

    @classmethod
    def from_json(cls, file: Path) -> Split:
        """Read a file of :meth:`to_json`.

        Raises
        ------
        CheckpointError
            If the file is missing or was changed.
        """
        try:
            tree: dict[str, Any] = json.loads(file.read_text())
            split = cls(*(tuple(map(str, tree[side]["runs"])) for side in ("train", "validation")))
            tree["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                expected("Split", file, "a readable split.json", error, "Restore it from a copy.")
            ) from error
        if split.sha256 != tree["sha256"]:
            raise CheckpointError(
                expected("Split", file, f"sha256 {tree['sha256']}", split.sha256,
                         "The file was changed: restore it from a copy.")
            )  # fmt: skip
        return split


def split_runs(
    runs: pd.DataFrame, *, fraction: float, seed: int, hold_out: str | None = None
) -> Split:
    """Hold out about ``fraction`` of the subjects, or named ones, whatever the order of the rows.

    Parameters
    ----------
    runs : pd.DataFrame
        With ``run_id, dataset, subject, family``; an empty family is no family.
    fraction : float
        Share of the subjects. Unless it is 0, at least one family is held out and one is kept.
    seed : int
    hold_out : str, optional
        ``column=value,...``: the subjects (and their families) who have a run with one of these
        values; ``fraction`` is then not used.

    Returns
    -------
    Split
        Without validation runs if there is a single subject or family.

    Raises
    ------
    ConfigError
        If ``hold_out`` has another form, or holds out everybody or nobody.
    """
    family = families(runs)
    if hold_out is not None:
        return _two_sides(runs, np.isin(family, np.unique(family[_named(runs, hold_out)])))
    members = pd.DataFrame({"family": family, "subject": _subjects(runs)})
    sizes = members.groupby("family")["subject"].nunique()
    # Ranked by a keyed hash: new subjects hardly change the sides of the others.
    ranked = sorted(sizes.index, key=lambda name: _sha256([str(seed), str(name)]))
    wanted = fraction * int(sizes.sum())
    held_out: list[str] = []
    if fraction > 0:
        for name in ranked[:-1]:
            if held_out and sizes[held_out].sum() + sizes[name] / 2 > wanted:
                break
            held_out.append(name)
    return _two_sides(runs, np.isin(family, held_out))


def _named(runs: pd.DataFrame, hold_out: str) -> npt.NDArray[np.bool_]:
    """Tell which runs have one of the named values."""
    column, _, named = hold_out.partition("=")
    values = [value.strip() for value in named.split(",") if value.strip()]
    columns = [name for name in _NAMED_BY if name in runs]
    there = sorted(set(runs[column].astype(str))) if column in columns else []
    if there == [""]:
        raise ConfigError(
            expected("Option", "data.hold_out", f"a column that says something of the runs, of "
                     f"{', '.join(columns)}", f"{hold_out!r}, and no run has a {column}",
                     "Change it with --set data.hold_out=COLUMN=VALUE,...")
        )  # fmt: skip
    unknown = [value for value in values if value not in there]
    if not values or unknown or len(values) == len(there):
        wanted = (
            f"some of the {column}s {', '.join(filter(None, there))}"
            if there
            else (f"COLUMN=VALUE,... with one of {', '.join(columns)}")
        )
        raise ConfigError(
            expected("Option", "data.hold_out", wanted, repr(hold_out),
                     "Change it with --set data.hold_out=COLUMN=VALUE,...")
        )  # fmt: skip
    return np.asarray(runs[column].astype(str).isin(values))


def _two_sides(runs: pd.DataFrame, chosen: npt.NDArray[np.bool_]) -> Split:
    if len(chosen) and chosen.all():
        raise ConfigError(
            expected("Option", "data.hold_out", "subjects of other families to train on", "none",
                     "Hold out fewer.")
        )  # fmt: skip
    ids = runs["run_id"].to_numpy(dtype=str)
    split = Split(tuple(sorted(ids[~chosen].tolist())), tuple(sorted(ids[chosen].tolist())))
    check_no_leakage(runs, split)
    return split


def with_subjects(runs: pd.DataFrame, split: Split, *, subjects: int, seed: int) -> Split:
    """Restrict training to ``subjects`` subjects. Smaller numbers select subsets of larger ones.

    Parameters
    ----------
    runs : pd.DataFrame
        With ``run_id, dataset, subject``.
    split : Split
    subjects : int
    seed : int

    Raises
    ------
    ConfigError
        If there are fewer subjects.
    """
    subject = _subjects(runs).to_numpy(dtype=str)
    ids = runs["run_id"].to_numpy(dtype=str)
    names = np.unique(subject[np.isin(ids, split.train)]).tolist()
    if subjects > len(names):
        raise ConfigError(
            expected("Option", "data.subjects",
                     f"at most the {counted(len(names), 'subject')} not held out", subjects,
                     "Change it with --set data.subjects=VALUE.")
        )  # fmt: skip
    # Ranked by a keyed hash, as in split_runs: stable when a cohort grows.
    ranked = sorted(names, key=lambda name: _sha256([str(seed), "subjects", str(name)]))
    chosen = set(ids[np.isin(subject, ranked[:subjects])].tolist())
    return replace(split, train=tuple(run_id for run_id in split.train if run_id in chosen))


def families(runs: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.str_]]:
    """Return the family of every run, named by its first member; shared family ids link subjects.

    Returns
    -------
    np.ndarray of shape (n_runs,), str
    """
    subjects = _subjects(runs)
    ids = runs["family"].fillna("").astype(str)
    # A subject without a family is a family of one.
    labels = np.where(ids == "", "s:" + subjects, "f:" + runs["dataset"].astype(str) + "/" + ids)
    subject, names = pd.factorize(subjects, sort=True)
    label, _ = pd.factorize(pd.Series(labels))
    size = len(names) + len(labels)
    links = coo_array((np.ones(len(runs)), (subject, len(names) + label)), shape=(size, size))
    component = connected_components(links, directed=False)[1][: len(names)]
    first = pd.Series(np.asarray(names)).groupby(component).transform("first")
    return first.to_numpy(dtype=str)[subject]


def check_no_leakage(runs: pd.DataFrame, split: Split) -> None:
    """Refuse a split with a run, a subject or a family on both sides.

    Raises
    ------
    LeakageError
        Naming the runs, subjects or families.
    """
    sides = [runs["run_id"].isin(side).to_numpy() for side in (split.train, split.validation)]
    columns = {
        "run": runs["run_id"].to_numpy(dtype=str),
        "subject": _subjects(runs).to_numpy(dtype=str),
        "family": families(runs),
    }
    for kind, column in columns.items():
        both = sorted(set(column[sides[0]]) & set(column[sides[1]]))
        if both:
            raise LeakageError(
                expected("Split by", kind, "each on one side", f"{', '.join(both[:3])} on both",
                         "Draw the split anew, in a new training.")
            )  # fmt: skip


def _subjects(runs: pd.DataFrame) -> pd.Series:
    return runs["dataset"].astype(str) + "/" + runs["subject"].astype(str)


def _sha256(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()
