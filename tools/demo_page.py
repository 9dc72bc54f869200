"""One page of pictures of the demo: slices before and after, tokens over time, the loss.

``python -m fmritok.pipeline.demo.page`` also says whether the model beat the trivial prediction,
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
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fmritok.pipeline.sources.volumes import RunVolumes
    from fmritok.pipeline.store.reader import TokenStore
    from fmritok.pipeline.tokenization.decoding import stored_tokens
    from fmritok.tokenizers.vae.tokenizer import VaeTokenizer

    group = TokenStore(store).group("vae")
    run = group.runs.iloc[0]
    _, original = next(RunVolumes.read(cohort / run["source"]).blocks(1))
    tokens, tr = group.values(run["run_id"]), float(run["tr"])
    decoded = VaeTokenizer.decode_stored(stored_tokens(group, run["run_id"], slice(1)), {})
    statistics = group.statistics(int(run["row"]))

    figure = plt.figure(figsize=(11, 13), layout="constrained")
    figure.suptitle(f"fmritok demo, SIMULATED data: {run['run_id']}")
    grid = figure.add_gridspec(4, 3)
    for line, (name, volume) in enumerate([("original", original[0]), ("decoded", decoded[0])]):
        for column, (view, index) in enumerate(_planes()):
            axes = figure.add_subplot(grid[line, column])
            axes.imshow(
                volume[index].T, origin="lower", cmap="gray", vmin=0, vmax=original[0].max()
            )
            axes.set_title(f"{name}, {view}")
            axes.axis("off")
    axes = figure.add_subplot(grid[2, :])
    changes = _deviations(tokens, statistics.mean, statistics.std)
    shown = axes.imshow(
        changes, aspect="auto", cmap="RdBu_r", vmin=-3, vmax=3, extent=(0, len(tokens) * tr, 27, 0)
    )
    title = "tokens over time: first component of each cell"
    axes.set(xlabel="time (s)", ylabel="cell", title=title)
    figure.colorbar(shown, ax=axes, label="standard deviations")
    _draw_losses(figure.add_subplot(grid[3, :]), rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _planes() -> list[tuple[str, Any]]:
    return [
        ("sagittal", np.s_[44, :, :]),
        ("coronal", np.s_[:, 50, :]),
        ("axial", np.s_[:, :, 52]),
    ]


def _deviations(
    tokens: npt.NDArray[np.float32], mean: npt.NDArray[np.float32], std: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return each cell's first temporal component, in standard deviations (cells, frames)."""
    z = np.divide(tokens - mean, std, out=np.zeros_like(tokens), where=std > 0)
    lines = []
    for cell in range(z.shape[1]):
        left, _, _ = np.linalg.svd(z[:, cell].astype(np.float64), full_matrices=False)
        lines.append(left[:, 0] / max(left[:, 0].std(), 1e-12))
    return np.stack(lines)


def _draw_losses(axes: Any, rows: list[dict[str, Any]]) -> None:
    train = [row for row in rows if row.get("kind") == "train"]
    held_out = [row for row in rows if row.get("kind") == "validation"]
    axes.plot([r["step"] for r in train], [r["loss"] for r in train], lw=0.7, label="training")
    for key, label in (("loss", "validation"), ("loss_mean_token", "predicting the mean")):
        steps = [r["step"] for r in held_out]
        axes.plot(steps, [r[key] for r in held_out], marker="o", label=label)
    axes.set(xlabel="step", ylabel="L1, standard deviations", title="masked-token loss")
    axes.legend()


if __name__ == "__main__":
    main()
