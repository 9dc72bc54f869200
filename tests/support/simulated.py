"""Settings and measures of the simulated cohort."""

from __future__ import annotations

import numpy as np

from fmritok.pipeline.demo.config import DemoConfig

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
