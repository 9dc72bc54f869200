"""Settings and measures of the simulated cohort, and a subject of it."""

from __future__ import annotations

import numpy as np

from fmritok.pipeline.demo.anatomy import load_anatomy
from fmritok.pipeline.demo.config import DemoConfig
from fmritok.pipeline.demo.population import Subject, draw_subject
from fmritok.pipeline.demo.signals import hrf

REST = "rfMRI_REST1_LR"
NONE = DemoConfig(
    subjects=2,
    sex_effect=0.0,
    age_effect=0.0,
    trait_effect=0.0,
    task_effect=0.0,
    fingerprint=0.0,
    network_percent=3.0,
)


def coupling(courses: np.ndarray, networks: list[str], pair: tuple[str, str]) -> float:
    return float(np.corrcoef(courses.T)[networks.index(pair[0]), networks.index(pair[1])])


def one_subject(config: DemoConfig, index: int = 0) -> Subject:
    anatomy = load_anatomy()
    return draw_subject(config, index, len(anatomy.networks), len(anatomy.roi_network))


def response(blocks: np.ndarray, frames: int) -> np.ndarray:
    """Return the standardized response to blocks (n, 2) of onset and duration, in seconds."""
    time, course = np.arange(frames) * NONE.tr, np.zeros(frames)
    for onset, duration in blocks:
        course += (time >= onset) & (time < onset + duration)
    model = np.convolve(course, hrf(NONE.tr))[:frames]
    return (model - model.mean()) / model.std()
