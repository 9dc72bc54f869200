"""``fmritok report``: one page on a store, its trainings and its scores."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["report"]

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command("report")
@click.option("--store", required=True, help="Token store: a folder or a URL.")
@click.option("--training", "trainings", multiple=True, type=_FOLDER,
              help="Folder of a training, for its loss curve, or of `fmritok export`; "
              "repeatable.")  # fmt: skip
@click.option("--scores", multiple=True, type=_FOLDER,
              help="Folder that `baseline`, `probe` or `finetune` wrote; repeatable. Folders of "
              "one task share a table.")  # fmt: skip
@click.option("--cohort", type=_FOLDER,
              help="Root of the cohort on disk, for decoded volumes beside the original ones.",
              )  # fmt: skip
@click.option("--title", default="", help="Title of the page. [default: the store's name]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("report.html"),
              show_default=True, help="File to write.")  # fmt: skip
def report(
    store: str,
    trainings: tuple[Path, ...],
    scores: tuple[Path, ...],
    cohort: Path | None,
    title: str,
    out: Path,
) -> None:
    """Write a page on a cohort, its tokens, trainings and scores.

    One HTML file with all pictures in it; it opens without a network. A damaged training or folder
    of scores is left out, and named in the page.
    """
    from fmritok.report.page import make_report
    from fmritok.terminal import echo, remark
    from fmritok.trainer.faults import write_whole, writing

    made = make_report(
        store, trainings=trainings, scores=scores, cohort=cohort, title=title, progress=remark
    )
    with writing("Report", out, then="Then run it again, or choose another file with --out."):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, made.html)
    for note in made.notes:
        remark(f"Note: {note}")
    echo(f"Report: {out}")
