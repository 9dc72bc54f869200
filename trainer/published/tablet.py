"""TABLeT (Kim et al., arXiv 2604.03619): its weights and settings in our names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fmritok.errors import expected
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.options import Tree
from fmritok.trainer.published.renaming import Renaming

__all__ = ["recipe_options", "renamed_weights", "token_options"]

_CELLS, _FEATURES = 27, 3072
#: Parts of a layer: theirs, ours. Keys and values are one matrix in ours.
_LAYER = {
    "norm1": "attention_norm",
    "self_attn.q_proj": "attention.query",
    "self_attn.out_proj": "attention.output",
    "norm2": "mlp_norm",
    "ff.0": "mlp.inner",
    "ff.3": "mlp.outer",
}
_ENCODER = {
    "feature_norm": "encoder.embedding.0",
    "feature_projection": "encoder.embedding.1",
    "input_norm": "encoder.embedding_norm",
}
#: Settings that fmritok's model has in one form only.
_SETTINGS: dict[str, tuple[Any, ...]] = {
    "input_feature_size": (_FEATURES,), "feature_norm": (True,), "input_norm": (True,),
    "norm_type": ("ln",), "mlp_type": ("vanilla",), "hidden_act": ("relu", "gelu"),
}  # fmt: skip


def renamed_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names of fmritok's masked-token modelling.

    Parameters
    ----------
    weights : mapping of str to torch.Tensor
        ``model.safetensors`` of its hub repository, or the weights of a checkpoint of its
        pretraining.

    Returns
    -------
    dict of str to torch.Tensor
        ``encoder.*``, the names of a :class:`~fmritok.trainer.model.model.TokenTransformer`. Of a
        checkpoint also ``mask_vector`` and ``head.*``. Its classifier is ``fc.*``, as in theirs.

    Raises
    ------
    CheckpointError
        If a weight is missing or has an unknown name.
    """
    rename = Renaming("TABLeT", weights)
    rename.layers(_ENCODER)
    rename.found["encoder.prefix"] = rename.take("cls_token")[0]
    for i in rename.numbers("layers"):
        theirs, ours = f"layers.{i}", f"encoder.blocks.{i}"
        rename.layers({f"{theirs}.{a}": f"{ours}.{b}" for a, b in _LAYER.items()})
        for kind in ("weight", "bias"):
            both = [rename.take(f"{theirs}.self_attn.{name}_proj.{kind}") for name in "kv"]
            rename.found[f"{ours}.attention.key_value.{kind}"] = torch.cat(both)
    if rename.has("out_norm.weight"):
        rename.layers({"out_norm": "encoder.final_norm"})
    if rename.has("mask_token"):
        rename.found["mask_vector"] = rename.take("mask_token").flatten()
        rename.layers({"decoder": "head"})
    if rename.has("fc.weight"):
        rename.layers({"fc": "fc"})
    return rename.finish()


def recipe_options(config: Mapping[str, Any]) -> Tree:
    """Return the options of a recipe that build its model.

    Parameters
    ----------
    config : mapping
        ``config.json`` of its hub repository.

    Raises
    ------
    CheckpointError
        If a setting has a value that fmritok's model does not have.
    """
    for name, values in _SETTINGS.items():
        if config.get(name) not in values:
            raise CheckpointError(
                expected("Setting of TABLeT", name, " or ".join(map(repr, values)),
                         repr(config.get(name)), "fmritok has no such model.")
            )  # fmt: skip
    dropout = float(config.get("dropout", 0.0))
    return {
        "data": {"window": int(config["num_tokens"]) // _CELLS},
        "model": {
            "input": "absolute",
            "width": int(config["d_model"]),
            "layers": int(config["num_layers"]),
            "heads": int(config["num_heads"]),
            "kv_heads": int(config["num_kv_heads"]),
            "mlp": config["hidden_act"],
            "mlp_width": int(config["d_ff"]),
            "norm": "layernorm",
            "norm_eps": 1e-5,
            "bias": True,
            # By a slip in its code, the setting of this name switches the rotation on.
            "position": "index" if config.get("qk_norm") else "none",
            "qk_norm": False,
            "input_norm": True,
            "embedding_norm": True,
            "final_norm": bool(config.get("out_norm", False)),
            "layer_scale": 0.0,
            "registers": 0,
            "cell_embedding": False,
            "init": "torch",
            "cls_std": 1.0,
            "input_dropout": dropout if config.get("feature_dropout") else 0.0,
            "mlp_dropout": dropout,
            "attention_dropout": dropout,
        },
        "objective": {"name": "mtm", "mask_ratio": 0.5, "masking": "tube"},
    }


def token_options() -> dict[str, Any]:
    """Return the options of the ``vae`` tokenizer that give the tokens of these models."""
    return {"intensity": "max"}
