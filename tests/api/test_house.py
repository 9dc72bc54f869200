"""CONTRIBUTING draws the folders of the repository and lists the shape letters, all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Folders that builds and tools make.
MADE = {"build", "dist", "node_modules"}
MOST_MODULES = 13


def text() -> str:
    return (ROOT / "CONTRIBUTING.md").read_text()


def drawn() -> dict[str, str]:
    """Return the folders of the tree with their descriptions, by path."""
    (tree,) = re.findall(r"## The house\n.*?```text\n(.*?)```", text(), flags=re.S)
    folders: dict[str, str] = {}
    path: list[str] = []
    for line in tree.splitlines():
        indent, name, description = re.fullmatch(r"( *)([\w.-]+)/ +(\S.*)", line).groups()
        path = [*path[: len(indent) // 2], name]
        folders["/".join(path)] = description
    return folders


def with_modules() -> Iterator[tuple[str, list[str]]]:
    """Yield every folder of the repository that holds Python modules, and the modules."""
    for folder, below, files in os.walk(ROOT):
        below[:] = [
            name for name in below
            if not name.startswith((".", "__")) and name not in MADE
            and not (Path(folder) / name / "pyvenv.cfg").exists()
        ]  # fmt: skip
        modules = [name for name in files if name.endswith(".py")]
        if modules and Path(folder) != ROOT:
            yield Path(folder).relative_to(ROOT).as_posix(), modules


def test_the_tree_has_every_folder_with_modules():
    assert {folder for folder, _ in with_modules()} - set(drawn()) == set()


def test_every_folder_of_the_tree_exists():
    assert [folder for folder in drawn() if not (ROOT / folder).is_dir()] == []


def test_no_folder_has_more_modules_than_can_be_overlooked():
    counts = {
        folder: sum(name != "__init__.py" for name in modules) for folder, modules in with_modules()
    }
    assert {folder: n for folder, n in counts.items() if n > MOST_MODULES} == {}


def test_modules_named_in_the_walks_exist():
    """Paths in backticks lead to a file or a folder."""
    paths = re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", text())
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_table_has_every_shape_letter():
    """Letters of names such as ``x_BTSD``, in lower-case names only: constants have none."""
    table = set(re.findall(r"^\| `([A-Z])` \|", text(), flags=re.M))
    used = {
        letter
        for path in (ROOT / "trainer").rglob("*.py")
        for suffix in re.findall(r"\b[a-z][a-z0-9_]*_([A-Z][A-Z0-9]*)\b", path.read_text())
        for letter in re.sub(r"\d", "", suffix)
    }
    assert used == table
