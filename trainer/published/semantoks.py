"""Brain-Semantoks (Gijsen et al., arXiv 2512.11582): its weights and settings in our names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fmritok.errors import expected
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.options import Tree
from fmritok.trainer.published.renaming import Renaming

__all__ = ["recipe_options", "renamed_weights", "token_options", "tokenizer_weights"]

#: The tokenizers that its forward pass uses; those of the other atlases never are.
_ATLAS = "schaefer400"
#: Parts of a layer: theirs, ours. Queries, keys and values are one matrix in theirs.
_LAYER = {
    "norm1": "attention_norm",
    "attn.proj": "attention.output",
    "norm2": "mlp_norm",
    "mlp.0": "mlp.inner",
    "mlp.3": "mlp.outer",
}
#: Parts of a network's tokenizer.
_TOKENIZER = {"branches.0": "dense", "branches.1.projection": "mix", "norm": "norm"}
_HEAD = {"mlp.0": "head.0", "mlp.2": "head.2"}
_TRANSFORMER, _CONVOLUTION = "inter_network_transformer", "branches.1.slconv"
#: Settings that fmritok's model has in one form only, and the default of those not given.
_SETTINGS: dict[str, tuple[Any, Any]] = {
    "drop_path_rate": (0.0, 0.0), "emb_dropout": (0.0, 0.0), "tokenizer_final_norm": ("layer",) * 2,
    "tokenizer_pooling_type": ("mean", "mean"), "projection_nlayers": (2, 2),
    "use_separate_mask_predictor": (False, False), "coeff": (1, 1),
    "max_spatial": (False, False), "min_spatial": (False, False),
}  # fmt: skip


def renamed_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names of fmritok's self-distillation.

    Parameters
    ----------
    weights : mapping of str to torch.Tensor
        The entry ``model_state_dict`` of a checkpoint, or its teacher's encoder alone (without
        ``teacher_encoder.``).

    Returns
    -------
    dict of str to torch.Tensor
        Of a checkpoint ``student.*`` and ``teacher.*``, the names of a
        :class:`~fmritok.trainer.objectives.distill.SelfDistillation`, whose ``teacher.encoder.*``
        is the encoder to use. Of an encoder ``encoder.*`` and ``mask_vector``.

    Raises
    ------
    CheckpointError
        If a weight is missing or has an unknown name, or a head is not the same for hidden tokens.
    """
    rename = Renaming("Brain-Semantoks", weights)
    if not any(name.startswith("teacher_encoder.") for name in weights):
        _encoder(rename, "", "")
        return rename.finish()
    for who in ("student", "teacher"):
        _encoder(rename, f"{who}_encoder.", f"{who}.")
        for theirs, ours in _HEAD.items():
            for kind in ("weight", "bias"):
                head = rename.take(f"{who}_predictor.{theirs}.{kind}")
                again = f"{who}_mask_predictor.{theirs}.{kind}"
                if rename.has(again) and not torch.equal(rename.take(again), head):
                    raise CheckpointError(
                        expected("Weights of Brain-Semantoks", again,
                                 f"those of {who}_predictor, the same head", "others",
                                 "fmritok has one head for all embeddings.")
                    )  # fmt: skip
                rename.found[f"{who}.{ours}.{kind}"] = head
    return rename.finish()


def tokenizer_weights(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the weights of one network's tokenizer under ours of ``SingleNetworkEmbedding``."""
    rename = Renaming("Brain-Semantoks", weights)
    _tokenizer(rename, name, "")
    return rename.finish()


def recipe_options(config: Mapping[str, Any]) -> Tree:
    """Return the options of a recipe that build its model.

    Parameters
    ----------
    config : mapping
        Arguments of its model's class.

    Raises
    ------
    CheckpointError
        If a setting has a value that fmritok's model does not have.
    """
    patch, width = int(config["patch_size"]), int(config["embedding_dim"])
    scales = 1 + int(math.log2(patch / 4)) if patch >= 8 else 1
    dense = {"type": "dense", "kernel_size": 3, "depthwise": False, "out_channels": width // 2}
    structured = {"type": "sgconv", "kernel_size": 4, "num_scales": scales, "decay_min": 2.0,
                  "decay_max": 2.0, "out_channels": width // 2}  # fmt: skip
    _require("tokenizer_config", config.get("tokenizer_config"), [dense, structured])
    for name, (default, only) in _SETTINGS.items():
        _require(name, config.get(name, default), only)
    return {
        "data": {"window": 180},
        "model": {
            "input": "residual",
            "patch": patch,
            "width": width,
            "layers": int(config["depth"]),
            "heads": int(config["heads"]),
            "kv_heads": int(config["heads"]),
            "mlp": "gelu",
            "mlp_width": int(config["mlp_dim"]),
            "convolution": "centred",
            "norm": "layernorm",
            "norm_eps": 1e-5,
            "bias": True,
            "qkv_bias": False,
            "qk_norm": False,
            "input_norm": False,
            "embedding_norm": False,
            "final_norm": True,
            "layer_scale": float(config.get("layer_scale_init_value") or 0.0),
            "registers": 0,
            "position": "sincos",
            "cell_embedding": True,
            "init": "torch",
            "cls_std": 0.02,
        },
        "objective": {
            "name": "distill",
            "crop": int(config["target_time_length"]),
            "momentum": float(config.get("base_teacher_momentum", 0.99)),
            "head_width": int(config.get("projection_hidden_dim", 1024)),
            "projection": int(config.get("projection_bottleneck_dim", 128)),
            "token_weight": float(config.get("mask_loss_weight", 0.5)),
            "network_weight": float(config.get("network_loss_weight", 0.5)),
        },
    }


def token_options() -> dict[str, Any]:
    """Return the options of the ``network`` tokenizer that give the tokens of these models."""
    return {"atlas": "schaefer400-tian50-buckner7", "band": [0.01, 0.1], "tr": 2.0}


def _encoder(rename: Renaming, theirs: str, ours: str) -> None:
    """Rename the weights of one encoder, and leave out those that are never used."""
    inner, encoder = f"{theirs}{_TRANSFORMER}", f"{ours}encoder"
    rename.drop(rf"{theirs}network_tokenizers\.(?!{_ATLAS}\.)")
    rename.drop(rf"{re.escape(inner)}\.(norm|temporal_pos_embedding)")
    found = rename.found
    found[f"{encoder}.prefix"] = rename.take(f"{inner}.cls_token")[0]
    found[f"{ours}mask_vector"] = rename.take(f"{inner}.mask_embedding")[0]
    found[f"{encoder}.spatial"] = rename.take(f"{inner}.network_learnable_pos_embedding.weight")
    rename.layers({f"{theirs}norm": f"{encoder}.final_norm"})
    for i in rename.numbers(f"{inner}.transformer_blocks"):
        layer, block = f"{inner}.transformer_blocks.{i}", f"{encoder}.blocks.{i}"
        rename.layers({f"{layer}.{a}": f"{block}.{b}" for a, b in _LAYER.items()})
        query, *others = rename.take(f"{layer}.attn.qkv.weight").chunk(3)
        found[f"{block}.attention.query.weight"] = query.clone()
        found[f"{block}.attention.key_value.weight"] = torch.cat(others)
        if rename.has(f"{layer}.ls1.gamma"):
            scales = [rename.take(f"{layer}.ls{n}.gamma") for n in (1, 2)]
            found[f"{block}.scales"] = torch.stack(scales)
    for i in rename.numbers(f"{theirs}network_tokenizers.{_ATLAS}"):
        network = f"{theirs}network_tokenizers.{_ATLAS}.{i}"
        _tokenizer(rename, network, f"{encoder}.embedding.networks.{i}.")


def _tokenizer(rename: Renaming, theirs: str, ours: str) -> None:
    """Rename the weights of one network's tokenizer; ``ours`` ends with a dot, if there is any."""
    rename.layers({f"{theirs}.{a}": f"{ours}{b}" for a, b in _TOKENIZER.items()})
    long = f"{theirs}.{_CONVOLUTION}"
    if not rename.take(f"{long}.kernel_norm_initialized"):
        raise CheckpointError(
            expected("Weights of Brain-Semantoks", f"{long}.kernel_norm",
                     "the norm that the kernel had at the first step", "none yet",
                     "Give a checkpoint of a training that took a step.")
        )  # fmt: skip
    rename.drop(re.escape(f"{long}.multiplier"))  # 2, as in ours
    scales = [f"{long}.kernel_list.{i}" for i in rename.numbers(f"{long}.kernel_list")]
    kernels = torch.stack([rename.take(name) for name in scales])
    rename.found[f"{ours}long.kernels"] = kernels.transpose(1, 2).contiguous()
    rename.found[f"{ours}long.skip"] = rename.take(f"{long}.D").T.contiguous()
    norm = rename.take(f"{long}.kernel_norm")
    rename.found[f"{ours}long.start_norm"] = norm.transpose(0, 1).contiguous()


def _require(name: str, got: Any, only: Any) -> None:
    if got != only:
        raise CheckpointError(
            expected("Setting of Brain-Semantoks", name, repr(only), repr(got),
                     "fmritok has no such model.")
        )  # fmt: skip
