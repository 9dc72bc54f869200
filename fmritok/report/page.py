"""The page of the report: facts and pictures through one template, into one file."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmritok.errors import FmritokError
from fmritok.pictures.style import figure_of, house_style, png
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.report.cohort import read_cohort
from fmritok.report.decoded import decode_run, draw_decoded
from fmritok.report.methods import write_methods
from fmritok.report.runs import carpet, choose_runs, map_of, storage_error
from fmritok.terminal import plain
from fmritok.trainer.report.score_figures import draw_predictions, draw_rows
from fmritok.trainer.report.scores import TaskScores, join_scores
from fmritok.trainer.report.trainings import TrainingFacts, read_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "make_report", "other_tokens"]


@dataclass(frozen=True)
class Report:
    """A finished page.

    Attributes
    ----------
    html : str
    notes : list of str
        What is not in the page, and why; the page says it, too.
    """

    html: str
    notes: list[str]


@dataclass
class _Page:
    """What is gathered for the template."""

    groups: list[dict[str, Any]] = field(default_factory=list)
    trainings: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def tried(self, what: str, do: Callable[[], Any]) -> Any:
        """Do a part of the page; note what fails, and leave the part out."""
        try:
            return do()
        except (FmritokError, OSError) as error:
            self.notes.append(f"{what} is left out: {plain(error)}")
            return None


def make_report(
    store: str,
    *,
    trainings: Sequence[Path] = (),
    scores: Sequence[Path] = (),
    cohort: Path | None = None,
    title: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Make the page on a store, trainings on it and scores.

    Parameters
    ----------
    store : str
    trainings, scores : sequence of Path
        Folders of trainings and of results. A damaged one is noted in the page.
    cohort : Path, optional
        Root of the cohort on disk, for decoded volumes beside the original ones.
    title : str
        Default: the store's name.
    progress : callable
        Told what is being done.

    Raises
    ------
    StoreError
        If there is no such store, or it is damaged.
    """
    opened = TokenStore(store)
    page = _Page()
    with house_style():
        progress("store")
        facts = read_cohort(opened)
        for name in opened.groups:
            progress(f"token group {name}")
            page.groups.append(_group(page, opened.group(name), cohort, progress))
        known: list[TrainingFacts] = []
        for path in trainings:
            progress(f"training {path}")
            training = page.tried(f"Training {path}", partial(read_training, path))
            if training is not None:
                known.append(training)
                page.notes += [*training.notes, *other_tokens(opened, training)]
                page.trainings.append({"one": training, "curve": _image(training.figure)})
        whole = []
        for folder in scores:
            if page.tried(f"Folder of scores {folder}", partial(join_scores, [folder])):
                whole.append(folder)
        joined = join_scores(whole)
        for task in joined:
            progress(f"scores of {task.tree['task']}")
            page.tasks.append(_task(task))
    page.notes += facts.notes
    page.notes += [f"Task {t.tree['task']}: {note}" for t in joined for note in t.notes]
    return Report(
        _render(
            title=title or f"Report on {opened.location}", store=str(opened.location),
            cohort=facts, page=page, methods=write_methods(facts, known, joined),
            made=f"{datetime.now():%Y-%m-%d %H:%M}", version=version("fmritok"),
        ),
        page.notes,
    )  # fmt: skip


def other_tokens(store: TokenStore, training: TrainingFacts) -> list[str]:
    """Name a training on tokens that this store does not have."""
    if any(store.group(name).provenance == training.provenance for name in store.groups):
        return []
    return [f"Training {training.name} was on other tokens than this store has (its group was "
            f"{training.group})."]  # fmt: skip


def _group(
    page: _Page, group: TokenGroup, cohort: Path | None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Gather the pictures of a token group."""
    found: dict[str, Any] = {"name": group.name, "carpet": None, "map": None, "decoded": None}
    if not len(group):
        page.notes.append(f"Token group {group.name} has no finished run.")
        return found
    what = f"of token group {group.name}"
    run_ids = choose_runs(group)
    found["rounding"] = storage_error(group, run_ids[0])
    found["carpet"] = page.tried(f"Carpet plot {what}", lambda: _image(carpet(group, run_ids)))
    drawn = page.tried(f"Map {what}", lambda: map_of(group, run_ids[0]))
    if drawn is not None:
        found["map"] = (_image(drawn[0]), drawn[1])
    if group.provenance.get("tokenizer") == "vae":
        if cohort is None:
            page.notes.append(
                f"Decoded volumes {what} are left out: they are compared with the original ones. "
                "Give the root of the cohort with --cohort."
            )
        else:
            progress(f"token group {group.name}: decoding volumes, a minute or two on a CPU")
            found["decoded"] = page.tried(
                f"Decoded volumes {what}", lambda: _decoded(group, run_ids[0], cohort)
            )
    return found


def _decoded(group: TokenGroup, run_id: str, cohort: Path) -> dict[str, Any]:
    run = decode_run(group, run_id, cohort)
    figure = figure_of(9.5, 8.5)
    draw_decoded(figure, run)
    return {"image": _image(figure), "error": run.error, "run": run_id, "frames": len(run.decoded)}


def _task(task: TaskScores) -> dict[str, Any]:
    predictions, caption = draw_predictions(task)
    return {
        "one": task, "rows": _image(draw_rows(task)), "predictions": _image(predictions),
        "caption": caption,
    }  # fmt: skip


def _image(figure: Figure | None) -> str | None:
    """Return a figure as the address of an image within the page."""
    if figure is None:
        return None
    return f"data:image/png;base64,{base64.b64encode(png(figure, dpi=130)).decode()}"


def _render(**values: Any) -> str:
    from jinja2 import Environment, StrictUndefined

    source = (resources.files("fmritok.report") / "page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True)  # fmt: skip
    environment.filters["plain"] = plain
    environment.filters["figure"] = lambda value: "-" if value is None else f"{value:.3f}"
    environment.filters["percent"] = lambda value: "-" if value != value else f"{value:.2%}"
    return environment.from_string(source).render(**values)
