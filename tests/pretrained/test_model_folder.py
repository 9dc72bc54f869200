"""A damaged model folder is refused, and the damaged file is named."""

from __future__ import annotations

import json
import shutil

import pytest
from probed import probed_store, quick_training

from fmritok.pipeline.store.documents.seal import canonical_json, sha256
from fmritok.trainer.errors import CheckpointError
from fmritok.trainer.evaluation.features import load_frozen
from fmritok.trainer.pretrained.exporting import export
from fmritok.trainer.pretrained.model_folder import FILES, ModelFolder

SEALED = [name for name in FILES if name != "README.md"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    training = quick_training(probed_store(folder), folder / "training")
    export(training, folder / "model")
    return folder / "model"


@pytest.fixture
def model(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "model")


def edited(folder, **changes):
    """Change fields of the configuration, and seal it again."""
    tree = json.loads((folder / "config.json").read_text()) | changes
    tree.pop("digest")
    tree["digest"] = sha256(canonical_json(tree))
    (folder / "config.json").write_bytes(canonical_json(tree))


def test_the_folder_has_these_files(sound):
    assert {path.name for path in sound.iterdir()} == set(FILES)
    tree = json.loads((sound / "config.json").read_text())
    assert set(tree["files"]) == set(SEALED) - {"config.json"}
    assert tree["layout"] == {"kind": "plain", "n_tokens": 3, "dim": 4, "patch": 1, "cells": 3}
    assert json.loads((sound / "tokenizer.json").read_text())["name"] == "vae"


@pytest.mark.parametrize("name", SEALED)
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_named(name, damage, model):
    file = model / name
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    file.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    if damage == "gone":
        file.unlink()
    with pytest.raises(CheckpointError, match=rf"Model file .*{name}: expected") as caught:
        load_frozen(model)
    assert "export or fetch it again" in str(caught.value)


def test_a_card_that_people_edit_does_no_harm(model):
    (model / "README.md").write_text("Mine.")
    (model / ".gitattributes").write_text("*")
    assert load_frozen(model).window == 8


def test_a_folder_of_a_newer_release_is_refused(model):
    edited(model, format="fmritok model 7")
    with pytest.raises(CheckpointError, match="'fmritok model 7'. Use a newer release"):
        load_frozen(model)


def test_an_option_that_this_release_does_not_know_is_named(model):
    recipe = json.loads((model / "config.json").read_text())["recipe"]
    edited(model, recipe={**recipe, "model": {**recipe["model"], "wings": 2}})
    with pytest.raises(CheckpointError, match=r"model\.wings"):
        load_frozen(model)


def test_writing_that_fails_leaves_no_half_model(sound, model, monkeypatch):
    """The configuration is written last: without it, the folder is refused."""
    from fmritok.trainer.errors import TrainingError
    from fmritok.trainer.pretrained import model_folder

    def full(path, content):
        if path.name == "layout.safetensors":
            raise OSError(28, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr(model_folder, "write_whole", full)
    with pytest.raises(TrainingError, match="No space left"):
        export(sound, model)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        ModelFolder.read(model)
