"""Fit and plot the power law of loss against data, L(n) = a + b * n^-c, with its uncertainty.

a is the loss for infinite data, b the excess loss for n = 1, c the exponent of its decrease.
"""

# S seeds, N numbers of subjects, C candidate exponents, R resamplings

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy.optimize import minimize_scalar

EXPONENTS = (0.02, 5.0)
_STARTS = 60
_SPAN = (5, 95)  # percentiles

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    a: float
    b: float
    c: float

    def __call__(self, n: npt.ArrayLike) -> Floats:
        return self.a + self.b * np.asarray(n, np.float64) ** -self.c

    @property
    def at_the_edge(self) -> bool:
        """Whether the exponent is at the edge of the candidates: the data do not determine it."""
        return not 1.01 * EXPONENTS[0] < self.c < 0.99 * EXPONENTS[1]


def fit(n: Floats, loss: Floats) -> PowerLaw:
    """Return the least-squares fit with b >= 0.

    For a given c, the best a and b are known in closed form. So one number is left to search: c,
    from the best of many starts, evenly spread over its logarithm.
    """

    def solve(log_c: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
        x_CN = (n / n.max()) ** -np.exp(np.atleast_1d(log_c))[:, None]
        spread_CN = x_CN - x_CN.mean(1, keepdims=True)
        b_C = np.maximum(spread_CN @ loss / np.square(spread_CN).sum(1), 0.0)
        a_C = loss.mean() - b_C * x_CN.mean(1)
        error_CN = loss - a_C[:, None] - b_C[:, None] * x_CN
        return a_C, b_C, np.square(error_CN).sum(1)

    starts = np.linspace(*np.log(EXPONENTS), _STARTS)
    best = int(np.argmin(solve(starts)[2]))
    within = (starts[max(best - 1, 0)], starts[min(best + 1, _STARTS - 1)])
    found = minimize_scalar(lambda log_c: solve(log_c)[2][0], bounds=within, method="bounded",
                            options={"xatol": 1e-7})  # fmt: skip
    log_c = min((float(found.x), float(starts[best])), key=lambda one: float(solve(one)[2][0]))
    a, b = (float(part[0]) for part in solve(log_c)[:2])
    c = float(np.exp(log_c))
    return PowerLaw(a, b * float(n.max()) ** c, c)


def resample(n: Floats, loss_SN: Floats, *, times: int, seed: int = 0) -> list[PowerLaw]:
    """Fit resampled data: the fit plus residuals drawn with replacement.

    The offset of each seed (its held-out subjects) and the remaining residuals are resampled
    separately. Both are scaled for the degrees of freedom of the fit.
    """
    seeds, sizes = loss_SN.shape
    mean_N = fit(n, loss_SN.mean(0))(n)
    error_SN = loss_SN - mean_N
    offset_S = error_SN.mean(1)
    rest_SN = error_SN - offset_S[:, None]
    offset_S = (offset_S - offset_S.mean()) * np.sqrt(seeds / max(seeds - 1, 1))
    rest_SN = rest_SN * np.sqrt(rest_SN.size / (rest_SN.size - seeds - 2))
    generator = np.random.default_rng(seed)
    laws = []
    for _ in range(times):
        offset = generator.choice(offset_S, (seeds, 1))
        rest = generator.choice(rest_SN.ravel(), rest_SN.shape)
        laws.append(fit(n, (mean_N + offset + rest).mean(0)))
    return laws


def interval(values: npt.ArrayLike) -> tuple[float, float]:
    """Return the 5th and the 95th percentile."""
    low, high = np.percentile(np.asarray(values), _SPAN)
    return float(low), float(high)


def draw(
    out: Path, n: Floats, loss_SN: Floats, law: PowerLaw, laws: list[PowerLaw], label: str
) -> None:
    """Plot losses and the law with its 90 % band, up to twice the data."""
    picture = Figure(figsize=(6, 4), layout="constrained")
    axes = picture.subplots()
    along = np.geomspace(n.min(), 2 * n.max(), 100)
    band = np.percentile([one(along) for one in laws], _SPAN, axis=0)
    axes.fill_between(along, *band, color="tab:blue", alpha=0.15, lw=0, label="90 %")
    seen = along <= n.max()
    text = f"{law.a:.4g} + {law.b:.3g} n$^{{-{law.c:.2f}}}$"
    axes.plot(along[seen], law(along[seen]), color="tab:blue", label=text)
    axes.plot(along[~seen], law(along[~seen]), color="tab:blue", ls=":")
    each = np.broadcast_to(n, loss_SN.shape).ravel()
    axes.plot(each, loss_SN.ravel(), ".", ms=5, color="0.6", label="one training")
    axes.plot(n, loss_SN.mean(0), "o", ms=5, color="tab:orange", label="mean of seeds")
    axes.set(xscale="log", xlabel="subjects trained on", ylabel=label)
    axes.xaxis.set_minor_locator(NullLocator())
    ticks = [*n, 2 * n.max()]
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    axes.legend(frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(out, dpi=120)
