"""A step computes on the device without asking it, compiles once, and casts weights once."""

from __future__ import annotations

import functools
from contextlib import contextmanager, nullcontext
from unittest import mock

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from fmritok.trainer.data.reading import Batch
from fmritok.trainer.model import blocks
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.objectives.build import build_objective
from fmritok.trainer.parallel.distributed import Ranks
from fmritok.trainer.recipe import build_config, override
from fmritok.trainer.training import learner, step
from fmritok.trainer.training.learner import Learner
from fmritok.trainer.training.step import BegunSteps

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = [
    "data.window=12", "model.width=16", "model.layers=2", "model.mlp_width=16",
    "train.compile=false",
]  # fmt: skip
OBJECTIVES = {
    "mtm": ["objective.name=mtm", "objective.chunk=16"],
    "mtm-random": ["objective.name=mtm", "objective.masking=random"],
    "mae": ["objective.name=mae"],
    "mae-cross": ["objective.name=mae", "objective.decoder=cross", "objective.masking=random"],
    "distill": [
        "objective.name=distill", "objective.head_width=16", "objective.projection=8",
        "objective.noise=0",  # torch has no generator of random numbers without data
    ],
}  # fmt: skip


def _learner(*options, device="cpu", ranks=None):
    config = build_config(override({}, [*SMALL, *options]))
    torch.manual_seed(0)
    model = build_objective(config, TokenLayout(4, 6))
    made = Learner(model, config, n_steps=9, device=torch.device(device), ranks=ranks or Ranks())
    made.prepare()
    return made


def _batch(lengths=(12, 5, 12), seed=0):
    generator = torch.Generator().manual_seed(seed)
    n, lengths = len(lengths), torch.tensor(lengths)
    valid = torch.arange(12) < lengths[:, None]
    tokens = torch.randint(-99, 99, (n, 12, 4, 6), dtype=torch.int8, generator=generator)
    std = 0.1 + torch.rand(n, 4, 6, generator=generator)
    times = (torch.arange(12) * 0.72).expand(n, -1).contiguous()
    draws = torch.arange(n) + 10 * seed
    return Batch(tokens * valid[..., None, None], 3 + std, std, std / 50, times, valid,
                 torch.zeros(n, dtype=torch.int64), draws, 0, n, int(lengths.sum()))  # fmt: skip


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("packing", ["true", "false"])
def test_a_step_reads_nothing_from_the_device_but_its_figures(name, packing, monkeypatch):
    """The device ``meta`` has shapes and no data: whatever reads a value from it fails."""
    made = _learner(*OBJECTIVES[name], f"model.packing={packing}", device="meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # not for meta
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    with mock.patch.object(step, "Fetch") as fetched:
        made.learn(_batch(), 0, measure=False)
    [(figures,)] = [call.args for call in fetched.call_args_list]
    assert (figures.device.type, figures.shape) == ("meta", (2,))
    with pytest.raises((RuntimeError, NotImplementedError), match=r"[Mm]eta"):
        made.learn(_batch(), 1, measure=False)


class _Fake:
    """A step that a GPU computes, or a CPU has computed."""

    def __init__(self, is_behind):
        self.is_behind = self.is_computing = is_behind


@pytest.mark.parametrize("is_behind", [True, False])
def test_figures_of_a_gpu_are_read_when_the_next_step_was_begun(is_behind):
    read = []
    begun = BegunSteps(lambda _, number: read.append(number))
    for number in range(3):
        begun.add(_Fake(is_behind), number)
        assert read == list(range(number if is_behind else number + 1))
        assert begun.is_computing == is_behind
    begun.finish()
    assert read == [0, 1, 2]
    assert not begun.is_computing


class _OnGpu(torch.Tensor):
    """Says that it lies on a GPU, and notes the streams that use it."""

    is_cuda = True
    done: list = []

    def record_stream(self, stream):
        self.done.append(("used by", stream))


class _Stream:
    def wait_stream(self, other):
        _OnGpu.done.append((self, "waits for", other))


def test_a_step_waits_for_its_batch_which_stays_until_it_was_used(monkeypatch):
    """The batch is copied in a stream of its own, beside the step before."""
    done, computing, copying = [], _Stream(), _Stream()
    monkeypatch.setattr(_OnGpu, "done", done)

    @contextmanager
    def within(stream):
        done.append(("begin", stream))
        yield
        done.append(("end", stream))

    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: computing)
    moved = (torch.zeros(2).as_subclass(_OnGpu), 7, torch.zeros(2))
    monkeypatch.setattr(Batch, "to", lambda *_: done.append("copied") or moved)
    made = _learner()
    made._copying = copying
    assert made._moved(_batch()) is moved
    assert done == [
        ("begin", copying), "copied", ("end", copying),
        (computing, "waits for", copying), ("used by", computing),
    ]  # fmt: skip


@pytest.mark.parametrize("packing", ["true", "false"])
def test_attention_is_planned_once_a_batch_not_in_every_layer(packing):
    made = _learner("model.layers=3", f"model.packing={packing}")
    with (
        mock.patch.object(blocks, "plan_attention", wraps=blocks.plan_attention) as planned,
        mock.patch.object(blocks.Packing, "of", wraps=blocks.Packing.of) as packed,
    ):
        made.learn(_batch(), 0, measure=False)
    assert planned.call_count == 1
    assert packed.call_count == (packing == "true")


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["true", "false"])
def test_compiled_layers_survive_twenty_mixes_of_lengths_and_change_no_number(packing):
    torch._dynamo.reset()
    counters.clear()
    options = [f"model.packing={packing}", "model.width=32"]
    plain = _learner(*options)
    with mock.patch.object(torch, "compile", functools.partial(torch.compile, backend="eager")):
        compiled = _learner(*options, "train.compile=true")
    generator = torch.Generator().manual_seed(0)
    graphs = []
    for mix in range(20):
        lengths = torch.randint(4, 13, (3,), generator=generator).tolist()
        batch = _batch([12, *lengths], seed=mix)
        one, other = (each.learn(batch, mix % 9, measure=False) for each in (plain, compiled))
        assert other.loss == pytest.approx(one.loss, rel=1e-4)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-3)
        graphs.append(counters["stats"]["unique_graphs"])
    assert 1 <= graphs[-1] <= 12, graphs
    assert graphs[4] == graphs[-1], graphs  # the first mixes are enough
    assert not counters["recompile_limit"], counters["recompile_limit"]


def _graphs(**options):
    """Return a learner with graphs, and what its layers are compiled with."""
    compiled = []

    def compile(function, **how):
        compiled.append(how)
        return function

    with mock.patch.object(torch, "compile", compile):
        made = _learner(
            "train.compile=true", "train.graphs=true",
            *(f"train.{name}={value}" for name, value in options.items()),
        )  # fmt: skip
    return made, compiled


def test_every_batch_of_layers_in_graphs_begins_with_a_mark_and_changes_no_number():
    """On a CPU a graph is nothing but its layer; the way there is the same."""
    plain, (made, compiled) = _learner(), _graphs()
    assert len(compiled) == 2
    assert all(how["options"]["triton.cudagraphs"] is True for how in compiled)
    with mock.patch.object(torch.compiler, "cudagraph_mark_step_begin") as mark:
        for number in range(3):
            one, other = (each.learn(_batch(), number, measure=False) for each in (plain, made))
            assert (one.loss, one.grad_norm) == (other.loss, other.grad_norm)
            assert mark.call_count == number + 1
        made.evaluate([_batch()], lambda: False)
        assert mark.call_count == 4


@pytest.mark.parametrize("options", [{"accumulate": 3}, {"graphs": "false"}])
def test_gradients_that_have_to_outlive_a_graph_are_not_in_one(options, caplog):
    made, compiled = _graphs(**options)
    assert compiled == [{}, {}]
    assert ("train.graphs has no effect" in caplog.text) == ("accumulate" in options)
    with mock.patch.object(torch.compiler, "cudagraph_mark_step_begin") as mark:
        made.learn(_batch(), 0, measure=False)
    assert not mark.called


def test_gradients_that_other_processes_wait_for_are_not_in_a_graph(monkeypatch):
    monkeypatch.setattr(learner, "DistributedDataParallel", lambda model: model)
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda f, **how: compiled.append(how) or f)
    options = ("train.compile=true", "train.graphs=true")
    for size, how in ((2, {}), (1, {"options": mock.ANY})):
        compiled.clear()
        _learner(*options, ranks=Ranks(size=size))
        assert compiled == [how, how]


class _Casts(TorchDispatchMode):
    """Counts casts of matrices from float32 to bfloat16, by their shape."""

    def __init__(self, shapes):
        super().__init__()
        self.shapes, self.count = shapes, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default:
            to = (kwargs or {}).get("dtype")
            self.count += to == torch.bfloat16 and tuple(args[0].shape) in self.shapes
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_weights_are_cast_to_bfloat16_once_a_step(checkpointing):
    made = _learner("train.dtype=bf16", "train.accumulate=3", "model.mlp_width=20",
                    f"model.checkpointing={checkpointing}")  # fmt: skip
    weights = [block.mlp.outer.weight for block in made.model.encoder.blocks]
    with _Casts({tuple(weight.shape) for weight in weights}) as casts:
        made.learn(_batch(), 0, measure=False)
    assert casts.count == len(weights)
