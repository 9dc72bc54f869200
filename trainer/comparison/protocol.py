"""What is equal for all contestants of a comparison, and how it was made equal.

Contestants are token groups with an objective each. Subjects, runs, held-out sides, optimizer steps
and seconds of a window are the same. Windows of groups differ in tokens, so batches differ in
windows: each has as nearly as possible the tokens of the batch with the most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmritok.errors import expected
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.trainer.config import Config
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.model.layout import PatchGrid, TokenLayout
from fmritok.trainer.recipe import build_config, override

__all__ = ["Contestant", "plan_comparison", "unequal"]

#: Tokens of a batch may differ by this share: batches have whole windows.
_TOLERANCE = 0.1


@dataclass(frozen=True)
class Contestant:
    """A token group and an objective.

    Attributes
    ----------
    name : str
    group : TokenGroup
    config : Config
    tokens : int
        Tokens of a window, as the model has them: cells times patches.
    tr : float
        Seconds between frames.
    """

    name: str
    group: TokenGroup
    config: Config
    tokens: int
    tr: float

    @property
    def folder(self) -> str:
        """Name of its folders."""
        return self.name.replace(", ", "-")

    @property
    def seen(self) -> dict[str, float]:
        """What the training sees: ``steps, windows, tokens, hours`` (of data)."""
        steps, batch = self.config.train.steps or 0, self.config.data.batch_size
        windows = steps * batch
        hours = windows * self.config.data.window * self.tr / 3600
        return {"steps": steps, "batch": batch, "windows": windows,
                "tokens": windows * self.tokens, "hours": hours}  # fmt: skip


def plan_comparison(
    store: TokenStore,
    groups: Sequence[str],
    objectives: Sequence[str],
    tree: Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    steps: int | None = None,
    seconds: float | None = None,
) -> list[Contestant]:
    """Give each group and objective the same protocol.

    Parameters
    ----------
    store : TokenStore
    groups, objectives : sequence of str
        Every group is trained with every objective.
    tree : dict
        A recipe; see :func:`fmritok.trainer.recipe.read_recipe`.
    overrides : sequence of str
        ``section.option=value``.
    steps : int, optional
        Optimizer steps. Default: the recipe's.
    seconds : float, optional
        Of a window. Default: the recipe's window in the group with the shortest TR.

    Raises
    ------
    ConfigError
        If groups have other runs, a run is shorter than a window, or the recipe has epochs.
    """
    opened = [store.group(name) for name in groups]
    _same_runs(opened)
    trs = [float(np.median(group.runs["tr"])) for group in opened]
    given = [*overrides, *([f"train.steps={steps}", "train.epochs=null"] if steps else [])]
    first = build_config(override(dict(tree), given))
    if first.train.steps is None:
        raise ConfigError(
            expected("Recipe", "of a comparison", "a number of steps, the same for all", "epochs",
                     "Give --steps.")
        )  # fmt: skip
    seconds = first.data.window * min(trs) if seconds is None else seconds
    layouts = []
    for group, tr in zip(opened, trs, strict=True):
        window = max(1, round(seconds / tr))
        _long_enough(group, window, tr)
        layouts.append((window, _tokens(group, first, window)))
    most = max(tokens for _, tokens in layouts) * first.data.batch_size
    found = []
    for group, tr, (window, tokens) in zip(opened, trs, layouts, strict=True):
        batch = max(1, round(most / tokens))
        for objective in objectives:
            own = [f"data.window={window}", f"data.batch_size={batch}",
                   f"objective.name={objective}"]  # fmt: skip
            config = build_config(override(dict(tree), [*given, *own]))
            found.append(Contestant(f"{group.name}, {objective}", group, config, tokens, tr))
    return found


def unequal(contestants: Sequence[Contestant]) -> list[str]:
    """Name what could not be made equal."""
    tokens = [one.seen["tokens"] for one in contestants]
    if min(tokens) >= (1 - _TOLERANCE) * max(tokens):
        return []
    return [f"Tokens seen differ by {1 - min(tokens) / max(tokens):.0%}: batches have whole "
            "windows. A larger data.batch_size makes them more equal."]  # fmt: skip


def _tokens(group: TokenGroup, config: Config, window: int) -> int:
    layout = TokenLayout.of(group, patch=config.model.patch, window=window)
    return int(PatchGrid(layout).n_cells) * -(-window // layout.patch)


def _same_runs(groups: Sequence[TokenGroup]) -> None:
    first = groups[0]
    for other in groups[1:]:
        differing = sorted(set(first.runs["run_id"]) ^ set(other.runs["run_id"]))
        if differing:
            raise ConfigError(
                expected("Token groups", f"{first.name} and {other.name} of a comparison",
                         "the same finished runs",
                         f"{len(differing)} that only one has, such as {differing[0]}",
                         "Tokenize the missing runs, or verify why they failed with `fmritok "
                         "inspect --where status=failed`.")
            )  # fmt: skip


def _long_enough(group: TokenGroup, window: int, tr: float) -> None:
    shortest = int(group.runs["n_frames"].min())
    if shortest < window:
        raise ConfigError(
            expected("Option", "--seconds", f"at most {shortest * tr:.0f} s, the shortest run of "
                     f"group {group.name}", f"{window * tr:.0f} s", "Choose shorter windows.")
        )  # fmt: skip
