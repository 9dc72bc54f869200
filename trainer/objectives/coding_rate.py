"""The coding rate of embeddings, and measures of their collapse.

After SimDINO (Wu et al., arXiv 2502.10385): views are drawn together by their cosine, and the
volume that all embeddings span keeps them apart.
"""

# I rows of a view: windows, or windows and cells

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fmritok.trainer.training.distributed import sum_over_ranks, total_over_ranks

__all__ = ["Spread", "centred", "coding_rate", "collapsed_loss", "rate_loss", "spread"]


def centred(x_IZ: Tensor, *, count: bool = True) -> Tensor:
    """Return rows less their mean over all processes; rows that do not ``count`` are not in it."""
    x = x_IZ.float()
    rows = total_over_ranks(torch.tensor(float(count * len(x)), device=x.device))
    return x - sum_over_ranks((x * float(count)).sum(0)) / rows


def coding_rate(x_IZ: Tensor, *, epsilon: float, count: bool = True) -> Tensor:
    """Return (p + m) / (p m) * log det(I + p / (m eps) X^T X) / 2, over all processes.

    Computed in float64, also under autocast: in bfloat16 the determinant is noise.

    Parameters
    ----------
    x_IZ : torch.Tensor of shape (I, Z)
        Unit vectors, or means of some. ``p`` is Z, and ``m`` is I summed over the processes.
    epsilon : float
        Distortion, ``eps``.
    count : bool
        Whether the rows count. A process without windows passes rows that do not.
    """
    with torch.autocast(x_IZ.device.type, enabled=False):
        x = x_IZ.double() * float(count)
        rows = total_over_ranks(torch.tensor(float(count * len(x)), device=x.device))
        rows = rows.double()
        features = x.shape[1]
        gram_ZZ = sum_over_ranks(x.mT @ x)
        identity = torch.eye(features, dtype=gram_ZZ.dtype, device=x.device)
        factor = torch.linalg.cholesky(identity + features / (rows * epsilon) * gram_ZZ)
        half_log_det = factor.diagonal().log().sum()
        rate: Tensor = half_log_det * (features + rows) / (features * rows)
        return rate


def rate_loss(
    student_VIZ: Tensor, teacher_VIZ: Tensor, *, epsilon: float, count: bool = True
) -> Tensor:
    """Return what draws views together, less what keeps all rows apart; scalar, float32.

    The first: minus the mean cosine of the student's view i and the teacher's view j, over i != j.
    The second: the coding rate of the mean of student and teacher, averaged over the views.

    Parameters
    ----------
    student_VIZ, teacher_VIZ : torch.Tensor of shape (V, I, Z)
        Unit vectors.
    epsilon : float
    count : bool
        See :func:`coding_rate`.
    """
    student, teacher = student_VIZ.float(), teacher_VIZ.float()
    with torch.autocast(student.device.type, enabled=False):
        cosine_VV = torch.einsum("imz,jmz->ij", student, teacher) / student.shape[1]
        views = len(student)
        apart = cosine_VV.sum() - cosine_VV.diagonal().sum()
        together = -apart / (views * (views - 1))
    rates = [
        coding_rate((one + other) / 2, epsilon=epsilon, count=count)
        for one, other in zip(student, teacher, strict=True)
    ]
    return together - torch.stack(rates).mean().float()


def collapsed_loss(n_rows: Tensor, n_features: int, *, epsilon: float) -> Tensor:
    """Return the value of :func:`rate_loss` when all embeddings are one and the same vector."""
    rows = n_rows.double()
    log_det = torch.log1p(torch.tensor(n_features / epsilon, dtype=torch.float64))
    return (-1 - log_det / 2 * (n_features + rows) / (n_features * rows)).float()


class Spread(NamedTuple):
    """How far embeddings are from having collapsed."""

    std: Tensor
    """mean standard deviation of a feature, in units of 1 / sqrt(features): 0 collapsed, 1 even"""
    rank: Tensor
    """effective rank: how many directions the rows vary along, evenly counted"""


def spread(x_IZ: Tensor) -> Spread:
    """Measure the spread of unit vectors.

    The effective rank is the exponential of the entropy of the normalised singular values of the
    centred rows (Roy and Vetterli, 2007).
    """
    x = x_IZ.double()
    std = x.std(0, correction=0).mean() * x.shape[1] ** 0.5
    values = torch.linalg.svdvals(x - x.mean(0))
    shares = values / values.sum().clamp_min(1e-12)
    rank = torch.exp(torch.special.entr(shares).sum())
    return Spread(std.float(), rank.float())
