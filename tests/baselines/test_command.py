"""``fmritok baseline`` from a store to scores, on all kinds of tasks."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from tiny import fmritok

from fmritok.pipeline.store.ledger import allocate, finalize
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.names import IDENTITY
from fmritok.pipeline.store.precision import store_precision
from fmritok.pipeline.store.records import RunRecord, write_record
from fmritok.pipeline.store.schema import GroupSpec
from fmritok.pipeline.store.tables.annotations import write_annotations
from fmritok.pipeline.store.writer import write_run

N_SUBJECTS = 36


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two runs of 36 subjects: men's first two parcels go together, as do a subject's last two."""
    folder = tmp_path_factory.mktemp("store")
    location, rng = Location(folder / "tokens.zarr"), np.random.default_rng(0)
    subjects = [f"{100 + i // 2}" for i in range(2 * N_SUBJECTS)]
    rows = pd.DataFrame(
        {"run_id": [f"demo_{s}_{i % 2}" for i, s in enumerate(subjects)], "dataset": "demo",
         "subject": subjects, "session": "", "task": "rest", "family": "", "tr": 2.0,
         "site": [("NYU", "UCLA", "KKI")[(i // 4) % 3] for i in range(2 * N_SUBJECTS)],
         "space": "", "source": "", "problem": "", "n_frames": 40}
    )  # fmt: skip
    spec = GroupSpec(name="network", n_tokens=8, dim=1, precision="float16", chunk_frames=8,
                     shard_frames=32, static={"network": np.arange(8, dtype=np.int32)},
                     provenance={"tokenizer": "network"})  # fmt: skip
    own = rng.uniform(-1, 1, (N_SUBJECTS, 4))
    for i, run in enumerate(allocate(location, spec, rows).to_dict("records")):
        x = rng.standard_normal((40, 8))
        x[:, 1] += 4 * (i // 2 % 2 == 0) * x[:, 0]
        x[:, 4:] += own[i // 2] * x[:, [2]]
        x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)[:, :, None]
        sums = write_run(location, "network", run_id=run["run_id"], row=run["row"],
                         start=run["start"], stored=store_precision(x, "float16"))  # fmt: skip
        columns = {name: run[name] for name in [*IDENTITY[1:], "source"]}
        write_record(location, "network", RunRecord(run["run_id"], "done", run["start"], 40,
                     row=run["row"], columns=columns, checksums=sums))  # fmt: skip
    finalize(location, "network")
    people = pd.DataFrame(
        {"dataset": "demo", "subject": sorted(set(subjects)), "session": "",
         "sex": ["M", "F"] * (N_SUBJECTS // 2), "age": rng.uniform(20, 60, N_SUBJECTS),
         "mean_fd": rng.uniform(0.1, 0.4, N_SUBJECTS)}
    )  # fmt: skip
    people.loc[5, "mean_fd"] = np.nan
    write_annotations(location, {"phenotypes": people})
    return location.url


def _run(store, out, *more):
    return fmritok("baseline", "--store", store, "--out", out, "--seeds", 1, "--folds", 3,
                   "--permutations", 4, *more)  # fmt: skip


def test_a_planted_effect_is_found_beside_what_stands_beside_it(store, tmp_path):
    done = _run(store, tmp_path, "--task", "demo-sex", "--kind", "connectivity", "--kind",
                "nuisance", "--kind", "dummy", "--regress", "site,motion")  # fmt: skip
    assert done.exit_code == 0, done.output
    tree = json.loads((tmp_path / "scores.json").read_text())
    means = {row["row"]: row["figures"]["auroc"]["mean"] for row in tree["rows"]}
    assert list(means) == ["connectivity (pearson)", "connectivity (pearson) less site, motion",
                           "nuisance", "dummy"]  # fmt: skip
    assert min(list(means.values())[:2]) > 0.8
    assert means["nuisance"] < 0.8
    assert means["dummy"] == 0.5
    assert tree["n_units"] == 35
    assert tree["excluded"]["confound missing"]["units"] == ["demo/105"]
    assert tree["rows"][2]["variables"] == ["age", "site", "motion"]
    assert "Left out: 1 subjects, confound missing." in done.output
    assert tree["overlap"] is None


def test_given_splits_and_fingerprints(store, tmp_path):
    sides = {"train": [str(i) for i in range(100, 116)], "test": [str(i) for i in range(116, 123)]}
    (tmp_path / "split.json").write_text(json.dumps(sides))
    done = _run(store, tmp_path / "a", "--task", "demo-age", "--kind", "connectivity", "--split",
                tmp_path / "split.json", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    tree = json.loads((tmp_path / "a" / "scores.json").read_text())
    assert [(f["train"], f["test"]) for f in tree["folds"]] == [(16, 7)]
    assert tree["split"]["units_on_no_side"]["count"] == 13
    done = _run(store, tmp_path / "b", "--task", "fingerprint", "--kind", "connectivity")
    assert done.exit_code == 0, done.output
    tree = json.loads((tmp_path / "b" / "scores.json").read_text())
    assert tree["rows"][0]["figures"]["top1"]["mean"] > 0.4
    assert tree["rows"][0]["figures"]["top1"]["chance"]["mean"] < 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--task", "demo-sexx", "--kind", "dummy"], "Did you mean demo-sex"),
        (["--task", "demo-fluid-intelligence", "--kind", "dummy"], "Column PMAT24_A_CR of task"),
        (["--task", "hcp-sex", "--kind", "dummy"], "got dataset demo"),
        (["--task", "demo-sex", "--kind", "tokens"], "they are z-scored in time"),
        (["--task", "demo-sex", "--kind", "connectivity", "--regress", "mean_fdd"],
         "Did you mean mean_fd"),
        (["--task", "demo-sex", "--kind", "dummy", "--by", "site", "--folds", "5"],
         "Choose --folds 3, or --by leave-site-out"),
        (["--task", "demo-sex", "--kind", "dummy", "--folds", "20"], "choose --folds 18"),
        (["--task", "demo-trial-types", "--kind", "tokens"], "Events of task demo-trial-types"),
        (["--task", "fingerprint", "--kind", "dummy"], "nothing is trained, got dummy"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_one_error(options, words, store, tmp_path):
    done = _run(store, tmp_path, *options)
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())
    assert not (tmp_path / "scores.json").exists()
