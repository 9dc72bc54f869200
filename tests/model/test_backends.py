"""Every backend equals the float64 reference; packed sequences equal padded ones."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy

from fmritok.trainer.config import ModelConfig
from fmritok.trainer.model.backends import Sdpa
from fmritok.trainer.model.blocks import Block, _policy
from fmritok.trainer.model.choice import Setting, plan_attention
from fmritok.trainer.model.layout import TokenLayout
from fmritok.trainer.model.model import TokenTransformer
from fmritok.trainer.model.packing import Packing
from fmritok.trainer.model.rotary import rotation
from fmritok.trainer.objectives.build import compile_blocks

LENGTHS = (7, 12, 7, 1)
#: Largest absolute difference to float64, for inputs of standard deviation 1.
TOLERANCE = 1e-5
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CAN_TRAIN = ["sdpa", "math"] + (["flex"] if DEVICE.type == "cuda" else [])
KEEP = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


def _attend(q, k, v, backend, keep=None, packing=None):
    trains = torch.is_grad_enabled()
    setting = Setting(DEVICE, q.dtype, 6, 2, 16, packing is not None, trains)
    return plan_attention(backend, setting, keep, packing).attend(q, k, v)


def _qkv(batch, length):
    torch.manual_seed(0)
    return (torch.randn(batch, heads, length, 16, device=DEVICE) for heads in (6, 2, 2))


def _reference(q, k, v, sees):
    """Attend in float64 with repeated heads; ``sees`` is [B L M]."""
    q, k, v = q.double(), k.double().repeat_interleave(3, 1), v.double().repeat_interleave(3, 1)
    scores = (q @ k.mT / math.sqrt(16)).masked_fill(~sees[:, None], -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("backend", ["sdpa", "math", "flex"])
@pytest.mark.parametrize("kind", ["all", "padded", "packed"])
def test_backends_equal_float64(backend, kind):
    rows, length = (1, sum(LENGTHS)) if kind == "packed" else (4, 12)
    q, k, v = _qkv(rows, length)
    sees, keep, packing = torch.ones(rows, length, length, dtype=torch.bool), None, None
    if kind == "padded":
        keep = KEEP
        sees &= keep[:, None]
    elif kind == "packed":
        packing = Packing.of(KEEP, DEVICE)
        sequence = torch.arange(4).repeat_interleave(torch.tensor(LENGTHS))
        sees &= sequence[:, None] == sequence
    with torch.no_grad():
        got = _attend(q, k, v, backend, keep, packing).double()
    torch.testing.assert_close(got, _reference(q, k, v, sees.to(DEVICE)), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("backend", CAN_TRAIN)
def test_gradients_of_packed_sequences_are_those_of_each_alone(backend):
    inputs = [x.requires_grad_() for x in _qkv(1, sum(LENGTHS))]
    weight = torch.randn(1, 6, sum(LENGTHS), 16, device=DEVICE)
    together = _attend(*inputs, backend, packing=Packing.of(KEEP, DEVICE))
    packed = torch.autograd.grad((together * weight).sum(), inputs)
    parts = zip(*(x.split(LENGTHS, 2) for x in (*inputs, weight)), strict=True)
    alone = sum((_attend(q, k, v, backend) * w).sum() for q, k, v, w in parts)
    for one, other in zip(packed, torch.autograd.grad(alone, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=10 * TOLERANCE)


def test_a_layer_compiles_to_one_graph():
    config = ModelConfig(width=16, heads=2, mlp_width=16)
    by = rotation(torch.rand(1, 9, 4), config)
    found = torch._dynamo.explain(Block(config))(torch.randn(1, 9, 16), by, Sdpa())
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


SMALL = ModelConfig(width=32, layers=2, heads=4, kv_heads=2, mlp_width=48, registers=1)


def _model(**options):
    torch.manual_seed(0)
    return TokenTransformer(replace(SMALL, **options), TokenLayout(5, 7))


def _run(model):
    torch.manual_seed(1)
    frames, static = torch.randn(3, 9, 5, 7), torch.randn(3, 5, 7)
    valid = torch.arange(9) < torch.tensor([9, 4, 9])[:, None]
    times = (torch.arange(9) * 0.72).expand(3, -1)
    out = model(model.embed(frames), static, times, valid)
    (out.cls.square().sum() + (out.tokens * valid[..., None, None]).square().sum()).backward()
    return out, {name: p.grad for name, p in model.named_parameters()}, valid


def test_packing_equals_padding_in_values_and_gradients():
    (one, gradients, valid), (other, others, _) = _run(_model()), _run(_model(packing=False))
    torch.testing.assert_close(one.cls, other.cls, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.tokens[valid], other.tokens[valid], rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_checkpointing_changes_no_number(kind):
    (one, gradients, _), (other, others, _) = _run(_model()), _run(_model(checkpointing=kind))
    assert torch.equal(one.cls, other.cls)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], rtol=1e-5, atol=1e-6)


class _Count(TorchDispatchMode):
    """Counts how often attention is computed."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(DEVICE.type != "cpu", reason="counts the kernel of the CPU")
@pytest.mark.parametrize(("kind", "calls"), [("none", 2), ("selective", 2), ("full", 4)])
def test_selective_checkpointing_does_not_repeat_attention(kind, calls):
    model, x = _model(checkpointing=kind), torch.randn(1, 40, 5, 32, requires_grad=True)
    with _Count() as count:
        out = model(x, torch.randn(1, 5, 7), torch.arange(40.0)[None])
        out.tokens.sum().backward()
    assert count.calls == calls


@pytest.mark.slow
@pytest.mark.skipif(DEVICE.type != "cpu", reason="counts the kernel of the CPU")
@pytest.mark.parametrize(("kind", "calls"), [("selective", 2), ("full", 4)])
def test_compiled_layers_keep_attention_as_well(kind, calls, monkeypatch):
    torch._dynamo.reset()
    with monkeypatch.context() as patched:
        quick = partial(torch.compile, backend="aot_eager_decomp_partition")
        patched.setattr(torch, "compile", quick)
        model = _model(checkpointing=kind)
        compile_blocks(model)
    x, static = torch.randn(1, 40, 5, 32, requires_grad=True), torch.randn(1, 5, 7)

    def step():
        model(x, static, torch.arange(40.0)[None]).tokens.sum().backward()

    step()  # while it is compiled, attention is called on shapes alone
    with torch.profiler.profile() as profile:
        step()
    name = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert sum(event.name == name for event in profile.events()) == calls


def test_the_attention_of_every_backend_is_kept():
    from torch.nn.attention.flex_attention import flex_attention  # noqa: F401  # registers it
    from torch.nn.attention.varlen import varlen_attn  # noqa: F401

    ops = [getattr(torch.ops.aten, name).default for name in (
        "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention", "_flash_attention_forward",
        "_efficient_attention_forward",
    )]  # fmt: skip
    ops += [torch.ops.torch_attn._varlen_attn.default, torch.ops.higher_order.flex_attention]
    assert {_policy(None, op) for op in ops} == {CheckpointPolicy.MUST_SAVE}
    assert _policy(None, torch.ops.aten.mm.default) == CheckpointPolicy.PREFER_RECOMPUTE
