"""``fmritok list``: names of tokenizers, recipes and so on, also of other distributions."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from fmritok.registry import Registry
from fmritok.terminal import echo, new_console

__all__ = ["list_names"]

KINDS = (
    "tokenizers", "datasets", "recipes", "objectives", "templates", "atlases", "tasks",
    "finetune-recipes",
)  # fmt: skip


@click.command()
@click.argument("kind", metavar="KIND", type=click.Choice(KINDS))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def list_names(kind: str, as_json: bool) -> None:
    """List the names of recipes, tokenizers, datasets and so on.

    KIND is tokenizers, datasets, recipes, objectives, templates, atlases, tasks or
    finetune-recipes. Those of other installed distributions are listed, too.
    """
    rows = list(_rows(kind))
    if as_json:
        import json

        echo(json.dumps([{"name": name, "what": what, "from": of} for name, what, of in rows]))
        return
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, what, of in rows:
        table.add_row(name, what + (f" ({of})" if of != "fmritok" else ""))
    new_console().print(table)


def _rows(kind: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, first line of the documentation and distribution of each."""
    if kind == "recipes":
        from fmritok.trainer.recipe import recipe_names, recipe_title

        yield from ((name, recipe_title(name), "fmritok") for name in recipe_names())
    elif kind == "finetune-recipes":
        from fmritok.trainer.finetuning.config import RECIPES
        from fmritok.trainer.recipe import recipe_names, recipe_title

        yield from (
            (name, recipe_title(name, RECIPES), "fmritok") for name in recipe_names(RECIPES)
        )
    elif kind == "tasks":
        from fmritok.trainer.tasks.task import task_names, task_title

        yield from ((name, task_title(name), "fmritok") for name in task_names())
    elif kind == "templates":
        yield "fsaverage5", "surfaces and flat map of nilearn, built in", "fmritok"
        yield (
            "FOLDER",
            "a folder written by `fmritok fetch template`: fs_LR 32k, for CIFTI",
            "fmritok",
        )
    elif kind == "atlases":
        yield "seitzman300", "285 coordinates in 13 networks, built in", "fmritok"
        yield "FOLDER", "a table atlas.tsv and its images, such as `fmritok fetch atlas`", "fmritok"
        yield "FILE", "a table of parcels, with networks and images or without", "fmritok"
    else:
        yield from _registered(_registry(kind))


def _registry(kind: str) -> Registry:
    if kind == "tokenizers":
        from fmritok.tokenizers.registry import TOKENIZERS

        return TOKENIZERS
    if kind == "objectives":
        from fmritok.trainer.objectives.registry import OBJECTIVES

        return OBJECTIVES
    from fmritok.pipeline.datasets import DATASETS

    return DATASETS


def _registered(registry: Registry) -> Iterator[tuple[str, str, str]]:
    foreign = registry.foreign()
    for name in registry.names():
        point = foreign.get(name)
        of = "fmritok" if point is None else (point.dist.name if point.dist else "unknown")
        try:
            what = _first_line(registry.find(name))
        except registry.error as error:
            what = str(error)
        yield name, what, of


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]
