"""The model card of an encoder, from facts alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from fmritok.quantities import counted
from fmritok.trainer.config import ModelConfig
from fmritok.trainer.pretrained.cohorts import SIDES
from fmritok.trainer.record.saved_group import SavedGroup

__all__ = ["is_non_commercial", "model_card"]

#: Longest value of a field of the tokens that the card shows.
_LONGEST = 120
_USE = """\
```python
import fmritok

encoder = fmritok.load_encoder("FOLDER")  # this folder, or the id of a fetched hub model
out = encoder.embed("sub-01_bold.nii.gz")
print(out.cls.shape, out.tokens.shape, out.pooled.shape)
```

`fmritok fetch model ID` downloads it. `fmritok probe --from FOLDER`, `finetune --from` and
`train --init-from` take it, too."""


def model_card(
    model: ModelConfig,
    objective: str,
    group: SavedGroup,
    facts: Mapping[str, Any],
    *,
    window: int,
    n_parameters: int,
    license: str | None,
) -> ModelCard:
    """Write the model card of an encoder.

    Parameters
    ----------
    model : ModelConfig
    objective : str
    group : SavedGroup
    facts : dict
        See :func:`fmritok.trainer.pretrained.facts.facts_of`.
    window : int
        Frames that the encoder sees at once.
    n_parameters : int
    license : str or None
        Identifier of a licence, such as ``cc-by-4.0``.
    """
    tokenizer = str(group.provenance.get("tokenizer", group.name))
    data = ModelCardData(
        library_name="fmritok", license=license, tags=["fmri", "fmritok", tokenizer, objective]
    )
    shape = [
        ("parameters", f"{n_parameters:,}"),
        ("layers, width, heads", f"{model.layers}, {model.width}, {model.heads}"),
        ("window", counted(window, "frame")),
        ("input", model.input),
        ("position", model.position),
    ]
    tokens = [
        ("token group", group.name),
        ("tokens of a frame", f"{group.n_tokens} of {counted(group.dim, 'feature')}"),
        *((name, value) for name, value in _flat(group.provenance) if len(value) <= _LONGEST),
    ]
    sections = [
        f"# fmritok encoder: {objective} on {tokenizer} tokens",
        _origin(facts, objective),
        "## Use", _USE,
        "## Licence", _licence(license),
        "## Data", _data(facts.get("cohorts") or {}),
        "## Figures", _figures(facts),
        "## Model", _table(("field", "value"), shape),
        "## Tokens", _table(("field", "value"), tokens),
    ]  # fmt: skip
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def is_non_commercial(license: str) -> bool:
    """Tell whether a licence forbids commercial use, such as ``cc-by-nc-4.0``."""
    return "nc" in license.lower().replace("_", "-").split("-")


def _origin(facts: Mapping[str, Any], objective: str) -> str:
    origin, versions = facts.get("origin"), facts.get("versions", {})
    if origin is None:
        return (
            f"Pretrained with fmritok {versions.get('fmritok')} by objective `{objective}`, "
            f"{counted(facts['step'], 'step')}. The folder holds the encoder alone."
        )
    checked = origin.get("difference")
    proof = "Its outputs were not compared with stored ones."
    if checked is not None:
        proof = f"Its outputs equal stored ones of the published code within {checked:.1e}."
    return f"Weights of {origin['method']} ({origin['source']}), converted by fmritok. {proof}"


def _licence(license: str | None) -> str:
    if license is None:
        return "None is stated: these weights may not be passed on."
    said = f"The weights' licence is `{license}`."
    return f"{said} It forbids commercial use." if is_non_commercial(license) else said


def _data(cohorts: Mapping[str, Any]) -> str:
    rows = [
        (name, said, *(_number(sides[side][x]) for x in ("subjects", "runs", "hours")))
        for name, sides in cohorts.items() for side, said in SIDES.items() if side in sides
    ]  # fmt: skip
    return _table(("cohort", "part", "subjects", "runs", "hours"), rows) if rows else "Not known."


def _figures(facts: Mapping[str, Any]) -> str:
    rows = [
        (row["name"], f"{row['value']:.4g}", row["beside"], f"{row['value_beside']:.4g}")
        for row in facts.get("figures", [])
    ]
    table = _table(("on held-out subjects", "value", "beside", "its value"), rows)
    return "\n\n".join(part for part in (table if rows else "", facts.get("verdict")) if part) or (
        "None are known."
    )


def _number(value: float | None) -> str:
    if value is None:
        return "not known"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return the fields of a nested mapping with their dotted names."""
    if isinstance(value, Mapping):
        return [x for key, inner in value.items() for x in _flat(inner, f"{prefix}.{key}")]
    return [(prefix.removeprefix("."), str(value))]
