"""One page of pictures of the demo: slices before and after, tokens over time, the loss.

``python tools/demo_page.py`` also says whether the model beat the trivial prediction,
and exits with 1 if it did not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

__all__ = ["draw_page", "main"]

#: The model must be at least this much better than predicting each token's mean.
_CLEARLY_BELOW = 0.97


@click.command()
@click.option("--cohort", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--store", required=True)
@click.option("--training", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(cohort: Path, store: str, training: Path, out: Path) -> None:
    """Draw the demo's page, and judge its training."""
    rows = [json.loads(line) for line in (training / "metrics.jsonl").read_text().splitlines()]
    draw_page(cohort, store, rows, out)
    last = [row for row in rows if row.get("kind") == "validation"][-1]
    loss, trivial = last["residual_loss"], last["residual_loss_mean_token"]
    click.echo(
        f"validation loss {last['loss']:.4f}, of each token's mean {last['loss_mean_token']:.4f}\n"
        f"on what changes over time {loss:.4f}, of the mean {trivial:.4f}: "
        f"{loss / trivial:.3f} of it"
    )
    click.echo(f"pictures: {out}")
    if not loss < _CLEARLY_BELOW * trivial:
        raise click.ClickException(
            "the model is not clearly better than the mean token: expected a validation loss "
            f"below {_CLEARLY_BELOW} of it, got {loss / trivial:.3f}. Train longer, or report this."
        )


def draw_page(cohort: Path, store: str, rows: list[dict[str, Any]], out: Path) -> None:
    """Draw the page.

    Parameters
    ----------
    cohort : Path
        Root of the simulated cohort.
    store : str
    rows : list of dict
        The training's metrics.
    out : Path
        PNG file.
    """
    from fmritok.pictures.style import DIVERGING, figure_of, house_style, save
    from fmritok.pipeline.store.reader import TokenStore
    from fmritok.report.decoded import decode_run, draw_decoded

    group = TokenStore(store).group("vae")
    run = group.runs.iloc[0]
    decoded = decode_run(group, run["run_id"], cohort, n_frames=1)
    tokens, tr = group.values(run["run_id"]), float(run["tr"])
    statistics = group.statistics(int(run["row"]))
    with house_style():
        figure = figure_of(11, 15, f"fmritok demo, SIMULATED data: {run['run_id']}")
        slices, below = figure.subfigures(2, 1, height_ratios=[9, 6])
        draw_decoded(slices, decoded)
        above, losses = below.subplots(2, 1)
        changes = _deviations(tokens, statistics.mean, statistics.std)
        shown = above.imshow(
            changes, aspect="auto", cmap=DIVERGING, vmin=-3, vmax=3,
            extent=(0, len(tokens) * tr, 27, 0),
        )  # fmt: skip
        title = "tokens over time: first component of each cell"
        above.set(xlabel="time (s)", ylabel="cell", title=title)
        below.colorbar(shown, ax=above, label="standard deviations", extend="both")
        _draw_losses(losses, rows)
        save(figure, out, dpi=110)


def _deviations(
    tokens: npt.NDArray[np.float32], mean: npt.NDArray[np.float32], std: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return each cell's first temporal component, in standard deviations (cells, frames)."""
    z = np.divide(tokens - mean, std, out=np.zeros_like(tokens), where=std > 0)
    lines = []
    for cell in range(z.shape[1]):
        frames = z[:, cell].astype(np.float64)
        first = np.linalg.eigh(frames @ frames.T).eigenvectors[:, -1]
        lines.append(first / max(first.std(), 1e-12))
    return np.stack(lines)


def _draw_losses(axes: Any, rows: list[dict[str, Any]]) -> None:
    from fmritok.trainer.objectives.mtm import MaskedTokenModelling
    from fmritok.trainer.record.loss_curve import draw_panel

    figures = [one for one in MaskedTokenModelling.figures if one.name == "residual_loss"]
    draw_panel(axes, rows, figures)


if __name__ == "__main__":
    main()
