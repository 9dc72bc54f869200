"""`docs/files.md` has the sentences of the catalogue, all of them and no others."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from fmritok.pipeline.tables.remarks import Reason, Remark

ROOT = Path(__file__).parents[2]
HEADING = "## Tables, sidecars, names and links"


def first_cells(title: str) -> list[str]:
    """Return the first column of the table below a title of the section."""
    section = (ROOT / "docs" / "files.md").read_text().partition(HEADING)[2].split("\n## ")[0]
    part = section.partition(f"### {title}\n")[2].split("\n### ")[0]
    rows = re.findall(r"^\| (.*?) \|", part, re.MULTILINE)
    return rows[1:]


def test_each_remark_and_each_reason_is_in_its_table():
    assert first_cells("Used, but questioned") == [remark.value for remark in Remark]
    assert first_cells("Reasons") == [reason.value for reason in Reason]


def test_each_remark_and_each_reason_is_used():
    code = "\n".join(p.read_text() for p in (ROOT / "pipeline").rglob("*.py"))
    for kind in (Remark, Reason):
        unused = [name for name in kind.__members__ if f"{kind.__name__}.{name}" not in code]
        assert unused == []


def test_what_is_refused_and_left_out_is_said_in_the_code():
    texts = {
        node.value
        for path in (ROOT / "pipeline").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    sentences = [*first_cells("Refused"), *first_cells("Left out")]
    assert len(sentences) == 14
    for sentence in sentences:
        assert any(sentence in text for text in texts), sentence
