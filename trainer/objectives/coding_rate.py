"""Losses of embeddings: cosine and coding rate; measures of their collapse.

After SimDINO (Wu et al., arXiv 2502.10385): the cosine of views is maximised, and the coding rate
of all embeddings prevents their collapse.
"""

# I rows of a view: windows, or windows and cells

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fmritok.trainer.parallel.distributed import sum_over_ranks, total_over_ranks

__all__ = [
    "Spread", "alignment", "centred", "coding_rate", "collapsed_loss", "rate_loss", "spread",
    "token_loss",
]  # fmt: skip


def centred(x_IZ: Tensor, *, count: bool = True) -> Tensor:
    """Subtract the mean of the rows of all processes; rows that do not ``count`` are not in it."""
    x = x_IZ.float()
    rows = total_over_ranks(torch.full((), float(count * len(x)), device=x.device))
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
        rows = total_over_ranks(torch.full((), float(count * len(x)), device=x.device))
        rows = rows.double()
        features = x.shape[1]
        gram_ZZ = sum_over_ranks(x.mT @ x)
        identity = torch.eye(features, dtype=gram_ZZ.dtype, device=x.device)
        gram_ZZ = identity + features / (rows * epsilon) * gram_ZZ
        factor = torch.linalg.cholesky_ex(gram_ZZ).L  # without waiting for a check
        half_log_det = factor.diagonal().log().sum()
        rate: Tensor = half_log_det * (features + rows) / (features * rows)
        return rate


def rate_loss(
    student_VIZ: Tensor, teacher_VIZ: Tensor, *, epsilon: float, count: bool = True
) -> Tensor:
    """Return minus the cosine across views, minus the coding rate; scalar, float32.

    The cosine is averaged over the student's view i and the teacher's view j, for i != j. The
    coding rate is that of the mean of student and teacher, averaged over the views.

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
    """Return the value of :func:`rate_loss` if all embeddings are the same vector."""
    rows = n_rows.double()
    log_det = torch.log1p(torch.tensor(n_features / epsilon, dtype=torch.float64))
    return (-1 - log_det / 2 * (n_features + rows) / (n_features * rows)).float()


class Spread(NamedTuple):
    """Measures of the collapse of embeddings."""

    std: Tensor
    """mean standard deviation of a feature, in units of 1 / sqrt(features): 0 collapsed, 1 even"""
    rank: Tensor
    """effective rank: number of directions along which the rows vary"""


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


def alignment(student_VBZ: Tensor, teacher_VBZ: Tensor, *, count: bool) -> Tensor:
    """Return the mean cosine of views of one window, minus that of different windows.

    Rows of all processes are used, but those that do not ``count``. Of a single window, it is 0.
    """
    student, teacher = student_VBZ.double() * count, teacher_VBZ.double().flip(0)
    same = total_over_ranks((student * teacher).sum()) / len(student)
    sums = [total_over_ranks((x * count).sum(1)) for x in (student, teacher)]
    rows = total_over_ranks(torch.full((), float(count * student.shape[1]), device=student.device))
    others = (sums[0] * sums[1]).sum() / len(student) - same
    return (same / rows - others / (rows * (rows - 1)).clamp_min(1)).float() * (rows > 1)


def token_loss(student_BUCZ: Tensor, teacher_BUCZ: Tensor, hidden_BUC: Tensor) -> Tensor:
    """Return minus the mean cosine of each window's hidden tokens, averaged over windows."""
    cosine_BUC = (student_BUCZ * teacher_BUCZ).sum(-1) * hidden_BUC
    count_B = hidden_BUC.sum((1, 2)).clamp_min(1)
    return -(cosine_BUC.sum((1, 2)) / count_B).mean()
