"""What a demo cohort is made of: its size and the effects hidden in it, all options."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any

from fmritok.errors import FmritokError, expected
from fmritok.pipeline.demo.tasks import TASKS

__all__ = ["DemoConfig", "check_run_name", "is_rest", "task_of"]

MAX_SUBJECTS = 99_999
MIN_FRAMES = 8
_RUN_NAME = re.compile(r"(?:rfMRI_REST[12]|tfMRI_([A-Z]+))_(?:LR|RL)")


def _option(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class DemoConfig:
    """Size of a demo cohort and sizes of the effects in it; an effect of 0 is absent.

    The ``metadata`` of each field has its meaning and unit, which `fmritok demo-data --help` shows.
    Only `subjects` may grow in an existing folder: the data of a subject depend on `seed` and the
    index of the subject.
    """

    subjects: int = _option(8, "Number of subjects.")
    minutes: float = _option(1.0, "Length of every run, minutes.")
    seed: int = _option(0, "Random seed.")
    tr: float = _option(0.72, "Repetition time, seconds.")
    runs: tuple[str, ...] = _option(
        ("rfMRI_REST1_LR", "tfMRI_MOTOR_LR"),
        "Run of every subject: rfMRI_REST1_LR or tfMRI_<task>_LR; repeatable.",
    )
    sex_effect: float = _option(
        0.4, "Difference in the correlation of two networks, men minus women."
    )
    age_effect: float = _option(
        0.5, "Change of the log amplitude of one network, per ten years of age."
    )
    trait_effect: float = _option(
        0.15, "Change of the correlation of two networks, per SD of cognition."
    )
    task_effect: float = _option(
        1.5, "Height of the response to a task block, in SD of the network at rest."
    )
    fingerprint: float = _option(
        0.1, "SD over subjects of the correlation of two networks, beside the other effects."
    )
    network_percent: float = _option(
        1.5, "SD of the network signal in grey matter, percent of the mean."
    )
    noise_percent: float = _option(1.1, "SD of the scanner noise, percent of the mean.")
    motion: float = _option(
        1.0, "Factor on head motion; 1 gives about one spike in two minutes, 0 none."
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(self.runs))
        _check_integer("subjects", self.subjects, 1, MAX_SUBJECTS)
        _check_integer("seed", self.seed, 0, 2**32 - 1)
        _check_number("tr", self.tr, 0.1, 10.0)
        _check_number("minutes", self.minutes, MIN_FRAMES * self.tr / 60, 600.0)
        _check_number("sex_effect", self.sex_effect, -1.5, 1.5)
        _check_number("age_effect", self.age_effect, -3.0, 3.0)
        _check_number("trait_effect", self.trait_effect, -1.0, 1.0)
        _check_number("task_effect", self.task_effect, -10.0, 10.0)
        _check_number("fingerprint", self.fingerprint, 0.0, 0.5)
        _check_number("network_percent", self.network_percent, 0.0, 10.0)
        _check_number("noise_percent", self.noise_percent, 0.0, 20.0)
        _check_number("motion", self.motion, 0.0, 10.0)
        if not self.runs or len(set(self.runs)) != len(self.runs):
            raise FmritokError(
                expected(
                    "wrong option",
                    "runs of the demo cohort",
                    "at least one run name, each once",
                    ", ".join(self.runs) or "none",
                    "Name each run once.",
                )
            )
        for run in self.runs:
            check_run_name(run)

    @property
    def frames(self) -> int:
        """Frames of every run."""
        return round(self.minutes * 60 / self.tr)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        fields = dataclasses.asdict(self)
        fields["runs"] = list(self.runs)
        return fields


def check_run_name(run: str) -> None:
    """Raise `FmritokError` unless `run` is an HCP run name that can be simulated."""
    match = _RUN_NAME.fullmatch(run)
    if match is None or (match[1] is not None and match[1] not in TASKS):
        raise FmritokError(
            expected(
                "wrong run name",
                "in the demo cohort",
                f"rfMRI_REST1_LR or tfMRI_<task>_LR (or REST2, RL), task one of {', '.join(TASKS)}",
                repr(run),
                "Correct the name.",
            )
        )


def is_rest(run: str) -> bool:
    """Tell whether an HCP run name is a resting-state run."""
    return run.startswith("rfMRI_")


def task_of(run: str) -> str | None:
    """Return the task of an HCP run name, ``MOTOR`` for instance, or None at rest."""
    return None if is_rest(run) else run.split("_")[1]


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        _refuse(name, value, f"an integer from {low} to {high}")


def _check_number(name: str, value: object, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type,operator]
        _refuse(name, value, f"a number from {low:g} to {high:g}")


def _refuse(name: str, value: object, wanted: str) -> None:
    raise FmritokError(
        expected(
            "wrong option",
            f"{name} of the demo cohort",
            wanted,
            repr(value),
            "Change the option.",
        )
    )
