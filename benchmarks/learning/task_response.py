"""Plot the response to a real visual task on the flat map.

    python benchmarks/learning/task_response.py --out docs/task-response.png

The correlation of each pixel with the events of the run (convolved with SPM's hemodynamic response,
slow drifts removed), and the same for the networks of the built-in atlas.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from nilearn.glm.first_level import make_first_level_design_matrix

from fmritok.pipeline.sources.opening import RunFiles, open_run
from fmritok.tokenizers.flatmap.tokenizer import FlatmapTokenizer
from fmritok.tokenizers.network.tokenizer import NetworkTokenizer

DEFAULT_DATA = Path(os.environ.get("FMRITOK_TEST_DATA", "../shared/data"))


def response(columns: np.ndarray, regressor: np.ndarray) -> np.ndarray:
    drift = np.polynomial.legendre.legvander(np.linspace(-1, 1, len(regressor)), 3)
    both = np.column_stack([columns, regressor])
    both = both - drift @ np.linalg.lstsq(drift, both, rcond=None)[0]
    both /= np.maximum(np.linalg.norm(both, axis=0), 1e-12)
    return both[:, :-1].T @ both[:, -1]


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=DEFAULT_DATA)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(data: Path, out: Path) -> None:
    path = next((data / "bold_mni").glob("sub-sf02*res-3*bold.nii.gz"))
    table = pd.read_csv(next((data / "bold_native").glob("sub-sf02*events.tsv")), sep="\t")
    tokens = {}
    for tokenizer in (FlatmapTokenizer(), NetworkTokenizer(band=None)):
        source = open_run(RunFiles(str(path)))
        places = tokenizer.places(source.space)
        series = np.concatenate([places.apply_to_frames(b) for b in source.blocks()], axis=1)
        made = tokenizer.encode_series(series, 2.0, places, places.counts)
        tokens[tokenizer.name] = tokenizer, np.concatenate(list(made.blocks))
    flatmap, painted = tokens["flatmap"]
    network, parcels = tokens["network"]
    design = make_first_level_design_matrix(
        np.arange(len(painted)) * 2.0,
        table[["onset", "duration"]].assign(trial_type="on"),
        drift_model=None, hrf_model="spm",
    )["on"].to_numpy()  # fmt: skip
    flat = flatmap.flat
    image = np.full(flat.shape, np.nan)
    pixels = painted.reshape(len(painted), -1)[:, flat.feature]
    image.flat[flat.pixel] = response(pixels, design)
    by_network = response(parcels[:, :, 0], design)
    figure = Figure(figsize=(10, 7), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[3, 2])
    shown = above.imshow(image, cmap="RdBu_r", vmin=-0.8, vmax=0.8, interpolation="nearest")
    above.axis("off")
    above.text(0.02, 0.98, "left", transform=above.transAxes, va="top")
    above.text(0.98, 0.98, "right", transform=above.transAxes, va="top", ha="right")
    above.set_title("Correlation with a visual one-back task: anterior outwards, superior up")
    figure.colorbar(shown, ax=above, shrink=0.7)
    names = network.atlas.networks
    means = [by_network[network.atlas.network == i].mean() for i in range(len(names))]
    below.bar(range(len(names)), means)
    below.set_xticks(range(len(names)), names, rotation=30, ha="right")
    below.set_ylabel("mean correlation")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)
    print({name: round(float(m), 2) for name, m in zip(names, means, strict=True)})


if __name__ == "__main__":
    main()
