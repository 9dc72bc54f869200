"""Steps of the optimizer, the same whatever the parts and processes a step is divided into."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fmritok.trainer.config import Config
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.objectives.base import Mean, ObjectiveModule, ObjectiveOutput
from fmritok.trainer.objectives.build import compile_blocks
from fmritok.trainer.training.distributed import (
    Ranks,
    is_placeholder,
    split_batch,
    total_over_ranks,
)
from fmritok.trainer.training.optim import build_optimizer, learning_rate, weight_decay
from fmritok.trainer.training.sharding import exchanging_gradients, shard_model, whole

__all__ = ["Learner", "Step"]


class Step(NamedTuple):
    """What happened in a step, over all processes."""

    loss: float
    grad_norm: float
    lr: float
    measures: dict[str, float]
    """empty unless asked for"""
    n_windows: int
    n_frames: int

    @property
    def is_finite(self) -> bool:
        """Whether the weights were changed: they are not by a loss that is not a number."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Learner:
    """An objective and its optimizer.

    Gradients are those of the total loss, and are divided once by the number of values over all
    parts and processes: windows of unequal length weigh the same wherever they are.

    Parameters
    ----------
    model : Objective
        With its weights; it is moved to the device.
    config : Config
    n_steps : int
        Of the whole training.
    device : torch.device
    ranks : Ranks
    shard : bool
        Divide the model among the processes, instead of a copy in each.
    """

    def __init__(
        self,
        model: ObjectiveModule,
        config: Config,
        *,
        n_steps: int,
        device: torch.device,
        ranks: Ranks,
        shard: bool = False,
    ) -> None:
        self.model, self.config, self.n_steps = model, config, n_steps
        self.device, self.ranks, self.shard = device, ranks, shard
        if shard:
            shard_model(model, device, ranks.size)
        else:
            model.to(device)
        self.optimizer = build_optimizer(model, config.optim)
        self._wrapped: nn.Module = model

    def prepare(self) -> None:
        """Compile and connect the processes."""
        if self.config.train.compile:
            compile_blocks(self.model)
        if self.ranks.size > 1 and not self.shard:
            self._wrapped = DistributedDataParallel(self.model)

    def learn(self, batch: Batch, step: int, *, measure: bool) -> Step:
        """Take one step.

        Parameters
        ----------
        batch : Batch
            This process's windows of the step.
        step : int
            Steps done so far.
        measure : bool
            Whether to return the figures beside the loss.
        """
        optim = self.config.optim
        lr = learning_rate(optim, step, self.n_steps)
        for settings in self.optimizer.param_groups:
            settings["lr"] = lr
            if settings["decayed"]:
                settings["weight_decay"] = weight_decay(optim, step, self.n_steps)
        outputs = self._backward(batch, step / self.n_steps, measure=measure)
        sizes = [0 if is_placeholder(batch) else len(batch.draws), batch.n_frames]
        n_windows, n_frames = total_over_ranks(torch.tensor(sizes)).tolist()
        loss = self._total([{"loss": output.loss} for output in outputs])["loss"]
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, self.ranks.size / float(loss.n_values))
        norm = whole(nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip))
        measures = self._total([output.measures for output in outputs]) if measure else {}
        figures = {name: float(mean.value) for name, mean in measures.items()}
        done = Step(float(loss.value), norm.item(), lr, figures, n_windows, n_frames)
        if done.is_finite:
            self.optimizer.step()
            self.model.after_step((step + 1) / self.n_steps)
        self.optimizer.zero_grad(set_to_none=True)
        return done

    def evaluate(
        self, batches: Iterable[Batch], stopped: Callable[[], object]
    ) -> dict[str, float] | None:
        """Return the figures over all batches and processes; None if it was stopped between two."""
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        with torch.no_grad():
            for batch in batches:
                if stopped():
                    return None
                output = self._forward(self.model, batch, progress=1.0, measure=True)
                for name, mean in output.measures.items():
                    sums[name][0] += float(mean.total)
                    sums[name][1] += float(mean.n_values)
        totals = {name: Mean(*map(torch.tensor, pair)) for name, pair in sums.items()}
        return {name: float(mean.value) for name, mean in self._total([totals]).items()}

    def _backward(self, batch: Batch, progress: float, *, measure: bool) -> list[ObjectiveOutput]:
        """Add the gradient of the batch's total loss, a part at a time."""
        parts = split_batch(batch, self.config.train.accumulate)
        outputs = []
        for part in parts:
            with exchanging_gradients(self._wrapped, part is parts[-1]):
                output = self._forward(self._wrapped, part, progress=progress, measure=measure)
                torch.autograd.backward(output.loss.total)
            detached = Mean(output.loss.total.detach(), output.loss.n_values)
            outputs.append(output._replace(loss=detached))
        return outputs

    def _forward(
        self, model: nn.Module, batch: Batch, *, progress: float, measure: bool
    ) -> ObjectiveOutput:
        with self._autocast():
            output: ObjectiveOutput = model(
                batch.to(self.device), progress=progress, measure=measure
            )
        if is_placeholder(batch):
            loss, measures = output
            nothing = {name: Mean(m.total * 0, m.n_values * 0) for name, m in measures.items()}
            return ObjectiveOutput(Mean(loss.total * 0, loss.n_values * 0), nothing)
        return output

    def _total(self, parts: list[dict[str, Mean]]) -> dict[str, Mean]:
        """Add up the means of all parts and processes."""
        names = list(parts[0])
        if not names:
            return {}
        sums = [
            torch.stack([torch.stack([p[name].total, p[name].n_values]).double() for name in names])
            for p in parts
        ]
        total = total_over_ranks(torch.stack(sums).sum(0))
        return {name: Mean(*row) for name, row in zip(names, total.cpu().unbind(), strict=True)}

    def _autocast(self) -> torch.autocast:
        """Use bfloat16 on a GPU, and elsewhere only if it is asked for."""
        dtype = self.config.train.dtype
        use = dtype == "bf16" or (dtype == "auto" and self.device.type == "cuda")
        # The cache would hold the bfloat16 weights of all layers at once, divided or not.
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=use, cache_enabled=not self.shard
        )
