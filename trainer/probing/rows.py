"""Rows of frozen encoders on tasks: from a store and trainings to results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from fmritok.pipeline.store.reader import TokenStore
from fmritok.progress import report
from fmritok.quantities import counted
from fmritok.trainer.evaluation.crossval import Row
from fmritok.trainer.evaluation.heads import (
    Floats,
    Head,
    Problem,
    linear,
    neighbours,
    published_logistic,
)
from fmritok.trainer.evaluation.scoring import score_features
from fmritok.trainer.evaluation.summary import Results
from fmritok.trainer.evaluation.unit_features import Fixed
from fmritok.trainer.faults import within_memory
from fmritok.trainer.probing.attentive import Attentive, TokenSets
from fmritok.trainer.probing.cache import FeatureCache
from fmritok.trainer.probing.material import Source, need_of, open_sources
from fmritok.trainer.probing.passes import Form, Need, features_of
from fmritok.trainer.probing.questions import HeadName, ProbeOptions, Question, ask, seen_before
from fmritok.trainer.tasks.division import SplitOptions
from fmritok.trainer.tasks.task import Task
from fmritok.trainer.tasks.units import Units

__all__ = ["probe"]


@within_memory("the probe", "Use a machine or a GPU with more of it, or --device cpu.")
def probe(
    store: str,
    tasks: Sequence[Task],
    trainings: Sequence[Path],
    options: ProbeOptions = ProbeOptions(),  # noqa: B008  immutable
    *,
    cache: FeatureCache,
    device: torch.device,
    group: str | None = None,
    where: Sequence[str] = (),
    split: SplitOptions = SplitOptions(),  # noqa: B008  immutable
    workers: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Results]:
    """Score heads on the features of frozen encoders, all rows of a task on the same folds.

    The tokens of a training are read once for all tasks, heads and seeds; features are kept in a
    cache.

    Parameters
    ----------
    store : str
    tasks : sequence of Task
    trainings : sequence of Path
        Folders of trainings, or checkpoints.
    options : ProbeOptions
    cache : FeatureCache
    device : torch.device
    group : str, optional
        Token group; by default that of each training.
    where : sequence of str
        ``column=value``: which runs, instead of what a task says of that property.
    split : SplitOptions
        Without a pretraining, the tested subjects that each training has seen are counted in its
        rows.
    workers : int
        Processes that read windows; 0: this one.
    progress : callable
        Told what is being done.

    Returns
    -------
    list of Results
        One for each task.

    Raises
    ------
    ConfigError
        If the store cannot serve a task, or options do not go together.
    CheckpointError
        If there is no checkpoint, or it was trained on other tokens.
    """
    opened = TokenStore(store)
    sources = open_sources(opened, trainings, group)
    questions = [ask(task, sources, opened, options, where, split) for task in tasks]
    rows: list[list[Row]] = [[] for _ in tasks]
    count = _FoldCount(len(sources) * sum(_folds_to_fit(one, options) for one in questions))
    for number, source in enumerate(sources):
        progress(f"{source.name}: features")
        seeds = sorted({seed for one in questions for seed in one.seeds})
        encoders = [source.frozen]
        if options.untrained:
            encoders += [source.untrained(seed) for seed in seeds]
        plan = [one.forms(options) for one in questions]
        needs = _distinct(
            need_of(question.units[number], source, form, options.crops)
            for question, forms in zip(questions, plan, strict=True) for form in forms
        )  # fmt: skip
        features = features_of(encoders, source.group, source.index, needs, cache,
                               device=device, workers=workers)  # fmt: skip
        del encoders[1:]
        for own, question, forms in zip(rows, questions, plan, strict=True):
            units = question.units[number]
            by_form = {}
            for form in forms:
                at = _place(needs, need_of(units, source, form, options.crops))
                by_form[form] = [(needs[at], of_encoder[at]) for of_encoder in features]
            progress(f"{source.name}: {units.task.name}, {counted(len(units), units.task.unit)}")
            own += _rows(source, question, number, by_form, seeds, options, device, opened, split,
                         count)  # fmt: skip
    return [_results(question, own) for question, own in zip(questions, rows, strict=True)]


class _FoldCount:
    """Tells how many folds are predicted; an attentive head tells its steps itself."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total

    def of(self, head: Head) -> Head:
        """Return a head whose folds are counted."""

        def reporting(problem: Problem, features: Any) -> list[Floats]:
            report(self._done, self._total, "folds")
            scores = head(problem, features)
            self._done += 1
            report(self._done, self._total, "folds")
            return scores

        return reporting


def _folds_to_fit(question: Question, options: ProbeOptions) -> int:
    """Return how many folds the heads of one source are fitted on."""
    heads = len([head for head in options.heads if head != "attentive"])
    rows = heads * (1 + options.untrained) * (1 + (question.confounds is not None))
    return rows * len(question.folds)


def _rows(
    source: Source,
    question: Question,
    number: int,
    by_form: dict[Form, list[tuple[Need, npt.NDArray[Any]]]],
    seeds: Sequence[int],
    options: ProbeOptions,
    device: torch.device,
    store: TokenStore,
    split: SplitOptions,
    count: _FoldCount,
) -> list[Row]:
    """Score all heads on one source: its encoder, then untrained ones."""
    units = question.units[number]
    shared: dict[str, Any] = {"group": source.group.name, "crops": options.crops}
    heads = list(options.heads)
    if question.retrieves:
        heads = ["linear"]  # no head is trained
    found = []
    for head in heads:
        form: Form = "tokens" if head == "attentive" else options.pool
        n_folds = (1 + options.untrained) * len(question.folds)
        scored = _head(head, options, device, n_folds)
        scored = scored if head == "attentive" else count.of(scored)
        named = "" if question.retrieves else f" ({head})"
        of_encoders = by_form[form]
        how = {**shared, "head": None if question.retrieves else head, "pool": form}
        details = {**how, "source": source.frozen.source,
                   "overlap": seen_before(source, question, units, store, split)}  # fmt: skip
        found += _score(units, question, source.name + named, [of_encoders[0]], scored, options,
                        source, details)  # fmt: skip
        if options.untrained:
            own = [of_encoders[1 + seeds.index(seed)] for seed in question.seeds]
            details = {**how, "source": {"untrained": f"as {source.training}",
                                         "seeds": question.seeds}}  # fmt: skip
            found += _score(units, question, f"untrained, as {source.name}{named}", own, scored,
                            options, source, details)  # fmt: skip
    return found


def _score(
    units: Units,
    question: Question,
    name: str,
    of_seeds: Sequence[tuple[Need, npt.NDArray[Any]]],
    head: Head,
    options: ProbeOptions,
    source: Source,
    details: dict[str, Any],
) -> list[Row]:
    """Score one head on features, either the same for all seeds or each seed's own."""
    attends = isinstance(head, Attentive)
    confounds = None if attends else question.confounds
    permutations = 0 if attends else options.permutations
    parts = []
    for place, (need, features) in enumerate(of_seeds):
        folds = question.folds
        if len(of_seeds) > 1:
            folds = [fold for fold in folds if fold.seed == question.seeds[place]]
        chosen: Any
        if attends:
            chosen = _token_sets(units, need, features, source)
        else:
            chosen = Fixed(_of_units(units, features), units.ids)
        parts.append(
            score_features(
                units, folds, name, chosen, head=head, confounds=confounds, details=details,
                permutations=-(-permutations // len(of_seeds)),
            )
        )  # fmt: skip
    return [
        Row(rows[0].name, tuple(p for row in rows for p in row.predictions), rows[0].details)
        for rows in zip(*parts, strict=True)
    ]


def _head(name: HeadName, options: ProbeOptions, device: torch.device, n_folds: int) -> Head:
    heads: dict[HeadName, Head] = {
        "linear": linear,
        "logistic": published_logistic,
        "knn": neighbours,
        "attentive": Attentive(options.attentive, device, n_folds),
    }
    return heads[name]


def _of_units(units: Units, features: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
    """Average features over the rows of each unit."""
    of_row = units.labels.of_row
    rows = np.flatnonzero(of_row >= 0)
    sums = np.zeros((len(units), features.shape[1]))
    np.add.at(sums, of_row[rows], features[rows])
    return np.asarray(sums / np.bincount(of_row[rows], minlength=len(units))[:, None])


def _token_sets(units: Units, need: Need, features: npt.NDArray[Any], source: Source) -> TokenSets:
    lengths = -(-need.windows.n_frames // source.patch)
    if units.events is not None:
        return TokenSets(features, lengths, units.labels.of_row)
    run_ids = source.index.run_id[need.windows.run]
    of_run = pd.Series(units.labels.of_row, index=units.runs["run_id"].to_numpy(str))
    return TokenSets(features, lengths, of_run.loc[run_ids.tolist()].to_numpy(np.int64))


def _results(question: Question, rows: Sequence[Row]) -> Results:
    folds = question.folds or [rows[0].predictions[0].fold]
    seen = question.details.get("overlap") or rows[0].details["overlap"]
    details = {**question.details, "overlap": seen}
    return Results(question.units[0], tuple(folds), tuple(rows), details)


def _distinct(needs: Iterable[Need]) -> list[Need]:
    found: list[Need] = []
    for need in needs:
        if not any(_same(need, other) for other in found):
            found.append(need)
    return found


def _place(needs: Sequence[Need], need: Need) -> int:
    return next(i for i, other in enumerate(needs) if _same(need, other))


def _same(one: Need, other: Need) -> bool:
    columns = ("run", "first", "n_frames")
    return one.form == other.form and all(
        np.array_equal(getattr(one.windows, name), getattr(other.windows, name)) for name in columns
    )
