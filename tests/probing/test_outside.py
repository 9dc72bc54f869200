"""The README's lines of pandas and scikit-learn repeat the probe's score from embeddings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from probed import probed_store, quick_training
from tiny import fmritok

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_score_of_the_probe_is_repeated_outside(tmp_path, monkeypatch, capsys):
    """Of labels without an effect: their scores are far from 0.5 and 1 by chance alone."""
    sexes = ["M", "F"] * 12
    np.random.default_rng(3).shuffle(sexes)
    store = probed_store(tmp_path, 24, sexes)
    training = quick_training(store, tmp_path / "training")
    monkeypatch.chdir(tmp_path)
    shared = ("--from", training, "--store", store, "--device", "cpu")
    for command in (["probe", "--task", "demo-sex", "--seeds", 1, "--folds", 3, "--permutations", 0,
                     "--no-cache"], ["embed", "--out", "embeddings.parquet"]):  # fmt: skip
        done = fmritok(*command, *shared)
        assert done.exit_code == 0, done.output
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
               if "read_parquet" in block]  # fmt: skip
    capsys.readouterr()
    exec(code, {})
    outside, inside = map(float, capsys.readouterr().out.split())
    (row,) = json.loads((tmp_path / "probe" / "scores.json").read_text())["rows"]
    assert inside == row["figures"]["auroc"]["mean"]
    assert outside == pytest.approx(inside, abs=0.01)
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 20
