"""Self-distillation: a student learns to embed a view as its own moving average embeds another.

After Brain-Semantoks (Gijsen et al., arXiv 2512.11582), whose loss is that of SimDINO.
"""

# B windows, U patches, C cells (networks), W model width, Z features of an embedding, V views

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from fmritok.trainer.config import require
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.model.inputs import PatchInputs, deviations, fold_inputs, normalise_frames
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.base import Figure, Mean, ObjectiveOutput
from fmritok.trainer.objectives.coding_rate import collapsed_loss, rate_loss, spread
from fmritok.trainer.objectives.student import Student, Summary
from fmritok.trainer.objectives.views import (
    ViewConfig,
    augment,
    crop_frames,
    default_crop,
    slice_mask,
    standardize,
)
from fmritok.trainer.training.distributed import is_placeholder, total_over_ranks

__all__ = ["SelfDistillation", "network_weight", "teacher_momentum"]


def teacher_momentum(progress: float, start: float) -> float:
    """Return how much of the teacher stays in a step: from ``start`` to 1 by half a cosine."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * min(progress, 1))) / 2


def network_weight(progress: float, start: float, share: float) -> float:
    """Return the weight of the network term: from ``start`` to 0 over the first ``share``."""
    if progress >= share:
        return 0.0
    return start * (1 + math.cos(math.pi * progress / share)) / 2


class SelfDistillation(nn.Module):
    """Two crops, a teacher that is the student's moving average, and three terms.

    - The windows' embeddings (CLS): cosine across views less the coding rate.
    - ``token_weight`` x the hidden tokens: minus the cosine of the student's token and the
      teacher's, who sees all of the same view; averaged over the hidden tokens of a window.
    - A weight that falls to 0 early x the cells' means over time: the same loss as the windows'.

    With ``centre``, the mean over the batch is subtracted from the embeddings of windows. Otherwise
    a common mean raises the cosine of all pairs, and the coding rate hardly penalises it.

    The student sees each view with whole cells or a stretch of time hidden, or as it is; both see
    it augmented. The teacher is what is used after training.

    Figures reported beside ``loss``: ``loss_collapsed``, the loss if all embeddings were one
    vector; ``embedding_std`` (0 collapsed, 1 evenly spread), ``effective_rank`` (below the windows
    of a batch), ``agreement`` (cosine of student and teacher, same view), ``alignment`` (their
    cosine across the two views of a window, less that of two windows), ``loss_cls``,
    ``loss_tokens``. Only ``alignment``, on held-out subjects, tells that views are known to belong
    together: embeddings that spread around a common mean have a low loss without it.

    Parameters
    ----------
    encoder : TokenTransformer
    config : SelfDistillation.Config
    window : int
        Frames of the windows that crops are taken from.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ViewConfig):
        """Options of self-distillation.

        Attributes
        ----------
        summary : {"cls", "mean", "cells"}
            Compare CLS of two views, the mean of their tokens, or the means of each cell's tokens
            over time, side by side.
        centre : bool
            Subtract the mean over the batch from the embeddings. Each part of a step
            (``train.accumulate``) has a mean of its own, and needs several windows.
        momentum : float
            Share of the teacher that stays in each step, at the start; it rises to 1.
        head_width, projection : int
            Hidden and final width of the head.
        epsilon : float
            Distortion of the coding rate.
        token_weight : float
            Weight of the hidden tokens.
        network_weight, network_share : float
            Weight of the networks (or cells) at the start; it falls to 0 over the first
            ``network_share`` of the training.
        """

        name: str = "distill"
        summary: Summary = "cls"
        centre: bool = False
        momentum: float = 0.99
        head_width: int = 256
        projection: int = 64
        epsilon: float = 0.05
        token_weight: float = 0.5
        network_weight: float = 0.5
        network_share: float = 0.05

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("head_width", "projection"):
                value = getattr(self, name)
                require(value >= 1, f"objective.{name}", "1 or more", value)
            for name in ("momentum", "network_share"):
                value = getattr(self, name)
                require(0 <= value <= 1, f"objective.{name}", "between 0 and 1", value)
            for name in ("token_weight", "network_weight"):
                value = getattr(self, name)
                require(value >= 0, f"objective.{name}", "0 or more", value)
            require(self.epsilon > 0, "objective.epsilon", "above 0", self.epsilon)

    figures: ClassVar = (
        Figure("loss", "loss_collapsed", "self-distillation", "collapsed embedding"),
    )

    def __init__(self, encoder: TokenTransformer, config: Config, *, window: int) -> None:
        super().__init__()
        self.config = config
        self.window = config.crop or default_crop(
            window, encoder.grid.layout.patch, apart=config.apart
        )
        self.student = Student(
            encoder,
            summary=config.summary,
            centre=config.centre,
            head_width=config.head_width,
            projection=config.projection,
        )
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    @property
    def encoder(self) -> TokenTransformer:
        """The student's encoder."""
        return self.student.encoder

    @property
    def features(self) -> TokenTransformer:
        """The teacher's encoder, which is used after training."""
        return self.teacher.encoder

    def forward(
        self, batch: Batch, *, progress: float = 1.0, measure: bool = False
    ) -> ObjectiveOutput:
        """Return the loss of a batch, and with ``measure`` the figures beside it."""
        config, counts = self.config, not is_placeholder(batch)
        students, teachers, token_losses, shares = [], [], [], []
        frames_BTSD = normalise_frames(deviations(batch), self.encoder.config, self.encoder.grid)
        for view in range(2):
            inputs = self._view(batch, frames_BTSD, view)
            B, U, C, _ = inputs.patches.shape
            hidden_BUC = slice_mask(
                batch.draws, inputs.valid, config, n_patches=U, n_cells=C, view=view
            )
            student = self.student(inputs, hidden_BUC, count=counts)
            with torch.no_grad():
                teacher = self.teacher(inputs, torch.zeros_like(hidden_BUC), count=counts)
            token_losses.append(_token_loss(student[1], teacher[1], hidden_BUC))
            shares.append(hidden_BUC.any((1, 2)).float().mean())
            students.append(student)
            teachers.append(teacher)

        rate = partial(rate_loss, epsilon=config.epsilon, count=counts)
        cls = [torch.stack([view[0] for view in views]) for views in (students, teachers)]
        loss_cls = rate(*cls)
        loss_tokens = torch.stack(token_losses).mean()
        loss = loss_cls + config.token_weight * loss_tokens
        weight = network_weight(progress, config.network_weight, config.network_share)
        if weight:
            cells = [
                torch.stack([v[2].flatten(0, 1) for v in views]) for views in (students, teachers)
            ]
            loss = loss + weight * rate(*cells)

        n = torch.tensor(float(counts * B), device=loss.device)
        measures = {}
        if measure:
            with torch.no_grad():
                collapsed = self._collapsed(torch.stack(shares).mean(), weight, n, C)
                shape = spread(cls[1].mean(0))
                figures = {
                    "loss": loss,
                    "loss_collapsed": collapsed,
                    "loss_cls": loss_cls,
                    "loss_tokens": loss_tokens,
                    "embedding_std": shape.std,
                    "effective_rank": shape.rank,
                    "agreement": (cls[0] * cls[1]).sum(-1).mean(),
                    "alignment": _alignment(*cls, count=counts),
                }
                measures = {name: Mean(value.detach() * n, n) for name, value in figures.items()}
        return ObjectiveOutput(Mean(loss * n, n), measures)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student."""
        momentum = teacher_momentum(progress, self.config.momentum)
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)

    def _view(self, batch: Batch, frames_BTSD: Tensor, view: int) -> PatchInputs:
        """Crop and augment deviations, then give them the model's input form."""
        model = self.encoder.config
        crop = crop_frames(
            frames_BTSD,
            batch.times,
            batch.valid,
            batch.draws,
            length=self.window,
            view=view,
            apart=self.config.apart,
        )
        frames_BTSD = standardize(crop) if self.config.standardize else crop.frames
        frames_BTSD = augment(frames_BTSD, batch.draws, self.config, view=view)
        grid = self.encoder.grid
        if grid.layout.kind == "flatmap":
            frames_BTSD = frames_BTSD * grid.known
        if model.input == "absolute" and grid.layout.has_mean:
            frames_BTSD = torch.addcmul(batch.mean[:, None], batch.std[:, None], frames_BTSD)
        if crop.valid is not None:
            frames_BTSD = frames_BTSD.masked_fill(~crop.valid[:, :, None, None], 0.0)
        static_BSD = batch.mean if model.input == "both" else None
        return fold_inputs(frames_BTSD, static_BSD, crop.times, crop.valid, grid)

    def _collapsed(self, hidden_share: Tensor, weight: float, n: Tensor, n_cells: int) -> Tensor:
        """Return the loss if all embeddings were one vector."""
        config, rows = self.config, total_over_ranks(n)
        windows, cells = (
            collapsed_loss(rows * each, config.projection, epsilon=config.epsilon)
            for each in (1, n_cells)
        )
        if config.centre:  # what is left of one vector is 0
            windows = torch.zeros_like(windows)
        return windows - config.token_weight * hidden_share + weight * cells


def _alignment(student_VBZ: Tensor, teacher_VBZ: Tensor, *, count: bool) -> Tensor:
    """Return the cosine of a window's views less that of two windows' views; 0 of one window.

    Over all processes; rows that do not ``count`` are left out.
    """
    student, teacher = student_VBZ.double() * count, teacher_VBZ.double().flip(0)
    same = total_over_ranks((student * teacher).sum()) / len(student)
    sums = [total_over_ranks((x * count).sum(1)) for x in (student, teacher)]
    rows = total_over_ranks(torch.tensor(float(count * student.shape[1]), device=student.device))
    others = (sums[0] * sums[1]).sum() / len(student) - same
    return (same / rows - others / (rows * (rows - 1)).clamp_min(1)).float() * (rows > 1)


def _token_loss(student_BUCZ: Tensor, teacher_BUCZ: Tensor, hidden_BUC: Tensor) -> Tensor:
    """Average minus the cosine over each window's hidden tokens, then over all windows."""
    cosine_BUC = (student_BUCZ * teacher_BUCZ).sum(-1) * hidden_BUC
    count_B = hidden_BUC.sum((1, 2)).clamp_min(1)
    return -(cosine_BUC.sum((1, 2)) / count_B).mean()
