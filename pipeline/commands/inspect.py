"""``fmritok inspect``: what a store holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import click

from fmritok.pipeline.commands.options import as_json, print_json, store_option
from fmritok.terminal import labelled, new_console


@click.command()
@store_option
@as_json
def inspect(store: str, as_json: bool) -> None:
    """Show a store's token groups, its runs, and why runs are missing."""
    from fmritok.pipeline.store.reader import TokenStore

    opened = TokenStore(store)
    groups = {name: opened.group(name) for name in opened.groups}
    summaries = {
        name: {
            "shape": [int(group.runs["n_frames"].sum()), group.n_tokens, group.dim],
            "dtype": group.precision,
            "bytes": opened.location.used_bytes(name),
            "runs": {str(k): int(v) for k, v in group.all_runs["status"].value_counts().items()},
            "provenance": group.provenance,
            "contract": {k: v for k, v in group.contract.items() if k != "provenance"},
            "notes": group.notes,
        }
        for name, group in groups.items()
    }
    runs: dict[str, dict[str, Any]] = {}
    for name, group in groups.items():
        for run in group.all_runs.to_dict("records"):
            entry = runs.setdefault(
                run["run_id"],
                {
                    k: run[k]
                    for k in ("run_id", "dataset", "subject", "session", "task", "site", "tr")
                }
                | {"status": "done", "reason": "", "groups": {}},
            )
            entry["groups"][name] = {k: run[k] for k in ("start", "n_frames", "status", "reason")}
            if run["status"] != "done":
                entry["status"], entry["reason"] = run["status"], run["reason"]
    if as_json:
        print_json({"store": store, "groups": summaries, "runs": list(runs.values())})
        return
    _print(store, summaries, list(runs.values()))


def _part(tree: Mapping[str, Any], name: str, inner: str) -> str:
    """Return a text of a tree that others may have written; empty if there is none."""
    part = tree.get(name)
    return str(part.get(inner, "")) if isinstance(part, dict) else ""


def _print(store: str, groups: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    from rich.table import Table

    console = new_console()
    table = Table(title=store)
    for column in ("group", "frames", "tokens x features", "dtype", "GB", "runs", "made with"):
        table.add_column(column, justify="right" if column in ("frames", "GB") else "left")
    for name, group in groups.items():
        frames, tokens, dim = group["shape"]
        notes = group["notes"]
        source = _part(notes, "weights", "id") or notes.get("template") or notes.get("atlas")
        made = f"{source or ''} {_part(group['provenance'], 'intensity', 'mode')}".strip()
        table.add_row(
            name, f"{frames:,}", f"{tokens} x {dim}", group["dtype"], f"{group['bytes'] / 1e9:.3f}",
            ", ".join(f"{n} {status}" for status, n in group["runs"].items()), made,
        )  # fmt: skip
    console.print(table)
    table = Table(title="runs")
    for column in ("dataset", "task", "site", "subjects", "runs", "done", "failed", "planned"):
        table.add_column(column, justify="right" if column[-1] == "s" else "left")
    by_kind: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_kind[tuple(str(run[key] or "") for key in ("dataset", "task", "site"))].append(run)
    for kind, some in sorted(by_kind.items()):
        counts = [str(sum(r["status"] == s for r in some)) for s in ("done", "failed", "planned")]
        table.add_row(*kind, str(len({r["subject"] for r in some})), str(len(some)), *counts)
    console.print(table)
    for run in runs:
        if run["status"] == "failed":
            line = labelled("failed", f"{run['run_id']}: {run['reason']}")
            console.print(line, soft_wrap=True)
