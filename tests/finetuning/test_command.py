"""``fmritok finetune`` from a store to scores."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from labelled import FRAMES, labelled_store
from planted import planted_store, small_training
from tiny import fmritok

from fmritok.trainer.errors import ConfigError
from fmritok.trainer.evaluation.results import read_results
from fmritok.trainer.finetuning.config import finetune_config
from fmritok.trainer.recipe import recipe_names

EVENTS = pd.DataFrame(
    [{"run_id": f"demo_{100 + i}_0", "onset": 10.0 + 20 * k, "duration": 2.0,
      "trial_type": ("left", "right")[k % 2]} for i in range(32) for k in range(3)]
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return planted_store(tmp_path_factory.mktemp("store"), events=EVENTS)


@pytest.fixture(scope="module")
def training(store, tmp_path_factory):
    return small_training(store, tmp_path_factory.mktemp("training") / "t")


def _run(store, out, *more, task="demo-sex", epochs=15):
    return fmritok("finetune", "--task", task, "--store", store, "--out", out, "--seeds", 1,
                   "--folds", 2, "--device", "cpu", "--set", f"train.epochs={epochs}",
                   "--set", "optim.lr=1e-2", *more)  # fmt: skip


@pytest.mark.parametrize(
    ("task", "metric", "found"),
    [("demo-sex", "auroc", 0.8), pytest.param("demo-age", "r", 0.4, marks=pytest.mark.slow)],
)
def test_a_planted_effect_is_found_and_not_in_permuted_labels(
    task, metric, found, store, training, tmp_path
):
    more = ["data.validation_fraction=0.4", "data.batch_size=8", "data.windows_per_run=2",
            "head.pool=mean", "optim.lr=5e-3"]  # fmt: skip
    done = _run(store, tmp_path, "--from", training, "--control", "--no-twin",
                *[x for one in more for x in ("--set", one)], task=task, epochs=25)  # fmt: skip
    assert done.exit_code == 0, done.output
    tree, predictions = read_results(tmp_path)
    means = {row["row"]: row["figures"][metric]["mean"] for row in tree["rows"]}
    assert list(means) == ["dummy", "finetune (all)", "permuted labels"]
    assert means["finetune (all)"] > found
    assert means["permuted labels"] - means["dummy"] < 0.3
    assert set(predictions["row"]) == set(means)
    assert tree["overlap"]["training"] == str(training)
    assert "Verdict on finetune (all): better than chance" in done.output
    assert "Verdict on permuted labels: not different from chance" in done.output


def test_the_twin_has_the_same_folds_and_shape_and_trains_all_weights(store, training, tmp_path):
    done = _run(store, tmp_path, "--from", training, "--weights", "head", epochs=1)
    assert done.exit_code == 0, done.output
    tree, predictions = read_results(tmp_path)
    dummy, tuned, twin = tree["rows"]
    assert [row["row"] for row in tree["rows"]] == ["dummy", "finetune (head)", "scratch"]
    own, other = (predictions[predictions["row"] == row["row"]] for row in (tuned, twin))
    columns = ["unit", "fold", "seed", "truth"]
    assert own[columns].reset_index(drop=True).equals(other[columns].reset_index(drop=True))
    assert tuned["parameters"] == twin["parameters"] == twin["trained_parameters"]
    assert tuned["trained_parameters"] < 200
    assert "sha256" in tuned["start"]
    assert "sha256" not in twin["start"]
    assert all(fold["validation"] for fold in tree["folds"])
    assert "compare with row dummy" in tuned["chance"]
    assert tuned["figures"]["auroc"]["chance"] is None
    curve = (tmp_path / "curves/scratch-seed0-fold1.jsonl").read_text().splitlines()
    assert set(json.loads(curve[0])) == {"epoch", "step", "loss", "validation_loss",
                                         "validation_auroc"}  # fmt: skip
    assert finetune_config(str(tmp_path / "finetune.yaml")).weights.train == "head"


def test_windows_of_events_are_units(store, training, tmp_path, caplog):
    done = _run(store, tmp_path, "--from", training, "--no-twin", task="demo-trial-types",
                epochs=1)  # fmt: skip
    assert done.exit_code == 0, done.output
    tree, predictions = read_results(tmp_path)
    own = predictions[predictions["row"] == "finetune (all)"]
    assert sorted(own["unit"]) == sorted(f"demo_{100 + i}_0@{f:06d}" for i in range(32)
                                         for f in (7, 17, 27))  # fmt: skip
    assert "shorter than a token of 5 frames" in caplog.text


@pytest.mark.parametrize("shape", ["training", "tiny"])
def test_from_scratch_takes_the_shape_of_a_training_or_of_a_recipe(
    shape, store, training, tmp_path
):
    more = ["--as", training] if shape == "training" else ["--as", "tiny"]
    done = _run(store, tmp_path, "--from", "none", *more, "--json", epochs=1)
    assert done.exit_code == 0, done.output
    tree, _ = read_results(tmp_path)
    assert [row["row"] for row in tree["rows"]] == ["dummy", "scratch"]
    assert tree["config"]["data"]["window"] == (20 if shape == "training" else 32)


def test_a_given_split_with_a_validation_side(store, training, tmp_path):
    sides = {"train": [str(i) for i in range(100, 116)],
             "validation": [str(i) for i in range(116, 124)],
             "test": [str(i) for i in range(124, 132)]}  # fmt: skip
    (tmp_path / "split.json").write_text(json.dumps(sides))
    done = _run(store, tmp_path / "out", "--from", training, "--split", tmp_path / "split.json",
                "--no-twin", epochs=1)  # fmt: skip
    assert done.exit_code == 0, done.output
    tree, _ = read_results(tmp_path / "out")
    assert [(f["train"], f["validation"], f["test"]) for f in tree["folds"]] == [(16, 8, 8)]
    done = _run(store, tmp_path / "held", "--from", training, "--held-out", training, "--no-twin",
                epochs=1)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert read_results(tmp_path / "held")[0]["overlap"]["seen"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--from", "none"], "Option --as: expected the shape of an encoder from scratch"),
        (["--from", "TRAINING", "--as", "tiny"], "the shape is that of --from"),
        (["--from", "nowhere"], "Checkpoint nowhere"),
        (["--from", "none", "--as", "tinyy"], "Option --as: expected a training, or a recipe"),
        (["--from", "TRAINING", "--set", "data.window=4"], "at least the 5 frames of a token"),
        (["--from", "TRAINING", "--recipe", "tablett"], "default, semantoks, tablet"),
        (["--from", "TRAINING", "--set", "optim.layer_deca=1"], "Did you mean optim.layer_decay"),
        (["--from", "TRAINING", "--set", "train.lr=1"], "Did you mean optim.lr"),
        (["--from", "TRAINING", "--set", "head.dropout=1"], "below 1"),
        (["--from", "TRAINING", "--weights", "last", "--set", "weights.last_layers=9"],
         "at most the 2 layers"),
        (["--from", "TRAINING", "--task", "fingerprint"], "where nothing is trained"),
        (["--from", "TRAINING", "--folds", "30"], "choose --folds"),
        (["--from", "TRAINING", "--where", "subject=101", "--where", "subject=103"],
         "two or more different labels"),
        (["--from", "TRAINING", "--task", "demo-fluid-intelligence"], "PMAT24_A_CR"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_one_error(options, words, store, training, tmp_path):
    named = [training if x == "TRAINING" else x for x in options]
    done = _run(store, tmp_path / "out", *named)
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())
    assert not (tmp_path / "out" / "scores.json").exists()


def test_an_encoder_of_another_tokenization_is_refused(training, tmp_path):
    people = pd.DataFrame({"sex": ["M", "F"] * 6, "age": np.arange(12.0)})
    other = labelled_store(
        tmp_path, lambda i, rng: rng.standard_normal((FRAMES, 4)), people, networks=[0, 0, 1, 1]
    )
    done = _run(other.url, tmp_path / "out", "--from", training)
    assert done.exit_code == 1
    assert "Tokens for the encoder" in done.output


def test_recipes_are_listed_and_resolve_to_what_was_published(tmp_path):
    listed = fmritok("list", "finetune-recipes").output
    assert recipe_names("fmritok.trainer.finetuning.recipes") == ["default", "semantoks", "tablet"]
    assert "TABLeT's fine-tuning" in listed
    tablet, semantoks = finetune_config("tablet"), finetune_config("semantoks")
    assert (tablet.optim.lr, tablet.data.batch_size, tablet.train.epochs) == (1e-4, 4, 20)
    assert (tablet.head.pool, tablet.loss.numbers, tablet.optim.weight_decay) == ("cls", "l1", 0.01)
    assert (semantoks.optim.lr, semantoks.optim.layer_decay) == (1e-4, 0.9)
    assert (semantoks.data.batch_size, semantoks.train.epochs) == (16, 50)
    assert semantoks.data.test_windows == 8
    default = finetune_config("default")
    assert default == type(default)()
    printed = fmritok("finetune", "--task", "x", "--store", "x", "--from", "none", "--recipe",
                      "tablet", "--print-config").output  # fmt: skip
    (tmp_path / "r.yaml").write_text(printed)
    assert finetune_config(str(tmp_path / "r.yaml")) == tablet


def test_lora_without_peft_says_how_to_install_it(store, training, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    done = _run(store, tmp_path, "--from", training, "--weights", "lora")
    assert done.exit_code == 2
    assert "pip install 'fmritok[lora]'" in " ".join(done.output.split())
    with pytest.raises(ConfigError, match="weights.train"):
        finetune_config("default", ["weights.train=loraa"])
