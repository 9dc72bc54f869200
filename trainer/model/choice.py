"""Choose the backend of attention: what a backend needs is tried out, once for each setting."""

from __future__ import annotations

import logging
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from fmritok.errors import expected
from fmritok.trainer.config import Backend
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.faults import reason
from fmritok.trainer.model.backends import PLANS, Flex, Math, Plan, Sdpa
from fmritok.trainer.model.packing import Packing

__all__ = ["Setting", "choose_backend", "plan_attention", "problem_of"]

_logger = logging.getLogger(__name__)

#: Largest difference from the reference that a trial accepts, in bf16, of values of about 1.
_TOLERANCE = 0.1


class Setting(NamedTuple):
    """What decides whether a backend can be used."""

    device: torch.device
    dtype: torch.dtype
    heads: int
    kv_heads: int
    head_dim: int
    packed: bool
    trains: bool


def plan_attention(
    wanted: Backend, setting: Setting, keep_BM: Tensor | None, packing: Packing | None = None
) -> Plan:
    """Plan the attention of a batch, for all layers.

    Parameters
    ----------
    wanted : {"auto", "sdpa", "varlen", "xformers", "flex", "math"}
    setting : Setting
    keep_BM : torch.Tensor of shape (B, M), bool, optional
        False for padding, on the host; None without padding.
    packing : Packing, optional
        Of packed sequences, instead.

    Raises
    ------
    ConfigError
        If the backend cannot be used here.
    """
    name = choose_backend(wanted, setting)
    if packing is not None:
        return PLANS[name](packing)
    windows = Sdpa.of(keep_BM, setting.device)
    if name == "math":
        return Math(windows.keep_B11M)
    if name == "flex" and keep_BM is not None:
        return Flex.of_windows(keep_BM, keep_BM.shape[1], setting.device)
    return windows


@lru_cache
def choose_backend(wanted: Backend, setting: Setting) -> str:
    """Return the backend to use and log the reason once.

    Raises
    ------
    ConfigError
        If the wanted backend cannot be used here.
    """
    if wanted == "auto":
        name, why = _best(setting)
        _log_choice(name, why)
        return name
    if problem := problem_of(wanted, setting):
        raise ConfigError(
            expected("Option", "model.attention", "a backend that can train here",
                     f"{wanted} ({problem})", "Use --set model.attention=auto.")
        )  # fmt: skip
    return wanted


def _best(setting: Setting) -> tuple[str, str]:
    """Return the fastest backend that works here, and why it is chosen."""
    if setting.device.type != "cuda":
        return "sdpa", f"the others need a GPU, and this is the {setting.device.type}"
    if not setting.packed:
        return "sdpa", "torch's own is the fastest without packing"
    problems = []
    for name in ("varlen", "xformers"):
        if not (problem := problem_of(name, setting)):
            return name, "one kernel for packed sequences"
        problems.append(f"{name}: {problem}")
    return "sdpa", f"one call for each length of packed sequence ({'; '.join(problems)})"


@lru_cache
def problem_of(name: str, setting: Setting) -> str:
    """Return why a backend cannot be used in a setting; empty if it can."""
    device = setting.device.type
    if name == "flex" and device != "cuda" and setting.trains:
        return f"torch has no gradient of it on the {device}"
    if name not in ("varlen", "xformers"):
        return ""
    module = "xformers" if name == "xformers" else "torch.nn.attention.varlen"
    if find_spec(module) is None:
        return "xformers is not installed" if name == "xformers" else (
            f"torch {torch.__version__} does not have it"
        )  # fmt: skip
    if device != "cuda":
        return f"it needs a GPU, and this is the {device}"
    return _trial(name, setting)


def _trial(name: str, setting: Setting) -> str:
    """Attend to two short sequences, with gradients; return what went wrong.

    A package that can be imported need not have operators for this torch and this GPU.
    """
    keep_BL = torch.arange(9) < torch.tensor([[9], [5]])
    packing = Packing.of(keep_BL, setting.device)
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.enable_grad():
            q, k, v = (
                torch.randn(1, heads, 14, setting.head_dim, generator=generator)
                .to(setting.device, setting.dtype)
                .requires_grad_()
                for heads in (setting.heads, setting.kv_heads, setting.kv_heads)
            )
            results = []
            for one in (name, "math"):
                attended = PLANS[one](packing).attend(q, k, v)
                results.append((attended, *torch.autograd.grad(attended.float().sum(), (q, k, v))))
        apart = [(a - b).abs().max().item() for a, b in zip(*results, strict=True)]
    except Exception as error:
        return f"its operators fail here: {reason(error)}"
    return "" if max(apart) < _TOLERANCE else f"its results differ by {max(apart):.2g}"


@lru_cache
def _log_choice(name: str, why: str) -> None:
    _logger.info("Attention backend %s: %s", name, why)
