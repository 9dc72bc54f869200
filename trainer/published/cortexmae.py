"""CortexMAE (Lane et al., arXiv 2510.13768): names of its weights and settings, and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fmritok.errors import expected
from fmritok.quantities import counted
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.options import Tree

__all__ = ["recipe_options", "renamed_weights", "token_options"]

#: Width, layers and heads of the encoder, then of the decoder, by the name of its model.
_SIZES = {
    "mae_vit_small": (384, 12, 6, 512, 4, 16),
    "mae_vit_base": (768, 12, 12, 512, 4, 16),
    "mae_vit_d15": (960, 15, 15, 640, 5, 20),
    "mae_vit_d12": (768, 12, 12, 512, 4, 16),
    "mae_vit_d9": (576, 9, 9, 384, 3, 12),
    "mae_vit_d6": (384, 6, 6, 256, 2, 8),
    "mae_vit_d3": (192, 3, 3, 128, 1, 4),
}
_SIZE_NAMES = ("embed_dim", "depth", "num_heads", "decoder_embed_dim", "decoder_depth",
               "decoder_num_heads")  # fmt: skip
#: Sizes of the general class, which has no name of its own in the table.
_DEFAULT_SIZES = (768, 12, 12, 512, 4, 16)
#: Parts of a layer: theirs, ours. Keys and values are one matrix in ours.
_LAYER = {
    "norm1": "attention_norm",
    "attn.q": "attention.query",
    "attn.proj": "attention.output",
    "norm2": "mlp_norm",
    "mlp.fc1": "mlp.inner",
    "mlp.fc2": "mlp.outer",
}
_ENCODER = {"patch_embed": "embedding.0", "norm": "final_norm"}
_DECODER = {"proj": "entry", "norm": "norm", "head": "head"}
#: Settings whose other values change the encoder, with the values that ours has.
_ENCODER_SETTINGS = {
    "pos_embed": ("sep",), "class_token": (True,), "mask_drop_scale": (False,),
    "no_embed_class": (True,), "qkv_bias": (True,), "proj_bias": (True,), "mlp_ratio": (4, 4.0),
}  # fmt: skip
#: Values that its classes take for settings that are not given.
_DEFAULTS = {
    "pos_embed": "abs", "class_token": True, "mask_drop_scale": False, "no_embed_class": False,
    "qkv_bias": True, "proj_bias": True, "mlp_ratio": 4, "reg_tokens": 0, "t_pred_stride": 1,
    "no_decode_pos": False,
}  # fmt: skip


def renamed_weights(
    weights: Mapping[str, Tensor], cells: npt.NDArray[np.integer[Any]]
) -> dict[str, Tensor]:
    """Return weights under the names of :class:`~fmritok.trainer.objectives.mae.MaskedAutoencoder`.

    Parameters
    ----------
    weights : mapping of str to torch.Tensor
        The entry ``model`` of a checkpoint, or an encoder's weights alone (without ``encoder.``).
    cells : np.ndarray of shape (n_cells,), int
        Number of each of our cells in the rectangle of all cells, counted row by row. Positions of
        the other cells are left out.

    Returns
    -------
    dict of str to torch.Tensor
        ``encoder.*``, and ``decoder.*`` if the decoder is there. The names of a
        :class:`~fmritok.trainer.model.model.TokenTransformer` follow ``encoder.``.

    Raises
    ------
    CheckpointError
        If a weight is missing or has an unknown name.
    """
    weights = dict(weights)
    if not any(name.startswith("encoder.") for name in weights):
        weights = {f"encoder.{name}": value for name, value in weights.items()}
    index = torch.from_numpy(np.asarray(cells, np.int64))
    found: dict[str, Tensor] = {}

    def take(name: str) -> Tensor:
        if name not in weights:
            raise CheckpointError(
                expected("Weights of CortexMAE", name, "a tensor of that name", "none",
                         "Give the file that its pretraining wrote.")
            )  # fmt: skip
        return weights.pop(name)

    for part, names in (("encoder", _ENCODER), ("decoder", _DECODER)):
        if not any(name.startswith(f"{part}.") for name in weights):
            continue
        spatial = take(f"{part}.pos_embed.weight_spatial")[0]
        if len(index) and int(index.max()) >= len(spatial):
            raise CheckpointError(
                expected("Weights of CortexMAE", f"{part}.pos_embed.weight_spatial",
                         f"{counted(int(index.max()) + 1, 'cell')} or more, as the tokens have",
                         len(spatial),
                         "Tokenize with the published template, or import without tokens.")
            )  # fmt: skip
        found[f"{part}.spatial"] = spatial[index]
        found[f"{part}.temporal"] = take(f"{part}.pos_embed.weight_temporal")[:, 0]
        if part == "encoder":
            prefix = [take("encoder.cls_token")[0]]
            prefix += [weights.pop(name)[0] for name in ("encoder.reg_token",) if name in weights]
            found["encoder.prefix"] = torch.cat(prefix)
        else:
            if "decoder.cls_token" in weights:
                found["decoder.cls"] = weights.pop("decoder.cls_token")[0, 0]
            found["decoder.query"] = take("decoder.mask_token")[0, 0]
        for theirs, ours in names.items():
            for kind in ("weight", "bias"):
                found[f"{part}.{ours}.{kind}"] = take(f"{part}.{theirs}.{kind}")
        for layer in _layers(weights, part):
            for theirs, ours in _LAYER.items():
                for kind in ("weight", "bias"):
                    found[f"{layer}.{ours}.{kind}"] = take(f"{layer}.{theirs}.{kind}")
            for kind in ("weight", "bias"):
                both = [take(f"{layer}.attn.{name}.{kind}") for name in "kv"]
                found[f"{layer}.attention.key_value.{kind}"] = torch.cat(both)
    if weights:
        raise CheckpointError(
            expected("Weights of CortexMAE", next(iter(weights)), "a known name",
                     "a tensor that fmritok's model does not have",
                     "Import a model with separable positions and self-attention.")
        )  # fmt: skip
    return found


def recipe_options(args: Mapping[str, Any]) -> Tree:
    """Return the options of a recipe that build the model of a checkpoint.

    Parameters
    ----------
    args : mapping
        The entry ``args`` of a checkpoint, or a ``config.json`` of that form.

    Raises
    ------
    CheckpointError
        If a setting has a value that fmritok's model does not have.
    """
    kwargs = {**_DEFAULTS, **(args.get("model_kwargs") or {})}
    _require(args, "input_space", ("flat",))
    _require(args, "normalize", ("frame",))
    for name, values in _ENCODER_SETTINGS.items():
        _require(kwargs, name, values)
    named = dict(zip(_SIZE_NAMES, _SIZES.get(str(args.get("model")), _DEFAULT_SIZES), strict=True))
    sizes = {**named, **{name: kwargs[name] for name in _SIZE_NAMES if name in kwargs}}
    return {
        "data": {"window": int(args["num_frames"])},
        "model": {
            "input": "absolute",
            "frame_norm": True,
            "frame_clip": args.get("clip_vmax") or None,
            "patch": int(args["t_patch_size"]),
            "width": sizes["embed_dim"],
            "layers": sizes["depth"],
            "heads": sizes["num_heads"],
            "kv_heads": sizes["num_heads"],
            "mlp": "gelu",
            "mlp_width": 4 * sizes["embed_dim"],
            "norm": "layernorm",
            "norm_eps": 1e-6,
            "bias": True,
            "qk_norm": False,
            "input_norm": False,
            "embedding_norm": False,
            "final_norm": True,
            "layer_scale": 0.0,
            "registers": int(kwargs["reg_tokens"]),
            "position": "learned",
            "init": "xavier",
        },
        "objective": {
            "name": "mae",
            "mask_ratio": float(args.get("mask_ratio", 0.9)),
            "mask_ratio_of": "grid",
            "masking": args.get("masking") or "random",
            "stride": int(kwargs["t_pred_stride"]),
            "decoder": "self",
            "decoder_cls": "own",
            "decoder_position": "hidden" if kwargs["no_decode_pos"] else "all",
            "decoder_width": sizes["decoder_embed_dim"],
            "decoder_layers": sizes["decoder_depth"],
            "decoder_heads": sizes["decoder_num_heads"],
        },
    }


def token_options() -> dict[str, Any]:
    """Return the options of the ``flatmap`` tokenizer that give the tokens of these models.

    The template is missing: it must have the published geometry and surface, see ``fmritok fetch``.
    """
    return {"tr": 1.0, "standardize": "pixel"}


def _layers(weights: Mapping[str, Tensor], part: str) -> list[str]:
    """Return the names of a part's layers, in their order."""
    found = (re.match(rf"{part}\.blocks\.(\d+)\.", name) for name in weights)
    return [f"{part}.blocks.{i}" for i in sorted({int(match[1]) for match in found if match})]


def _require(settings: Mapping[str, Any], name: str, values: tuple[Any, ...]) -> None:
    got = settings.get(name)
    if got not in values:
        raise CheckpointError(
            expected("Setting of CortexMAE", name, " or ".join(map(repr, values)), repr(got),
                     "fmritok has no such model.")
        )  # fmt: skip
