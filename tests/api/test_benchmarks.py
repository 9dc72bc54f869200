"""The benchmarks follow the program: what they import is there."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.rglob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path):
    """Also inside its functions, which run only in hours."""
    imports = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
    for one in (one for one in imports if (one.module or "").startswith("fmritok")):
        module = importlib.import_module(one.module)
        for name in one.names:
            if not hasattr(module, name.name):
                importlib.import_module(f"{one.module}.{name.name}")
