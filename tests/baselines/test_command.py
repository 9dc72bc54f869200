"""``fmritok baseline`` from a store to scores, on all kinds of tasks."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from labelled import FRAMES, labelled_store
from tiny import fmritok

N_SUBJECTS = 36


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two runs of 36 subjects: men's first two parcels go together, as do a subject's last two."""
    folder = tmp_path_factory.mktemp("store")
    own = np.random.default_rng(1).uniform(-1, 1, (N_SUBJECTS, 4))

    def series(subject, rng):
        x = rng.standard_normal((FRAMES, 8))
        x[:, 1] += 4 * (subject % 2 == 0) * x[:, 0]
        x[:, 4:] += own[subject] * x[:, [2]]
        return x

    rng = np.random.default_rng(0)
    people = pd.DataFrame(
        {"sex": ["M", "F"] * (N_SUBJECTS // 2), "age": rng.uniform(20, 60, N_SUBJECTS),
         "mean_fd": rng.uniform(0.1, 0.4, N_SUBJECTS)}
    )  # fmt: skip
    people.loc[5, "mean_fd"] = np.nan
    return labelled_store(folder, series, people, networks=list(range(8))).url


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
    assert "Left out: 1 subject, confound missing." in done.output
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
