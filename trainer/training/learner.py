"""Optimizer steps. Parts and processes that a step is divided into do not change its result."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fmritok.device import compiles_by_default
from fmritok.trainer.config import Config
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.objectives.base import Mean, ObjectiveModule, ObjectiveOutput
from fmritok.trainer.objectives.build import compile_blocks
from fmritok.trainer.parallel.distributed import (
    Ranks,
    is_placeholder,
    split_batch,
    total_over_ranks,
)
from fmritok.trainer.parallel.sharding import exchanging_gradients, shard_model, whole
from fmritok.trainer.training.optim import (
    build_optimizer,
    learning_rate,
    parameter_groups,
    weight_decay,
)
from fmritok.trainer.training.step import Step
from fmritok.trainer.training.stretching import stretched

__all__ = ["Learner"]

_logger = logging.getLogger(__name__)


class Learner:
    """An objective and its optimizer.

    Gradients of the summed loss are divided once, by the number of values over all parts and
    processes. Each value therefore has the same weight in every part and process.

    Parameters
    ----------
    model : Objective
        Objective with its weights; it is moved to the device.
    config : Config
    n_steps : int
        Steps of the whole training.
    device : torch.device
    ranks : Ranks
    shard : bool
        Divide the model among the processes, instead of a copy in each.
    groups : list of dict, optional
        Groups of parameters, each with ``decayed`` and ``scale``, its share of the learning rate.
        Default: see :func:`fmritok.trainer.training.optim.parameter_groups`.
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
        groups: list[dict[str, Any]] | None = None,
    ) -> None:
        self.model, self.config, self.n_steps = model, config, n_steps
        self.device, self.ranks, self.shard = device, ranks, shard
        dtype = config.train.dtype
        drops = (
            config.model.input_dropout,
            config.model.mlp_dropout,
            config.model.attention_dropout,
            config.model.drop_path,
        )
        self._drops = any(drops)
        self._bf16 = dtype == "bf16" or (dtype == "auto" and device.type == "cuda")
        if shard:
            shard_model(model, device, ranks.size, bf16=self._bf16)
        else:
            model.to(device)
        self._weights = list(model.parameters())  # to look for them costs a millisecond
        groups = groups or parameter_groups(model, config.optim.decay)
        self.optimizer = build_optimizer(groups, config.optim)
        self._wrapped: nn.Module = model
        self._graphs = False
        self._copying: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def prepare(self) -> None:
        """Compile the model, and connect it to the other processes."""
        compiles = self.config.train.compile
        if compiles_by_default(self.device) if compiles is None else compiles:
            # Graphs write gradients where they did before: parts of a batch, or other processes
            # that still send them, would lose theirs.
            alone = self.ranks.size == 1 and self.config.train.accumulate == 1
            self._graphs = self.config.train.graphs and alone
            compile_blocks(self.model, graphs=self._graphs)
        if self.config.train.graphs and not self._graphs and self.ranks.is_first:
            _logger.warning("train.graphs has no effect: it needs compiled layers, one process and "
                            "train.accumulate: 1")  # fmt: skip
        if self.ranks.size > 1 and not self.shard:
            self._wrapped = DistributedDataParallel(self.model)

    def learn(self, batch: Batch, step: int, *, measure: bool) -> Step:
        """Begin one step. The host waits for nothing that a GPU computes.

        Parameters
        ----------
        batch : Batch
            This process's windows of the step.
        step : int
            Steps done so far.
        measure : bool
            Whether to return measures, too.
        """
        optim = self.config.optim
        lr = learning_rate(optim, step, self.n_steps)
        for settings in self.optimizer.param_groups:
            settings["lr"] = lr * settings["scale"]
            if settings["decayed"]:
                settings["weight_decay"] = weight_decay(optim, step, self.n_steps)
        outputs = self._backward(batch, step / self.n_steps, measure=measure)
        sizes = [0 if is_placeholder(batch) else len(batch.draws), batch.n_frames]
        n_windows, n_frames = total_over_ranks(torch.tensor(sizes)).tolist()
        totals = self._total([{"": output.loss, **output.measures} for output in outputs])
        gradients = [p.grad for p in self._weights if p.grad is not None]
        torch._foreach_mul_(gradients, (self.ranks.size / totals[""].n_values).float())
        norm = whole(nn.utils.clip_grad_norm_(self._weights, optim.clip or math.inf))
        self.optimizer.step()
        self.model.after_step(step / self.n_steps)
        self.optimizer.zero_grad(set_to_none=True)
        measures = {name: mean.value for name, mean in totals.items()}
        loss = measures.pop("")
        return Step(loss, norm, measures, lr=lr, n_windows=n_windows, n_frames=n_frames)

    def evaluate(
        self, batches: Iterable[Batch], stopped: Callable[[], object]
    ) -> dict[str, float] | None:
        """Return the measures over all batches and processes; None if it was stopped."""
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        with torch.no_grad(), _evaluating(self.model):
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
        """Accumulate the gradient of the batch's summed loss over its parts."""
        parts = split_batch(batch, self.config.train.accumulate)
        outputs = []
        with self.autocast():  # one for all parts: weights are cast to bfloat16 once a step
            for part in parts:
                with exchanging_gradients(self._wrapped, part is parts[-1]):
                    seen = stretched(self._moved(part), self.config.data)
                    output = self._forward(self._wrapped, seen, progress=progress, measure=measure)
                    with torch.autocast(self.device.type, enabled=False):
                        torch.autograd.backward(output.loss.total)
                detached = Mean(output.loss.total.detach(), output.loss.n_values)
                outputs.append(output._replace(loss=detached))
        return outputs

    def _moved(self, batch: Batch) -> Batch:
        """Copy a batch to the device, while a GPU still computes the step before."""
        if self._copying is None:
            return batch.to(self.device)
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copying):
            moved = batch.to(self.device)
        computing.wait_stream(self._copying)
        for value in moved:
            if isinstance(value, Tensor) and value.is_cuda:
                value.record_stream(computing)
        return moved

    def _forward(
        self, model: nn.Module, batch: Batch, *, progress: float, measure: bool
    ) -> ObjectiveOutput:
        if self._drops:
            # A resumed training repeats itself: dropout, too, follows from the windows' numbers.
            torch.manual_seed(int(batch.draws[0]))
        if self._graphs:  # results of the last batch may be overwritten from here on
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with self.autocast():
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
        return {name: Mean(*row) for name, row in zip(names, total.unbind(), strict=True)}

    def autocast(self) -> torch.autocast:
        """Use bfloat16 on a GPU; on the CPU only with ``train.dtype=bf16``."""
        # With sharding, the cache would hold the bfloat16 weights of all layers at once.
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self._bf16, cache_enabled=not self.shard
        )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off."""
    trains = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(trains)
