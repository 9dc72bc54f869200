"""Self-distillation: a student predicts how its moving average embeds another view.

After Brain-Semantoks (Gijsen et al., arXiv 2512.11582), whose loss is that of SimDINO.
"""

# B windows, U patches, C cells (networks), W model width, Z features of an embedding, V views

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from fmritok.device import send
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.model.inputs import PatchInputs, deviations, fold_inputs, normalise_frames
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.base import Figure, Mean, ObjectiveOutput
from fmritok.trainer.objectives.coding_rate import (
    alignment,
    collapsed_loss,
    rate_loss,
    spread,
    token_loss,
)
from fmritok.trainer.objectives.student import DistillConfig, Embedded, Student
from fmritok.trainer.objectives.views import (
    augment,
    crop_frames,
    default_crop,
    slice_mask,
    standardize,
)
from fmritok.trainer.parallel.distributed import is_placeholder, total_over_ranks

__all__ = ["SelfDistillation", "network_weight", "teacher_momentum"]


def teacher_momentum(progress: float, start: float) -> float:
    """Return the momentum of the teacher: half a cosine from ``start`` to 1."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * min(progress, 1))) / 2


def network_weight(progress: float, start: float, share: float) -> float:
    """Return the weight of the cells: half a cosine from ``start`` to 0 over the ``share``."""
    if progress >= share:
        return 0.0
    return start * (1 + math.cos(math.pi * progress / share)) / 2


class SelfDistillation(nn.Module):
    """Self-distillation: match the teacher, a moving average, on two crops of a window.

    The loss is a sum of three terms:

    - Embeddings of windows (CLS): minus the cosine across views, minus the coding rate.
    - Hidden tokens, times ``token_weight``: minus the cosine of the student's and the teacher's
      token of one view. The teacher sees the whole view. Averaged over the hidden tokens.
    - Means of cells over time, times a weight that falls to 0 early: the same loss as of windows.

    With ``centre``, the mean over the batch is subtracted from the embeddings of windows. Otherwise
    a common mean raises the cosine of all pairs, and the coding rate hardly penalises it.

    Views are augmented. In the student's view, whole cells or consecutive frames may be hidden. The
    teacher is the encoder to use after training.

    Figures reported beside ``loss``: ``loss_collapsed``, the loss if all embeddings were one
    vector; ``embedding_std`` (0 collapsed, 1 evenly spread), ``effective_rank`` (below the number
    of windows), ``agreement`` (cosine of student and teacher, same view), ``alignment`` (their
    cosine across the two views of a window, minus that of different windows), ``loss_cls``,
    ``loss_tokens``. Only ``alignment`` on held-out subjects shows that views of one window are
    recognised: embeddings that spread around a common mean have a low loss, too.

    Parameters
    ----------
    encoder : TokenTransformer
    config : SelfDistillation.Config
    window : int
        Frames of the windows that crops are taken from.
    """

    Config = DistillConfig
    figures: ClassVar = (
        Figure("loss", "loss_collapsed", "self-distillation", "collapsed embedding"),
    )

    def __init__(self, encoder: TokenTransformer, config: DistillConfig, *, window: int) -> None:
        super().__init__()
        self.config = config
        self.window = config.crop or default_crop(
            window, encoder.grid.layout.patch, apart=config.apart
        )
        self.student = Student(encoder, config)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()

    @property
    def encoder(self) -> TokenTransformer:
        """The student's encoder."""
        return self.student.encoder

    @property
    def features(self) -> TokenTransformer:
        """The teacher's encoder, which is used after training."""
        return self.teacher.encoder

    def train(self, mode: bool = True) -> SelfDistillation:
        """Switch dropout of the student on or off; the teacher has none."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(
        self, batch: Batch, *, progress: float = 1.0, measure: bool = False
    ) -> ObjectiveOutput:
        """Return the loss of a batch and, with ``measure``, its measures."""
        config, counts = self.config, not is_placeholder(batch)
        students, teachers, hidden = [], [], []
        frames_BTSD = normalise_frames(deviations(batch), self.encoder.config, self.encoder.grid)
        for view in range(2):
            inputs = self._view(batch, frames_BTSD, view)
            B, U, C, _ = inputs.patches.shape
            hidden_BUC = slice_mask(
                batch.draws, inputs.host_valid, config, n_patches=U, n_cells=C, view=view
            )
            hidden_BUC = send(hidden_BUC, inputs.patches.device)
            student = self.student(inputs, hidden_BUC, count=counts)
            with torch.no_grad():
                teacher = self.teacher(inputs, torch.zeros_like(hidden_BUC), count=counts)
            hidden.append(hidden_BUC)
            students.append(student)
            teachers.append(teacher)
        weight = network_weight(progress, config.network_weight, config.network_share)
        losses = self.losses(students, teachers, hidden, weight=weight, count=counts)
        loss = losses["total"]

        n = torch.full((), float(counts * B), device=loss.device)
        measures = {}
        if measure:
            with torch.no_grad():
                some = torch.stack(hidden).any(-1).any(-1).float().mean()
                collapsed = self._collapsed(some, weight, n, C)
                cls = [torch.stack([view[0] for view in views]) for views in (students, teachers)]
                shape = spread(cls[1].mean(0))
                figures = {
                    "loss": loss,
                    "loss_collapsed": collapsed,
                    "loss_cls": losses["cls"],
                    "loss_tokens": losses["tokens"],
                    "embedding_std": shape.std,
                    "effective_rank": shape.rank,
                    "agreement": (cls[0] * cls[1]).sum(-1).mean(),
                    "alignment": alignment(*cls, count=counts),
                }
                measures = {name: Mean(value.detach() * n, n) for name, value in figures.items()}
        return ObjectiveOutput(Mean(loss * n, n), measures)

    def losses(
        self,
        students: Sequence[Embedded],
        teachers: Sequence[Embedded],
        hidden: Sequence[Tensor],
        *,
        weight: float,
        count: bool = True,
    ) -> dict[str, Tensor]:
        """Return the three terms and their sum; scalars, float32.

        Parameters
        ----------
        students, teachers : sequence of Embedded
            By view.
        hidden : sequence of torch.Tensor of shape (B, U, C), bool
            Tokens hidden from the student, by view.
        weight : float
            Weight of the networks.
        count : bool
            False for a placeholder; see :func:`coding_rate.coding_rate`.

        Returns
        -------
        dict of str to torch.Tensor
            ``cls``; ``tokens``, without its weight; ``networks``, times its weight; ``total``.
        """
        rate = partial(rate_loss, epsilon=self.config.epsilon, count=count)
        pairs = (students, teachers)
        losses = {
            "cls": rate(*(torch.stack([view[0] for view in views]) for views in pairs)),
            "tokens": torch.stack([
                token_loss(student[1], teacher[1], hidden_BUC)
                for student, teacher, hidden_BUC in zip(*pairs, hidden, strict=True)
            ]).mean(),
        }  # fmt: skip
        losses["networks"] = torch.zeros_like(losses["cls"])
        if weight:
            cells = (torch.stack([view[2].flatten(0, 1) for view in views]) for views in pairs)
            losses["networks"] = weight * rate(*cells)
        tokens = self.config.token_weight * losses["tokens"]
        losses["total"] = losses["cls"] + tokens + losses["networks"]
        return losses

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student."""
        momentum = teacher_momentum(progress, self.config.momentum)
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)

    def _view(self, batch: Batch, frames_BTSD: Tensor, view: int) -> PatchInputs:
        """Crop and augment deviations, then convert them to the model's input form."""
        model = self.encoder.config
        crop = crop_frames(
            frames_BTSD,
            batch.times,
            batch.valid if batch.host_valid is None else batch.host_valid,
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
        valid_BT = None
        if crop.valid is not None:
            valid_BT = send(crop.valid, frames_BTSD.device)
            frames_BTSD = frames_BTSD.masked_fill(~valid_BT[:, :, None, None], 0.0)
        static_BSD = batch.mean if model.input == "both" else None
        return fold_inputs(frames_BTSD, static_BSD, crop.times, valid_BT, grid, crop.valid)

    def _collapsed(self, hidden_share: Tensor, weight: float, n: Tensor, n_cells: int) -> Tensor:
        """Return the loss if all embeddings were one vector."""
        config, rows = self.config, total_over_ranks(n)
        windows, cells = (
            collapsed_loss(rows * each, config.projection, epsilon=config.epsilon)
            for each in (1, n_cells)
        )
        if config.centre:  # one vector minus its mean is 0
            windows = torch.zeros_like(windows)
        return windows - config.token_weight * hidden_share + weight * cells
