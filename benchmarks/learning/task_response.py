"""Plot the response to a real visual task on the flat map.

    python benchmarks/learning/task_response.py --out docs/task-response.png

The correlation of each pixel with the events of the run (convolved with SPM's hemodynamic response,
slow drifts removed), and the same for the networks of the built-in atlas.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
import numpy as np
import pandas as pd
from nilearn.glm.first_level import make_first_level_design_matrix

from fmritok.pictures.brain import draw_flat
from fmritok.pictures.style import (
    BLUE,
    GREY,
    INK,
    VERMILION,
    figure_of,
    house_style,
    robust_limit,
    save,
)
from fmritok.pipeline.sources.opening import RunFiles, open_run
from fmritok.tokenizers.flatmap.shading import sulcal_shading
from fmritok.tokenizers.flatmap.tokenizer import FlatmapTokenizer
from fmritok.tokenizers.network.tokenizer import NetworkTokenizer

DEFAULT_DATA = Path(os.environ.get("FMRITOK_TEST_DATA", "../shared/data"))


def response(columns: np.ndarray, regressor: np.ndarray) -> np.ndarray:
    drift = np.polynomial.legendre.legvander(np.linspace(-1, 1, len(regressor)), 3)
    both = np.column_stack([columns, regressor])
    both = both - drift @ np.linalg.lstsq(drift, both, rcond=None)[0]
    both /= np.maximum(np.linalg.norm(both, axis=0), 1e-12)
    return both[:, :-1].T @ both[:, -1]


def draw(
    out: Path,
    image: np.ndarray,
    shading: np.ndarray,
    names: tuple[str, ...],
    means: np.ndarray,
    errors: np.ndarray,
    counts: list[int],
) -> None:
    """Draw the flat map, and the networks from the highest correlation to the lowest."""
    figure = figure_of(10, 7.5, "Correlation with a visual one-back task, one subject")
    above, below = figure.subplots(2, 1, height_ratios=[3, 2])
    shown = draw_flat(above, image, shading=shading, limit=robust_limit(image, percentile=99))
    above.set_title("pixels of the flat map: anterior outwards, superior up; grey: sulci",
                    weight="normal")  # fmt: skip
    figure.colorbar(shown, ax=above, shrink=0.7, extend="both", label="correlation (r)")
    order = np.argsort(-means)
    colours = [VERMILION if means[i] > 0 else BLUE for i in order]
    below.barh(range(len(order)), means[order], color=colours, height=0.7)
    below.errorbar(means[order], range(len(order)), xerr=errors[order], fmt="none", ecolor=INK,
                   elinewidth=0.8, capsize=2)  # fmt: skip
    below.axvline(0, color=GREY, lw=0.8)
    below.invert_yaxis()
    below.set_yticks(range(len(order)), [f"{_words(names[i])} ({counts[i]})" for i in order])
    below.tick_params(axis="y", length=0)
    below.set_xlabel("correlation (r)")
    below.set_title(
        "networks (number of parcels): mean over parcels and its standard error", weight="normal"
    )
    save(figure, out, dpi=100)


def _words(name: str) -> str:
    """Write a network's name as words."""
    joined = re.sub(r"(?<=o)(?=[A-Z])", "-", name)  # fronto-parietal
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", joined).capitalize()


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=DEFAULT_DATA)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(data: Path, out: Path) -> None:
    path = next((data / "bold_mni").glob("sub-sf02*res-3*bold.nii.gz"))
    table = pd.read_csv(next((data / "bold_native").glob("sub-sf02*events.tsv")), sep="\t")
    tokens = {}
    for tokenizer in (FlatmapTokenizer(), NetworkTokenizer(band=None)):
        source = open_run(RunFiles(path))
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
    names = network.atlas.networks
    of_network = [by_network[network.atlas.network == i] for i in range(len(names))]
    means = np.array([values.mean() for values in of_network])
    errors = np.array([values.std(ddof=1) / np.sqrt(len(values)) for values in of_network])
    with house_style():
        draw(out, image, sulcal_shading(flatmap.template, flat), names, means, errors,
             [len(values) for values in of_network])  # fmt: skip
    print({name: round(float(m), 2) for name, m in zip(names, means, strict=True)})


if __name__ == "__main__":
    main()
