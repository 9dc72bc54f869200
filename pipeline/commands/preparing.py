"""The options of ``plan`` and ``tokenize``, and what they name: a cohort and its token groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from fmritok.errors import StoreError, wrong_usage
from fmritok.pipeline.commands.tokenize_output import say_questioned
from fmritok.progress import Progress
from fmritok.quantities import counted
from fmritok.terminal import remark

if TYPE_CHECKING:
    from fmritok.pipeline.catalog.cohort import Cohort
    from fmritok.pipeline.tokenization.plan import PlannedGroup

__all__ = ["prepare", "tokenizer_options"]

Function = Callable[..., Any]


def tokenizer_options(function: Function) -> Function:
    """Add the options of tokenizers and token groups."""
    for option in (
        click.option("--device", default="auto", show_default=True,
                     help="vae: device that encodes: auto, cpu, cuda, cuda:1, ..."),
        click.option("--compile/--no-compile", "compiled", default=None,
                     show_default="on a GPU with delta, bf16 or fp16",
                     help="vae: compile the autoencoder with torch.compile. It takes each worker "
                     "about a minute on a GPU; a volume then takes a quarter to a half of the "
                     "time. --no-compile is faster for fewer than 500 volumes."),
        click.option("--batch-size", type=click.IntRange(1), show_default="by the device",
                     help="vae: slices encoded together; halved when memory runs out."),
        click.option("--arithmetic", "--dtype", "arithmetic", default="auto", show_default=True,
                     type=click.Choice(["auto", "fp32", "tf32", "bf16", "fp16", "delta"]),
                     help="vae: arithmetic of the autoencoder; the error of all but fp32 is "
                     "measured. auto: that of the token group if it exists, else delta on a GPU "
                     "and fp32 elsewhere. See docs/precision.md."),
        click.option("--intensity", type=click.Choice(["max", "zscore"]), default="max",
                     show_default=True, help="vae: how intensities are mapped to [-1, 1]."),
        click.option("--revision", metavar="COMMIT",
                     help="vae: commit of the Hub id in --weights."),
        click.option("--weights", default="dcae-tiny", show_default=True,
                     metavar="FOLDER_OR_HUB_ID",
                     help="vae: the autoencoder: dcae-tiny (built in), a folder of diffusers, "
                     "or a Hub id."),
        click.option("--codec", type=click.Choice(["zstd", "none"]), default="zstd",
                     show_default=True, help="Compression of the tokens on disk."),
        click.option("--store-dtype", type=click.Choice(["int8", "float16"]),
                     help="Number type of stored tokens; default: int8 for vae, else float16."),
        click.option("--set", "settings", multiple=True, metavar="TOKENIZER.OPTION=VALUE",
                     help="An option of a tokenizer, such as network.atlas=FOLDER; repeatable."),
        click.option("--group", "names", multiple=True, metavar="NAME",
                     help="Name of the token group, one for each --tokenizer; default: the "
                     "tokenizer's name."),
        click.option("--tokenizer", "tokenizers", multiple=True, metavar="NAME",
                     show_default="vae; network for --dataset parcels",
                     help="Tokenizer, such as vae, flatmap or network; repeat it to encode each "
                     "run with several."),
    ):  # fmt: skip
        function = option(function)
    return function


def prepare(options: dict[str, Any], store: str) -> tuple[Cohort, list[PlannedGroup]]:
    """Catalogue the cohort and describe the groups that are to be written."""
    from fmritok.faults import told_apart
    from fmritok.pipeline.datasets import catalog_cohort, default_tokenizers
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.store.names import check_group_name
    from fmritok.pipeline.tokenization.plan import arithmetic_of, check_input, plan_group
    from fmritok.tokenizers.registry import build_tokenizer

    own = default_tokenizers(options["dataset"], options["root"])
    tokenizers, names = options["tokenizers"] or tuple(own), options["names"]
    if names and len(names) != len(tokenizers):
        raise click.UsageError(f"--group: expected {counted(len(tokenizers), 'name')}, one for "
                               f"each --tokenizer, got {len(names)}")  # fmt: skip
    names = names or tokenizers
    if len(set(names)) < len(names):
        raise click.UsageError("--group: expected different names for the groups of one store, "
                               f"got {', '.join(names)}")  # fmt: skip
    for name in names:
        try:
            check_group_name(name)
        except StoreError as error:
            raise wrong_usage(error) from error.__cause__
    settings = _settings(options)
    for other in sorted(set(settings) - set(tokenizers) - {"vae"}):
        raise click.UsageError(f"--set: expected an option of {', '.join(tokenizers)}, got one of "
                               f"{other}. Add --tokenizer {other}, or leave it out.")  # fmt: skip
    groups = []
    for tokenizer, name in zip(tokenizers, names, strict=True):
        arguments = settings.get(tokenizer, {})
        if "atlas" not in arguments:
            arguments = own.get(tokenizer, {}) | arguments
        if arguments.get("arithmetic") == "auto":
            with told_apart("plan", store):
                arguments = arguments | arithmetic_of(Location(store), name)
        built = build_tokenizer(tokenizer, arguments)
        groups.append(plan_group(built, arguments, name=name, precision=options["store_dtype"],
                                 codec=options["codec"]))  # fmt: skip
    is_parcels = options["dataset"] == "parcels"
    check_input("parcels" if is_parcels else options["input"], groups)
    with Progress("catalog"):
        cohort = catalog_cohort(
            options["dataset"],
            options["root"],
            tr=options["tr"],
            input=options["input"],
            name=options["name"],
        )
    say_questioned(cohort)
    return cohort, [_with_spaces(planned, cohort) for planned in groups]


def _with_spaces(planned: PlannedGroup, cohort: Cohort) -> PlannedGroup:
    """Record the space of a group's template, and say which runs lie apart from it."""
    from fmritok.pipeline.catalog.spaces import space_notes, space_sentences

    notes = space_notes(cohort.runs, planned.tokenizer.template_space)
    for sentence in space_sentences(planned.spec.name, notes):
        remark(sentence)
    return planned.with_notes({"spaces": notes} if notes else {})


def _settings(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Collect the options of each tokenizer. ``--set`` overrides options with their own names."""
    import yaml

    settings: dict[str, dict[str, Any]] = {
        "vae": {
            "weights": options["weights"],
            "revision": options["revision"],
            "intensity": options["intensity"],
            "arithmetic": options["arithmetic"],
            "batch_size": options["batch_size"],
            "device": options["device"],
            "compile": options["compiled"],
        }
    }
    for text in options["settings"]:
        key, equals, value = text.partition("=")
        tokenizer, dot, option = key.partition(".")
        if not (equals and dot and option):
            raise click.UsageError(f"--set: expected TOKENIZER.OPTION=VALUE, got {text!r}. "
                                   "For example: --set network.atlas=FOLDER")  # fmt: skip
        settings.setdefault(tokenizer, {})[option] = yaml.safe_load(value)
    return settings
