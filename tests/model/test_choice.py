"""A backend is chosen by what its operators do here, not by what can be imported."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from fmritok.trainer.errors import ConfigError
from fmritok.trainer.model import choice
from fmritok.trainer.model.backends import PLANS, Math, SdpaByLength, Varlen
from fmritok.trainer.model.choice import Setting, choose_backend, problem_of
from fmritok.trainer.model.packing import Packing

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
LENGTHS = torch.tensor([9, 5, 9])


@pytest.fixture(autouse=True)
def _nothing_remembered():
    functions = (choose_backend, problem_of, choice._log_choice)
    for function in functions:
        function.cache_clear()
    yield
    for function in functions:
        function.cache_clear()


def _setting(device=CPU, dtype=torch.float32, *, packed=True, trains=True):
    return Setting(device, dtype, 6, 2, 16, packed, trains)


def _varlen(monkeypatch, *, groups=True, fault=None, factor=1.0):
    """Put a stand-in for torch's varlen attention in its place; return the calls it gets."""
    calls = []

    def attend(q, k, v, offsets, others, longest, other, groups):
        assert q.is_contiguous()
        assert offsets.dtype == torch.int32
        assert longest >= int(offsets.diff().max())
        calls.append((tuple(k.shape), groups))
        if fault is not None:
            raise fault
        if groups:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        assert k.shape[1] == q.shape[1]
        parts = [x.split(offsets.diff().tolist()) for x in (q, k, v)]
        done = [
            torch.nn.functional.scaled_dot_product_attention(*(x.transpose(0, 1) for x in part))
            for part in zip(*parts, strict=True)
        ]
        return factor * torch.cat(done, 1).transpose(0, 1)

    def with_groups(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, enable_gqa=False):
        return attend(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, enable_gqa)

    def without_groups(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k):
        return attend(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, False)

    module = ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = with_groups if groups else without_groups
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    monkeypatch.setattr(choice, "find_spec", lambda name: name != "xformers" or None)
    return calls


def _on_the_cpu(monkeypatch):
    """Let trials of a GPU run on the CPU."""
    trial = choice._trial
    monkeypatch.setattr(
        choice, "_trial", lambda name, setting: trial(name, setting._replace(device=CPU))
    )


@pytest.mark.parametrize("groups", [True, False])
def test_varlen_equals_float64_with_and_without_shared_heads(monkeypatch, groups):
    calls = _varlen(monkeypatch, groups=groups)
    torch.manual_seed(0)
    inputs = [torch.randn(1, n, 23, 16, requires_grad=True) for n in (6, 2, 2)]
    packing = Packing.of(torch.arange(9) < LENGTHS[:, None], CPU)
    got, wanted = (kind.of(packing).attend(*inputs) for kind in (Varlen, Math))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    for one, other in zip(*(torch.autograd.grad(x.square().sum(), inputs) for x in (got, wanted)),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    assert calls == [((23, 2 if groups else 6, 16), groups)]


def test_packed_sequences_on_a_gpu_are_varlens_if_its_operators_work(monkeypatch, caplog):
    _varlen(monkeypatch)
    _on_the_cpu(monkeypatch)
    with caplog.at_level("INFO"):
        assert choose_backend("auto", _setting(CUDA)) == "varlen"
    assert caplog.messages == ["Attention backend varlen: one kernel for packed sequences"]
    assert choose_backend("auto", _setting(CUDA, packed=False)) == "sdpa"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"fault": RuntimeError("no kernel image\nmore")}, "its operators fail here: no kernel im"),
        ({"factor": 2.0}, "its results differ by"),
    ],
)
def test_operators_that_fail_or_are_wrong_are_not_used(monkeypatch, caplog, how, said):
    _varlen(monkeypatch, **how)
    _on_the_cpu(monkeypatch)
    with caplog.at_level("INFO"):
        assert choose_backend("auto", _setting(CUDA)) == "sdpa"
    assert f"varlen: {said}" in caplog.text
    assert "xformers: xformers is not installed" in caplog.text
    with pytest.raises(ConfigError, match=rf"model\.attention: .*varlen \({said}"):
        choose_backend("varlen", _setting(CUDA))


def test_xformers_that_imports_and_then_fails_is_not_used(monkeypatch):
    """As xformers 0.0.35 beside a torch that it was not built for."""

    def fails(*args, **kwargs):
        raise NotImplementedError("No operator found for `memory_efficient_attention_forward`")

    ops, bias = ModuleType("xformers.ops"), ModuleType("xformers.ops.fmha.attn_bias")
    ops.memory_efficient_attention = fails
    bias.BlockDiagonalMask = type(
        "BlockDiagonalMask", (), {"from_seqlens": classmethod(lambda cls, n, device: cls())}
    )
    modules = {"xformers.ops": ops, "xformers.ops.fmha.attn_bias": bias}
    modules |= {name: ModuleType(name) for name in ("xformers", "xformers.ops.fmha")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(choice, "find_spec", lambda name: True)
    _on_the_cpu(monkeypatch)
    with pytest.raises(ConfigError, match="xformers .its operators fail here: No operator found"):
        choose_backend("xformers", _setting(CUDA))


def test_the_choice_on_a_cpu_is_logged_once_with_its_reason(caplog):
    with caplog.at_level("INFO"):
        assert choose_backend("auto", _setting()) == "sdpa"
        choose_backend("auto", _setting(trains=False))
    assert caplog.messages == ["Attention backend sdpa: the others need a GPU, and this is the cpu"]
    assert choose_backend("flex", _setting(trains=False)) == "flex"
    for name, said in {
        "flex": "torch has no gradient",
        "xformers": "",
        "varlen": "it needs",
    }.items():
        with pytest.raises(ConfigError, match=rf"model\.attention: .*{name} \({said}"):
            choose_backend(name, _setting())


def test_sequences_of_equal_length_share_a_call():
    packing = Packing.of(torch.arange(9) < LENGTHS[:, None], CPU)
    plan = PLANS["sdpa"](packing)
    assert isinstance(plan, SdpaByLength)
    assert plan.members == [[0, 2], [1]]
