"""f(b + d) - f(b) without cancellation, for the non-linear steps of image autoencoders.

``b`` is a step's input in the base image, ``d`` its deviation. The plain difference of two results
has the rounding errors of both, which belong to ``b``. Each rule below returns a multiple of ``d``
instead, so its rounding error is relative to the deviation.

Denominators and square roots are different: they need ``b + d`` with an error that is relative to
``b + d`` itself, and a frame may cancel the base (a ReLU of linear attention leaves nothing of a
query: the denominator is 0). They are sums of products (:data:`SUMMED`), which have no cancellation
if they are computed from the whole factors. The walk does so and hands the result on as ``whole``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["FORMULAS", "PRODUCTS", "ROOTS", "RULES", "SLOPES", "SUMMED", "TERMS", "divide"]

Tensor = torch.Tensor
#: Softmax: from this deviation of a score on, the plain difference is exact enough.
_LARGE = 1.0
#: Below it, the exponential function has a float32. So large a deviation has no cancellation.
_OVERFLOW = 64.0


def clamp(b: Tensor, d: Tensor, low: float | None = None, high: float | None = None,
          **named: float | None) -> Tensor:  # fmt: skip
    """Within the limits ``d`` itself; at them, limits counted from the base's result.

    With ``c`` the base's result, ``clamp(b + d, low, high) - c = clamp(d + (b - c), low - c,
    high - c)``, and ``b - c`` is 0 where the base is within. ReLU is the clamp above 0:
    ``max(d + min(b, 0), -max(b, 0))``.
    """
    low, high = named.get("min", low), named.get("max", high)
    c = b.clamp(low, high)
    moved = d + (b - c)
    if low is not None:
        moved = torch.maximum(moved, low - c)
    return moved if high is None else torch.minimum(moved, high - c)


def relu(b: Tensor, d: Tensor) -> Tensor:
    """Clamp above 0."""
    return torch.maximum(d + b.clamp(max=0), -b.clamp(min=0))


def power(b: Tensor, d: Tensor, exponent: float = 2) -> Tensor:
    """Squares: ``(b + d)^2 - b^2 = d (2 b + d)``."""
    if exponent == 2:
        return d * (2 * b + d)
    return (b + d) ** exponent - b**exponent


def rsqrt(b: Tensor, d: Tensor, *, whole: Tensor | None = None) -> Tensor:
    """With r and s the results before and after: ``s - r = (s^2 - r^2) / (s + r)``."""
    r, s = torch.rsqrt(b), torch.rsqrt(b + d if whole is None else whole)
    return -d * (r * s) ** 2 / (r + s)


def sqrt(b: Tensor, d: Tensor, *, whole: Tensor | None = None) -> Tensor:
    """Use the same identity: ``d / (sqrt(b + d) + sqrt(b))``."""
    return d / (torch.sqrt(b + d if whole is None else whole) + torch.sqrt(b))


def reciprocal(b: Tensor, d: Tensor, *, whole: Tensor | None = None) -> Tensor:
    """``1 / (b + d) - 1 / b = -d / (b (b + d))``."""
    return -d / (b * (b + d if whole is None else whole))


def exp(b: Tensor, d: Tensor) -> Tensor:
    """``e^(b + d) - e^b = e^b (e^d - 1)``."""
    return torch.exp(b) * torch.expm1(d)


def tanh(b: Tensor, d: Tensor) -> Tensor:
    """Use the addition theorem: ``tanh x - tanh y = tanh(x - y) (1 - tanh x tanh y)``."""
    return torch.tanh(d) * (1 - torch.tanh(b + d) * torch.tanh(b))


def sigmoid(b: Tensor, d: Tensor) -> Tensor:
    """As ``tanh``, by ``sigmoid(x) = (1 + tanh(x / 2)) / 2``."""
    return tanh(b / 2, d / 2) / 2


def silu(b: Tensor, d: Tensor, *, term: Tensor | None = None) -> Tensor:
    """With s the sigmoid: ``s(b + d) - s(b) = -s(b + d) s(-b) (e^-d - 1)``.

    On a GPU this is the step that takes longest, so it is spelled out with few functions.
    """
    term = silu_term(b) if term is None else term
    whole, small = torch.sigmoid(b + d), d.clamp(-_OVERFLOW, _OVERFLOW)
    found = whole * (d - term * torch.expm1(-small))
    return torch.where(d.abs() < _OVERFLOW, found, (b + d) * whole - (b - term))


def silu_term(b: Tensor) -> Tensor:
    """``b s(-b)``, which is ``b`` less the base's result."""
    return b * torch.sigmoid(-b)


def softmax(b: Tensor, d: Tensor, dim: int = -1, **_: Any) -> Tensor:
    """With p the base's result: ``p (e^(d - m) - 1)``, where ``m = log(1 + sum p (e^d - 1))``."""
    p = torch.softmax(b, dim)
    largest = d.abs().amax(dim, keepdim=True)
    small = d.clamp(-_LARGE, _LARGE)  # what lies beyond is not taken from here
    m = torch.log1p((p * torch.expm1(small)).sum(dim, keepdim=True))
    return torch.where(largest > _LARGE, torch.softmax(b + d, dim) - p, p * torch.expm1(small - m))


def multiply(a: Tensor, da: Tensor, b: Tensor, db: Tensor) -> Tensor:
    """Expand: ``(a + da)(b + db) - a b = da (b + db) + a db``."""
    return da * (b + db) + a * db


def matmul(a: Tensor, da: Tensor, b: Tensor, db: Tensor) -> Tensor:
    """Expand a product of matrices in the same way."""
    return da @ (b + db) + a @ db


def divide(n: Tensor, dn: Tensor, e: Tensor, de: Tensor,
           whole_n: Tensor | None = None, whole_e: Tensor | None = None) -> Tensor:  # fmt: skip
    """With o = n / e: ``(n + dn) / (e + de) - o = (dn - o de) / (e + de)``.

    A denominator that changes by more than what is left of it may be a rounding error, and so may
    its numerator: there the quotient is taken from the whole terms.
    """
    o = n / e
    total = e + de if whole_e is None else whole_e
    found = (dn - o * de) / total
    if whole_n is None:
        return found
    return torch.where(de.abs() > total.abs(), whole_n / total - o, found)


def group_norm(x: Tensor, num_groups: int, weight: Tensor | None = None,
               bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:  # fmt: skip
    """By its definition; every step of it has a rule."""
    grouped = x.reshape(x.shape[0], num_groups, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    scaled = centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps)
    made = scaled.reshape(x.shape)
    along = (-1, *[1] * (x.ndim - 2))
    made = made if weight is None else made * weight.view(along)
    return made if bias is None else made + bias.view(along)


def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None,
              dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
              enable_gqa: bool = False) -> Any:  # fmt: skip
    """Attention by its definition; ``NotImplemented`` with a mask or with groups of heads."""
    if attn_mask is not None or is_causal or enable_gqa:
        return NotImplemented
    scores = (q @ k.transpose(-2, -1)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return torch.softmax(scores, -1) @ v


def reciprocal_times(x: Tensor, numerator: Any) -> Tensor:
    """Divide a constant by a tensor."""
    return torch.reciprocal(x) * numerator


#: By the function's name: ``rule(b, d, further arguments)``.
RULES: Mapping[str, Callable[..., Tensor]] = {
    "clamp": clamp, "exp": exp, "pow": power, "reciprocal": reciprocal, "relu": relu,
    "rsqrt": rsqrt, "sigmoid": sigmoid, "silu": silu, "softmax": softmax, "sqrt": sqrt,
    "square": power, "tanh": tanh,
}  # fmt: skip
#: What a rule needs of the base alone, which all frames share: its keyword ``term``.
TERMS: Mapping[str, Callable[[Tensor], Tensor]] = {"silu": silu_term}
#: Largest slopes: a result deviates by no more than that many times the deviation. Not of steps
#: that may flatten all of an image: products in fp16 would lose what is left.
SLOPES: Mapping[str, float] = {"relu": 1.0, "silu": 1.1}
#: Of two tensors that both deviate: ``rule(a, da, b, db)``.
PRODUCTS: Mapping[str, Callable[..., Tensor]] = {
    "bmm": matmul, "div": divide, "imul": multiply, "itruediv": divide, "matmul": matmul,
    "mul": multiply, "rmul": multiply, "truediv": divide,
}  # fmt: skip
#: Products whose sums become denominators: their results are also computed from ``b + d``.
SUMMED = frozenset(["bmm", "matmul", "pow", "square"])
#: Rules that take such a result as ``whole``.
ROOTS = frozenset(["reciprocal", "rsqrt", "sqrt"])
#: Steps that are spelled out in steps with rules, or ``NotImplemented``.
FORMULAS: Mapping[str, Callable[..., Any]] = {
    "group_norm": group_norm, "rtruediv": reciprocal_times,
    "scaled_dot_product_attention": attention,
}  # fmt: skip
