"""The small files of a demo cohort: phenotypes, ground truth and what says that it is simulated."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fmritok.pipeline.demo.anatomy import Anatomy
from fmritok.pipeline.demo.config import DemoConfig
from fmritok.pipeline.demo.population import (
    AGE_NETWORK,
    SEX_PAIR,
    TRAIT_PAIR,
    Subject,
    amplitudes,
    correlations,
    stream,
)
from fmritok.pipeline.demo.signals import RunSignals

__all__ = [
    "README",
    "network_table",
    "restricted_csv",
    "truth_json",
    "unrestricted_csv",
    "write_text",
]

RELEASE = "SIMULATED"
README = """\
SIMULATED DATA. Nobody was scanned.

`fmritok demo-data` wrote this folder in the layout of the Human Connectome Project, for trying
fmritok without access to a cohort. It is no HCP data, and no result on it says anything about
brains. SIMULATED.json holds the options, simulated_ground_truth.json what was put into the data,
and each run's simulated_networks.tsv the true course of every network (one row per frame).
"""
_AGE_BINS = ((25, "22-25"), (30, "26-30"), (35, "31-35"))
_SCORES = 20


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def unrestricted_csv(config: DemoConfig, subjects: Iterable[Subject]) -> str:
    """Return the open phenotype table, in HCP's columns; age is a bin, as there."""
    return _csv(_scores(config, subject) for subject in subjects)


def restricted_csv(subjects: Iterable[Subject]) -> str:
    """Return the restricted phenotype table, in HCP's columns: age in years and families."""
    return _csv(
        {
            "Subject": subject.subject,
            "Age_in_Yrs": subject.age,
            "HasGT": "FALSE",
            "ZygositySR": "NotTwin",
            "Family_ID": f"{51_000 + subject.family}_{82_000 + subject.family}",
            "Mother_ID": 51_000 + subject.family,
            "Father_ID": 82_000 + subject.family,
            "Release": RELEASE,
        }
        for subject in subjects
    )


def truth_json(config: DemoConfig, subjects: Iterable[Subject], anatomy: Anatomy) -> str:
    """Return all that was put into the data and that no phenotype table says."""
    names = anatomy.networks
    truth = {
        "simulated": True,
        "networks": names,
        "effects": {
            "sex": {"networks": SEX_PAIR, "correlation_men_minus_women": config.sex_effect},
            "age": {"network": AGE_NETWORK, "log_amplitude_per_decade": config.age_effect},
            "trait": {"networks": TRAIT_PAIR, "correlation_per_sd": config.trait_effect},
            "task": {"network_sd_per_block": config.task_effect},
            "fingerprint": {"correlation_sd": config.fingerprint},
        },
        "regions": [
            {"xyz_mm": np.round(xyz, 2).tolist(), "network": names[network]}
            for xyz, network in zip(anatomy.roi_xyz, anatomy.roi_network, strict=True)
        ],
        "subjects": {
            subject.subject: {
                "sex": subject.sex,
                "age": subject.age,
                "cognition": round(subject.cognition, 6),
                "family": subject.family,
                "amplitudes": np.round(amplitudes(config, subject, names), 6).tolist(),
                "correlations": np.round(correlations(config, subject, names), 6).tolist(),
            }
            for subject in subjects
        },
    }
    return json.dumps(truth) + "\n"


def network_table(signals: RunSignals, anatomy: Anatomy) -> str:
    """Return the true course of every network as tab-separated text, one row per frame."""
    lines = ["\t".join(anatomy.networks)]
    lines += ["\t".join(f"{value:.5f}" for value in row) for row in signals.networks]
    return "\n".join(lines) + "\n"


def _scores(config: DemoConfig, subject: Subject) -> dict[str, Any]:
    """Draw one row: cognitive scores follow the trait with a test's noise, personality does not."""
    noise = stream(config, _SCORES, subject.index).standard_normal(8)
    ability = 0.8 * subject.cognition + 0.6 * noise[:4]
    return {
        "Subject": subject.subject,
        "Release": RELEASE,
        "Acquisition": "SIM",
        "Gender": subject.sex,
        "Age": next((name for last, name in _AGE_BINS if subject.age <= last), "36+"),
        "PMAT24_A_CR": int(np.clip(np.rint(17 + 4.5 * ability[0]), 0, 24)),
        "CogFluidComp_AgeAdj": round(105 + 16 * ability[1], 2),
        "CogTotalComp_AgeAdj": round(110 + 18 * ability[2], 2),
        "CogCrystalComp_AgeAdj": round(112 + 16 * ability[3], 2),
        "NEOFAC_N": int(np.clip(np.rint(16.5 + 7 * noise[4]), 0, 48)),
        "NEOFAC_E": int(np.clip(np.rint(30.5 + 6 * noise[5]), 0, 48)),
    }


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
