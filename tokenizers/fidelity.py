"""How exact tokens are, where it matters: in their time courses.

The time course of a token's feature is its residual from the run's mean. It is about half a percent
of the value in ``max`` intensities, so an error that is small beside the values may be as large as
the time course.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fmritok.errors import expected

__all__ = ["LEAST_FRAMES", "TOLERABLE", "TimeCourseError", "spread_frames", "time_course_error"]

#: Frames that an error is measured on, as far as a run has them.
LEAST_FRAMES = 16
#: Relative error (median) from which on users are told.
TOLERABLE = 0.01


@dataclass(frozen=True)
class TimeCourseError:
    """Relative error of time courses.

    Attributes
    ----------
    median, percentile_95 : float
        Over features.
    """

    median: float
    percentile_95: float

    def __str__(self) -> str:
        return f"{_percent(self.median)} (95th percentile of features: " \
               f"{_percent(self.percentile_95)})"  # fmt: skip


def time_course_error(
    values: npt.NDArray[np.floating], exact: npt.NDArray[np.floating]
) -> TimeCourseError:
    """Compare time courses with exact ones.

    A feature's error is the root mean square over frames of the difference of residuals, over that
    of the exact residual. Features that never change have none.

    Parameters
    ----------
    values, exact : np.ndarray of shape (n_frames, ...)
        Tokens or latents of the same frames; ``exact`` in true fp32 or float64.

    Raises
    ------
    ValueError
        If the shapes differ, or no feature changes over the frames.
    """
    if values.shape != exact.shape:
        raise ValueError(expected("Values", "of time courses", f"shape {exact.shape}",
                                  f"shape {values.shape}", "Give the same frames."))  # fmt: skip
    courses = _residuals(exact)
    spread = np.sqrt((courses**2).mean(0))
    varying = spread > 0
    if not varying.any():
        raise ValueError(expected("Exact values", "of time courses", "features that change",
                                  "none", "Give two or more frames."))  # fmt: skip
    wrong = np.sqrt(((_residuals(values) - courses) ** 2).mean(0))
    relative = wrong[varying] / spread[varying]
    return TimeCourseError(float(np.median(relative)), float(np.percentile(relative, 95)))


def spread_frames(n_frames: int, count: int = LEAST_FRAMES) -> list[int]:
    """Return the numbers of up to ``count`` frames, spread over a run."""
    places = np.linspace(0, n_frames - 1, min(count, n_frames)).round()
    return [int(place) for place in np.unique(places)]


def _residuals(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    flat = values.reshape(len(values), -1).astype(np.float64)
    return flat - flat.mean(0)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:.0f} %"
