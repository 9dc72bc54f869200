"""Errors of predictions: what is computed beside a loss needs no memory of its own."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fmritok.trainer.config import ModelConfig
from fmritok.trainer.data.reading import Batch
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.objectives.mae import MaskedAutoencoder
from fmritok.trainer.objectives.mtm import MaskedTokenModelling


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of tensors that were made within it and are still alive."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.alive = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage):
        place = storage.data_ptr()
        if place and place not in self.alive:
            self.alive[place] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, place)

    def _forget(self, place):
        self.now -= self.alive.pop(place, 0)


def _batch(B=2, T=96, S=12, D=192):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(-99, 99, (B, T, S, D), generator=generator, dtype=torch.int8)
    std = 0.1 + torch.rand(B, S, D, generator=generator)
    return Batch(tokens, 3 + std, std, std / 50, torch.arange(T).expand(B, T) * 0.72, None,
                 torch.arange(B), torch.arange(B) + 11, 0, B, B * T)  # fmt: skip


@pytest.mark.parametrize("masking", ["tube", "random"])
@pytest.mark.parametrize("form", ["residual", "absolute"])
@pytest.mark.parametrize("objective", [MaskedTokenModelling, MaskedAutoencoder])
def test_a_step_with_measures_and_a_validation_need_no_more_memory(objective, form, masking):
    """A tenth more at most, where predictions are the largest part of a step by far."""
    options = {"masking": masking, "chunk": 64}
    if objective is MaskedAutoencoder:
        options |= {"decoder": "cross", "decoder_width": 8}
    model = ModelConfig(width=8, layers=1, heads=1, mlp_width=8, input=form)
    encoder = TokenTransformer(model, TokenLayout(12, 192))
    model = objective(encoder, objective.Config(**options), window=96)
    batch, peaks = _batch(), []
    for measure in (False, True):
        with PeakMemory() as memory:
            model(batch, measure=measure).loss.total.backward()
        model.zero_grad()
        peaks.append(memory.peak)
    with PeakMemory() as memory, torch.no_grad():
        model(batch, measure=True)
    peaks.append(memory.peak)
    assert peaks[0] > batch.tokens.numel() * 4, "something was not counted"
    assert max(peaks[1:]) <= 1.1 * peaks[0]
