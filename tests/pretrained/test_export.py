"""An exported encoder gives what its training gives, wherever a training is taken."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from probed import SMALL, probed_store, quick_training
from tiny import fmritok

from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.evaluation.features import load_frozen
from fmritok.trainer.pretrained.model_folder import ModelFolder, is_model_folder
from fmritok.trainer.recipe import build_config, override
from fmritok.trainer.record.finding import find_weights, init_weights
from fmritok.trainer.record.folder import TrainingFolder
from fmritok.trainer.training.loop import Trainer
from fmritok.trainer.training.setup import Setup

OBJECTIVES = {"mtm": [], "mae": ["objective.decoder_width=16"],
              "distill": ["objective.crop=4", "objective.head_width=8"]}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    store = probed_store(folder)
    training = quick_training(store, folder / "training", "data.validation_fraction=0.5")
    done = fmritok("export", training, "--out", folder / "model", "--license", "cc-by-4.0")
    assert done.exit_code == 0, done.output
    assert "No licence" not in done.output
    return folder


def same_weights(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_weights_recipe_and_layout_come_back(objective, made, tmp_path):
    more = [f"objective.name={objective}", *OBJECTIVES[objective], "train.seed=3"]
    store = str(made / "tokens.zarr")
    training = quick_training(store, tmp_path / "t", *more)
    assert fmritok("export", training, "--out", tmp_path / "m").exit_code == 0
    trained, model = load_frozen(training), load_frozen(tmp_path / "m")
    assert same_weights(trained.encoder, model.encoder)
    assert (model.config, model.window) == (trained.config, trained.window)
    assert model.group.contract == json.loads(json.dumps(trained.group.contract))
    twins = [load_frozen(x, untrained_seed=5) for x in (training, tmp_path / "m")]
    assert same_weights(twins[0].encoder, twins[1].encoder)
    assert not same_weights(twins[0].encoder, trained.encoder)


def test_an_exported_folder_is_exported_again_with_a_licence(made, tmp_path):
    done = fmritok("export", made / "training", "--out", tmp_path / "a")
    assert "No licence is stated" in done.output
    done = fmritok("export", tmp_path / "a", "--out", tmp_path / "a", "--license", "cc-by-nc-4.0")
    assert done.exit_code == 0, done.output
    first, again = ModelFolder.read(made / "model"), ModelFolder.read(tmp_path / "a")
    assert again.license == "cc-by-nc-4.0"
    assert again.sha256() == first.sha256()
    assert again.facts == first.facts
    assert "It forbids commercial use." in (tmp_path / "a" / "README.md").read_text()


def test_a_folder_with_other_files_is_not_written_to(made, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    done = fmritok("export", made / "training", "--out", tmp_path)
    assert done.exit_code == 2
    assert "expected a new or empty folder" in " ".join(done.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_card_counts_the_cohorts_and_has_no_ids(made):
    text = (made / "model" / "README.md").read_text()
    assert "license: cc-by-4.0" in text
    assert "| demo | trained on | 6 | 12 | 0.03 |" in text
    assert "| demo | held out | 6 | 12 | 0.03 |" in text
    assert "mean token" in text
    ids = [str(name) for name in TokenStore(str(made / "tokens.zarr")).group().runs["run_id"]]
    written = b"".join(path.read_bytes() for path in (made / "model").iterdir())
    assert not [name for name in ids if name.encode() in written]


def test_who_was_held_out_by_name_is_not_exported(made, tmp_path):
    training = quick_training(
        str(made / "tokens.zarr"), tmp_path / "t", "data.hold_out=subject=104"
    )
    assert fmritok("export", training, "--out", tmp_path / "m").exit_code == 0
    assert load_frozen(training).config.data.hold_out == "subject=104"
    assert load_frozen(tmp_path / "m").config.data.hold_out is None


def test_embed_writes_the_same_table(made, tmp_path):
    tables = []
    for name in ("training", "model"):
        out = tmp_path / f"{name}.parquet"
        done = fmritok("embed", "--from", made / name, "--store", made / "tokens.zarr", "--device",
                       "cpu", "--out", out)  # fmt: skip
        assert done.exit_code == 0, done.output
        tables.append(pd.read_parquet(out))
    one, other = (np.stack(table["embedding"]) for table in tables)
    np.testing.assert_array_equal(one, other)


def test_probe_scores_it_and_says_that_overlap_is_not_known(made, tmp_path, caplog):
    trees = []
    for name in ("training", "model"):
        done = fmritok("probe", "--from", made / name, "--store", made / "tokens.zarr", "--task",
                       "demo-sex", "--crops", 2, "--seeds", 1, "--folds", 3, "--permutations", 2,
                       "--device", "cpu", "--out", tmp_path / name)  # fmt: skip
        assert done.exit_code == 0, done.output
        trees.append(json.loads((tmp_path / name / "scores.json").read_text()))
    trained, model = trees
    assert model["rows"][0]["figures"]["auroc"] == trained["rows"][0]["figures"]["auroc"]
    assert trained["rows"][0]["overlap"]["seen"] == 6
    assert model["rows"][0]["overlap"] is None
    assert caplog.text.count("does not say who it was trained on") == 1
    done = fmritok("probe", "--from", made / "model", "--store", made / "tokens.zarr", "--task",
                   "demo-sex", "--held-out", made / "model", "--out", tmp_path / "h")  # fmt: skip
    assert done.exit_code == 1
    assert "ids of participants are not exported" in " ".join(done.output.split())


def test_finetune_starts_from_it(made, tmp_path):
    done = fmritok("finetune", "--task", "demo-sex", "--store", made / "tokens.zarr", "--from",
                   made / "model", "--no-twin", "--seeds", 1, "--folds", 2, "--device", "cpu",
                   "--set", "train.epochs=1", "--out", tmp_path)  # fmt: skip
    assert done.exit_code == 0, done.output
    tree = json.loads((tmp_path / "scores.json").read_text())
    row = next(row for row in tree["rows"] if row["row"] == "finetune (all)")
    assert row["start"]["sha256"] == ModelFolder.read(made / "model").sha256()


@pytest.mark.parametrize(
    ("objective", "file"), [("mtm", "model.safetensors"), ("mae", ""), ("distill", "")]
)
def test_a_training_of_any_objective_starts_from_it(objective, file, made, tmp_path):
    store = TokenStore(str(made / "tokens.zarr"))
    frozen = load_frozen(made / "model")
    more = [f"objective.name={objective}", *OBJECTIVES[objective]]
    config = build_config(override({}, [*SMALL, *more]))
    setup = Setup(folder=TrainingFolder(tmp_path / "new"), device=torch.device("cpu"),
                  init_from=made / "model" / file)  # fmt: skip
    trainer = Trainer(config, store.group(), setup)
    assert same_weights(trainer.model.encoder, frozen.encoder)
    assert same_weights(trainer.model.features, frozen.encoder)
    trainer.run()
    assert not same_weights(trainer.model.encoder, frozen.encoder)


def test_an_encoder_of_another_shape_is_refused_by_its_first_tensor(made):
    model = Trainer(
        build_config(override({}, [*SMALL, "model.width=32"])),
        TokenStore(str(made / "tokens.zarr")).group(),
        Setup(folder=TrainingFolder(made / "wide2"), device=torch.device("cpu")),
    ).model
    with pytest.raises(CheckpointError, match=r"model\.safetensors: expected \w+ of shape"):
        init_weights(find_weights(made / "model"), model)


def test_it_cannot_be_resumed_or_trained_into(made):
    store = ("--store", made / "tokens.zarr", "--recipe", "tiny")
    done = fmritok("train", *store, "--resume", made / "model")
    assert done.exit_code == 1
    assert "give it as --init-from" in " ".join(done.output.split())
    done = fmritok("train", *store, "--resume", made / "model", "--out", made / "new")
    assert "A model folder has neither state nor metrics" in " ".join(done.output.split())
    done = fmritok("train", *store, "--out", made / "model")
    assert done.exit_code == 1
    assert "got a model folder" in " ".join(done.output.split())


def test_weights_of_other_programs_need_an_import(made, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((made / "model/model.safetensors").read_bytes())
    done = fmritok("train", "--store", made / "tokens.zarr", "--recipe", "tiny", "--init-from",
                   tmp_path, "--out", tmp_path / "t")  # fmt: skip
    assert done.exit_code == 1
    said = " ".join(done.output.split())
    assert "others (model.safetensors)" in said
    assert "`fmritok import` first" in said
    assert not is_model_folder(tmp_path)
