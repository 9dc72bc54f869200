"""The benchmarks follow the program: what they import is there."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
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


def _rows(seconds: float) -> tuple[object, list[str]]:
    spec = importlib.util.spec_from_file_location("rows", BENCHMARKS / "on_gpu" / "rows.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    said: list[str] = []
    return module.Rows("way   ms", seconds, said.append), said


def _broken():
    raise RuntimeError("CUDA error: no kernel\nlong tale")


def test_a_row_that_fails_says_why_and_the_others_go_on():
    rows, said = _rows(60)
    assert rows.add("one  ", _broken) is None
    assert rows.add("two  ", lambda: ("3.5", 7)) == 7
    assert said == ["way   ms", "one   failed: RuntimeError: CUDA error: no kernel", "two   3.5"]


def test_no_row_starts_after_its_time():
    rows, said = _rows(-1)
    assert rows.add("one  ", lambda: ("3.5", 7)) is None
    assert said == ["way   ms", "one   left out: the time is over"]


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_to_its_end_on_a_cpu(tmp_path):
    """All three tables; an arithmetic that does not exist fails alone."""
    script = BENCHMARKS / "gpu.py"
    done = subprocess.run(
        [sys.executable, script, "--device", "cpu", "--small", "--ways", "broken,fp32,published",
         "--cache", tmp_path],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    failed = [line.split()[0] for line in done.stdout.splitlines() if " failed: " in line]
    assert failed == ["broken"], done.stdout
    for row in (
        "fp32 ",
        "published ",
        "one after another ",
        "overlapping ",
        "      1      2 ours ",
    ):
        assert f"\n{row}" in done.stdout


SMALL = {
    "catalog": ["--runs", 20],
    "integrity": ["--runs", 20, "--rounds", 1],
    "memory": ["--frames", 10],
    "precision": ["--frames", 2, "--every", 48, "--arithmetic", "tf32", "--row", "MNI-max",
                  "--no-storage"],
    "scale": ["--runs", 20],
    "series": ["--rounds", 1, "--frames", 30, "--no-vae"],
    "streaming": ["--frames", 40, "--window", 8, "--rounds", 1, "--only", "zarr"],
    "training_step": ["--frames", 2, "--layers", 1, "--ways", "usual,ours"],
    "vae": ["--volumes", 1, "--repeats", 1],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_of_speed_runs_to_its_end(name, data, tmp_path):
    """On little; ``series`` compares its numbers, too."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "speed" / f"{name}.py", *map(str, SMALL[name])],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FMRITOK_TEST_DATA": str(data.resolve())}
        | {"PYTHONSAFEPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    errors = re.findall(r"difference to .*: (\S+)$", done.stdout, re.MULTILINE)
    assert len(errors) == 2 * (name == "series"), done.stdout
    assert all(float(error) < 1e-5 for error in errors), done.stdout


def test_every_benchmark_of_speed_is_tried():
    scripts = {path.stem for path in (BENCHMARKS / "speed").glob("*.py")}
    assert scripts - set(SMALL) == {"layouts", "real_runs"}  # parts of others
