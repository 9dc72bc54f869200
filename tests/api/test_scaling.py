"""The bench of loss against data: the law is found where there is one, and doubted elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
N = np.array([8.0, 16, 32, 64, 128])


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "learning")


@pytest.mark.parametrize(
    ("a", "b", "c"), [(0.6, 0.5, 0.5), (-2.0, 3.0, 0.1), (0.0, 40.0, 1.5), (0.7, 1e-3, 0.3)]
)
def test_an_exact_law_is_found_exactly(a, b, c):
    from power_law import PowerLaw, fit

    law = PowerLaw(a, b, c)
    found = fit(N, law(N))
    assert (found.a, found.b, found.c) == pytest.approx((a, b, c), rel=1e-3, abs=1e-4)
    assert not found.at_the_edge


def test_no_other_law_is_nearer(rng):
    """Beside the fit, and far from it, every law with b >= 0 has a larger error."""
    from power_law import EXPONENTS, PowerLaw, fit

    for _ in range(20):
        loss = 0.5 + rng.random() * N ** -rng.uniform(0.1, 2) + 0.02 * rng.standard_normal(len(N))
        found = fit(N, loss)
        least = np.square(found(N) - loss).sum()
        assert found.b >= 0
        for c in (*np.geomspace(*EXPONENTS, 200), found.c * 1.001, found.c / 1.001):
            x = np.column_stack([np.ones_like(N), N**-c])
            a, b = np.linalg.lstsq(x, loss, rcond=None)[0]
            if b >= 0 and EXPONENTS[0] <= c <= EXPONENTS[1]:
                other = np.square(PowerLaw(a, b, c)(N) - loss).sum()
                assert least <= other * (1 + 1e-6) + 1e-15


def test_what_does_not_fall_has_no_law():
    from power_law import fit

    found = fit(N, 0.5 + 1e-3 * np.arange(len(N)))
    assert found.b == 0
    assert found(1000) == pytest.approx(0.502)


def test_intervals_hold_the_truth_about_as_often_as_they_say(rng):
    """Of the loss at twice the data, over many cohorts, with offsets of seeds."""
    from power_law import PowerLaw, fit, interval, resample

    law, held, times = PowerLaw(0.6, 0.6, 0.6), 0, 30
    for i in range(times):
        noise = 0.01 * rng.standard_normal((3, 1)) + 0.003 * rng.standard_normal((3, len(N)))
        loss = law(N) + noise
        assert fit(N, loss.mean(0)).b > 0
        low, high = interval([one(2 * N[-1]) for one in resample(N, loss, times=60, seed=i)])
        held += low <= law(2 * N[-1]) <= high
    assert 0.7 <= held / times <= 1


def test_the_command_trains_on_nested_subsets_and_goes_on(make_store, tmp_path):
    import scaling

    store = make_store([20] * 8, n_tokens=3, dim=4)[0].url
    sizes = (1, 2, 3, 5)
    options = ["--store", store, "--subjects", "1,2,3,5", "--seeds", "1", "--out", str(tmp_path),
               "--resamplings", "5"]  # fmt: skip
    for assignment in ("data.window=8", "model.width=16", "model.layers=1", "model.mlp_width=16",
                       "train.steps=4", "train.validate_every=2"):  # fmt: skip
        options += ["--set", assignment]
    done = CliRunner().invoke(scaling.main, options)
    assert done.exit_code == 0, done.output
    for word in ("subjects      loss   spread", "a trivial model", "L(n) = a + b n^-c: a = "):
        assert word in done.output
    files = [tmp_path / f"subjects-{size:05d}-seed-0" / "split.json" for size in sizes]
    splits = [json.loads(file.read_text()) for file in files]
    assert len({split["validation"]["sha256"] for split in splits}) == 1
    runs = [set(split["train"]["runs"]) for split in splits]
    assert [len(some) for some in runs] == list(sizes)
    assert runs[0] < runs[1] < runs[2] < runs[3]
    result = json.loads((tmp_path / "scaling.json").read_text())
    assert [row["subjects"] for row in result["trainings"]] == list(sizes)
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    metrics = tmp_path / "subjects-00001-seed-0" / "metrics.jsonl"
    before = metrics.stat().st_size
    again = CliRunner().invoke(scaling.main, options)
    assert again.output == done.output
    assert metrics.stat().st_size == before, "what is done is not done again"
    few = CliRunner().invoke(scaling.main, ["--store", store, "--subjects", "1,2,3"])
    assert few.exit_code == 2
    assert "give four or more" in few.output
