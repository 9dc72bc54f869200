"""``fmritok saliency``: what an encoder looks at, as a picture and a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fmritok.quantities import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fmritok.pipeline.store.reader import TokenGroup
    from fmritok.trainer.saliency.attribution import Saliency

__all__ = ["draw_saliency", "saliency"]

#: Tokens that are drawn, where their places are not known.
_MOST_BARS = 40


@click.command("saliency")
@click.option("--from", "source", required=True, metavar="TRAINING|FILE",
              type=click.Path(path_type=Path, exists=True),
              help="Training: its folder, or one of its checkpoints; or a file of weights of "
              "`fmritok finetune --keep-weights`, whose own head is explained.")  # fmt: skip
@click.option("--store", required=True, help="Token store: a folder or a URL.")
@click.option("--group", metavar="NAME", help="Token group. [default: the one that was trained on]")
@click.option("--task", "name", metavar="NAME|FILE",
              help="Task whose linear head is explained; it is fitted on all of its units. Of a "
              "file of weights: task whose runs are taken. [default: no task: the norm of the "
              "embedding, all runs]")  # fmt: skip
@click.option("--class", "of_class", metavar="NAME",
              help="Class that is explained against the others. [default: the last one]",
              )  # fmt: skip
@click.option("--runs", "most", type=click.IntRange(1), default=20, show_default=True,
              help="Number of runs that are explained.")  # fmt: skip
@click.option("--crops", type=click.IntRange(1), default=2, show_default=True,
              help="Number of windows of each run.")  # fmt: skip
@click.option("--steps", type=click.IntRange(2), default=16, show_default=True,
              help="Number of steps of the integral.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="Device: auto, cpu, cuda, ...")
@click.option("--out", type=click.Path(path_type=Path), default=Path("saliency"),
              show_default=True, help="Folder to write to.")  # fmt: skip
def saliency(
    source: Path,
    store: str,
    group: str | None,
    name: str | None,
    of_class: str | None,
    most: int,
    crops: int,
    steps: int,
    device: str,
    out: Path,
) -> None:
    """Paint integrated gradients on the flat map, the parcels or the cells.

    Writes saliency.png and saliency.csv. Attributions say what the model uses, not what the
    brain does: look at several trainings, and at an untrained encoder, before you believe a map.
    """
    import numpy as np

    from fmritok.device import choose_device
    from fmritok.pictures.style import house_style, png
    from fmritok.pipeline.store.reader import TokenStore
    from fmritok.terminal import echo, log_to_terminal
    from fmritok.trainer.errors import ConfigError
    from fmritok.trainer.faults import write_whole, writing
    from fmritok.trainer.saliency.attribution import attribute, saliency_table
    from fmritok.trainer.saliency.explained import explain
    from fmritok.trainer.saliency.readout import batches_of
    from fmritok.trainer.tasks.task import read_task

    log_to_terminal()
    try:
        chosen = choose_device(device, error=ConfigError)
        readout, tokens, window, run_ids, what = explain(
            source, TokenStore(store), group=group, task=read_task(name) if name else None,
            of_class=of_class, crops=crops, device=chosen,
        )  # fmt: skip
        spread = np.unique(np.linspace(0, len(run_ids) - 1, most).round().astype(int))
        some = [run_ids[i] for i in spread]
        batches, n = batches_of(tokens, some, window=window, crops=crops)
        found = attribute(readout, batches, n, device=chosen, steps=steps)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    with writing("Saliency", out, then="Then run it again, or choose another --out."):
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "saliency.csv", saliency_table(tokens, found).to_csv(index=False))
        with house_style():
            title = f"{what}, {counted(found.windows, 'window')} of {counted(len(some), 'run')}"
            write_whole(out / "saliency.png", png(draw_saliency(tokens, found, title)))
    if found.gap > 0.05:
        echo(f"The integral is coarse: attributions miss {found.gap:.0%} of the change. Give more "
             "--steps.", err=True)  # fmt: skip
    echo(f"Saliency of the {what}: {out}")


def draw_saliency(group: TokenGroup, found: Saliency, title: str) -> Figure:
    """Draw signed attributions and their strength, on the flat map or at the tokens' places.

    Tokens without a place are bars, the strongest first.
    """
    import numpy as np

    from fmritok.pictures.brain import draw_flat, draw_parcels
    from fmritok.pictures.style import BLUE, DIVERGING, SEQUENTIAL, figure_of, robust_limit

    both = (("signed: raises or lowers the number", found.signed, DIVERGING, None),
            ("strength: mean of absolute values", found.strength, SEQUENTIAL, 0.0))  # fmt: skip
    figure = figure_of(9.5, 8.0, title)
    if "pixel_mask" in group.static:
        from fmritok.pictures.brain import flat_image
        from fmritok.pipeline.tokenization.decoding import stored_tokens
        from fmritok.tokenizers.flatmap.tokenizer import FlatmapTokenizer

        stored = stored_tokens(group, next(iter(group)), slice(1))
        shading = FlatmapTokenizer.shading(stored)
        for axes, (name, values, colours, low) in zip(figure.subplots(2, 1), both, strict=True):
            image = flat_image(
                values[None], group.array("cell"), group.array("pixel_mask"),
                group.provenance["layout"]["image"],
            )[0]  # fmt: skip
            shown = draw_flat(axes, image, shading=shading, colours=colours, low=low)
            axes.set_title(name)
            figure.colorbar(shown, ax=axes, shrink=0.7, extend=_beyond(low), label="attribution")
        return figure
    if "coordinates" not in group.static:
        order = np.argsort(-found.strength.sum(1))[:_MOST_BARS]
        for axes, (name, values, _, _) in zip(figure.subplots(2, 1), both, strict=True):
            axes.bar(range(len(order)), values.sum(1)[order], color=BLUE)
            axes.set_xticks(range(len(order)), order.tolist(), rotation=90)
            axes.set(title=name, xlabel="token", ylabel="attribution")
        return figure
    parts: Any = figure.subfigures(2, 1)
    for part, (name, values, colours, low) in zip(parts, both, strict=True):
        views = part.subplots(1, 3)
        shown = draw_parcels(views, group.array("coordinates"), values.sum(1), colours=colours,
                             low=low, limit=robust_limit(values.sum(1)))  # fmt: skip
        part.suptitle(name, x=0.01, ha="left", fontsize=10)
        part.colorbar(shown, ax=list(views), shrink=0.7, extend=_beyond(low), label="attribution")
    return figure


def _beyond(low: float | None) -> str:
    """Return which ends of a bar of colours values may lie beyond."""
    return "both" if low is None else "max"
