"""Probe the encoders of trainings on all targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.trainer.data.events import event_windows
from fmritok.trainer.data.labels import EVENT_TARGET, Labels, event_labels, labels_of, runs_where
from fmritok.trainer.data.windows import RunIndex, Windows
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.features import Pool, load_encoder, run_features, window_features
from fmritok.trainer.evaluation.folds import fold_splits
from fmritok.trainer.evaluation.probe import Score, probe
from fmritok.trainer.evaluation.scores import Row
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.record.folder import find_checkpoint
from fmritok.trainer.training.faults import within_memory

__all__ = ["EventOptions", "probe_trainings"]


class EventOptions(NamedTuple):
    """Windows of events."""

    delay: float = 4.0
    """seconds from an onset to the window, for the delay of the BOLD response"""
    window: float = 8.0
    """seconds"""
    trial_types: tuple[str, ...] = ()
    """empty: all"""


class Question(NamedTuple):
    """A target: labels, and the rows of features that they belong to."""

    labels: Labels
    runs: pd.DataFrame
    """the run of each row of the features"""
    windows: Windows | None
    """one per row; None: evenly spread windows of every run"""


@within_memory("the probe", "Use a machine or a GPU with more of it, or --device cpu.")
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
    where: Sequence[str] = (),
    pool: Pool = "mean",
    events: EventOptions = EventOptions(),  # noqa: B008  immutable
    permutations: int = 0,
) -> list[Row]:
    """Probe the encoders of trainings, and untrained ones of the same shapes.

    Every seed has its own untrained encoder. ``where`` selects runs, see
    :func:`fmritok.trainer.data.labels.runs_where`. ``pool``: see
    :func:`fmritok.trainer.evaluation.features.run_features`. ``permutations`` is the total over
    the seeds.
    """
    of_seed = -(-permutations // len(seeds))
    opened, rows = TokenStore(store), []
    for training in trainings:
        checkpoint = find_checkpoint(training)
        group = opened.group(group_name or checkpoint.state["group"]["name"])
        runs = runs_where(group.runs, where).sort_values("run_id", ignore_index=True)
        index = RunIndex.of(runs, runs["run_id"].tolist())
        config = checkpoint.config
        layout = TokenLayout.of(group, patch=config.model.patch, window=config.data.window)
        questions = [
            _event_question(opened, group, index, runs, layout.patch, events)
            if target == EVENT_TARGET
            else Question(labels_of(target, runs, opened.phenotypes), runs, None)
            for target in targets
        ]
        for question in questions:  # errors before the encoder runs
            fold_splits(question.labels, folds=folds, seed=seeds[0])

        name = f"{config.objective.name} {checkpoint.training.name}"
        encoders: list[tuple[str, list[tuple[int | None, Sequence[int]]]]]
        encoders = [(name, [(None, seeds)])]
        if untrained:
            encoders.append((f"untrained, as {name}", [(seed, [seed]) for seed in seeds]))
        for encoder, variants in encoders:
            sources = []
            scores: list[list[Score]] = [[] for _ in questions]
            for seed, of_folds in variants:
                frozen = load_encoder(checkpoint.folder, group, untrained_seed=seed)
                sources.append(frozen.source)
                whole = None
                for kept, (labels, of_row, windows) in zip(scores, questions, strict=True):
                    if windows is not None:
                        features = window_features(
                            frozen, group, index, windows,
                            device=device, workers=workers, pool=pool,
                        )  # fmt: skip
                    else:
                        if whole is None:
                            whole = run_features(
                                frozen, group, index,
                                crops=crops, device=device, workers=workers, pool=pool,
                            )  # fmt: skip
                        features = whole
                    kept += probe(
                        features, labels, of_row,
                        seeds=of_folds, folds=folds, permutations=of_seed,
                    )  # fmt: skip
            for kept, question in zip(scores, questions, strict=True):
                rows.append(Row(encoder, sources, question.labels, kept))
    return rows


def _event_question(
    store: TokenStore,
    group: TokenGroup,
    index: RunIndex,
    runs: pd.DataFrame,
    patch: int,
    options: EventOptions,
) -> Question:
    events = store.events
    if not events["run_id"].isin(index.run_id).any():
        raise ConfigError(
            expected("Events", f"in {store.location}", f"some during the runs of {group.name}",
                     f"none of {len(events)} events" if len(events) else "no table of events",
                     "Tokenize a cohort with task runs, or choose another --target or --where.")
        )  # fmt: skip
    found = event_windows(
        index, events, window=options.window, delay=options.delay, patch=patch,
        trial_types=options.trial_types or None,
    )  # fmt: skip
    of_row = runs.iloc[found.windows.run].reset_index(drop=True)
    labels = event_labels(found, of_row)
    seconds = found.windows.n_frames * index.tr[found.windows.run]
    labels.details.update(
        delay_s=options.delay, window_s=[float(seconds.min()), float(seconds.max())]
    )
    return Question(labels, of_row, found.windows)
