"""Time courses of real runs, and what of them follows a task."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fmritok.pipeline.sources.opening import open_run


def series_of(tokenizer, files):
    source = open_run(files)
    places = tokenizer.places(source.space)
    blocks = [places.apply_to_frames(block) for block in source.blocks()]
    return np.concatenate(blocks, axis=1), places, source


def task_regressor(data, n_frames, tr):
    """Return the events of the one-back run, blurred by nilearn's model of a response."""
    from nilearn.glm.first_level import make_first_level_design_matrix

    table = pd.read_csv(next((data / "bold_native").glob("*events.tsv")), sep="\t")
    events = table[["onset", "duration"]].assign(trial_type="on")
    design = make_first_level_design_matrix(
        np.arange(n_frames) * tr, events, drift_model=None, hrf_model="spm"
    )
    return design["on"].to_numpy()


def correlations(columns, regressor):
    """Correlate time courses with a regressor, after slow drifts were taken out of both."""
    time = np.linspace(-1, 1, len(regressor))
    drift = np.polynomial.legendre.legvander(time, 3)
    both = np.column_stack([columns, regressor])
    both = both - drift @ np.linalg.lstsq(drift, both, rcond=None)[0]
    both /= np.linalg.norm(both, axis=0)
    return both[:, :-1].T @ both[:, -1]
