"""Ways to damage files: deleted, cut off, a bit flipped, swapped, a number edited."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Damage:
    """One thing that is done to files.

    Attributes
    ----------
    what : str
        For whoever reads the report.
    keys : tuple of str
        Files or folders concerned.
    do : callable
        Does it, given the folder that holds it; False if there was nothing to do.
    """

    what: str
    keys: tuple[str, ...]
    do: Callable[[Path], bool]


def delete(key: str) -> Damage:
    def do(root: Path) -> bool:
        (root / key).unlink()
        return True

    return Damage(f"delete {key}", (key,), do)


def cut(key: str, share: float) -> Damage:
    def do(root: Path) -> bool:
        data = (root / key).read_bytes()
        (root / key).write_bytes(data[: int(len(data) * share)])
        return True

    return Damage(f"cut to {share:.0%} {key}", (key,), do)


def flip(key: str, share: float) -> Damage:
    def do(root: Path) -> bool:
        data = bytearray((root / key).read_bytes())
        if not data:
            return False
        data[int(share * (len(data) - 1))] ^= 1 << (len(data) % 8)
        (root / key).write_bytes(data)
        return True

    return Damage(f"flip a bit at {share:.0%} of {key}", (key,), do)


def swap(key: str, other: str) -> Damage:
    def do(root: Path) -> bool:
        one, two = (root / key).read_bytes(), (root / other).read_bytes()
        (root / key).write_bytes(two)
        (root / other).write_bytes(one)
        return one != two

    return Damage(f"swap {key} with {other}", (key, other), do)


def numbers(text: str) -> list[tuple[int, int]]:
    """Return where numbers stand in a JSON text, outside of its strings."""
    masked = re.sub(r'"(\\.|[^"\\])*"', lambda m: '"' * len(m[0]), text)
    return [m.span() for m in re.finditer(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", masked)]


def edit(key: str, text: str, span: tuple[int, int]) -> Damage:
    number = text[slice(*span)]
    other = str(int(number) + 1) if re.fullmatch(r"-?\d+", number) else f"{float(number) * 2 + 1}"
    edited = text[: span[0]] + other + text[span[1] :]
    if key.endswith(".json"):
        json.loads(edited)

    def do(root: Path) -> bool:
        (root / key).write_text(edited)
        return True

    line = text[: span[0]].count("\n")
    where = text.splitlines()[line].strip()[:60]
    return Damage(f"{number} becomes {other} in line {line + 1} ({where}) of {key}", (key,), do)


def remove(folder: str) -> Damage:
    def do(root: Path) -> bool:
        shutil.rmtree(root / folder)
        return True

    return Damage(f"delete the folder {folder}", (folder,), do)
