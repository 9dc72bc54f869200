"""Encoders on the hub: saved, pushed, and found again in its cache without a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from tiny import fmritok

from fmritok import Encoder, load_encoder
from fmritok.hub import snapshots
from fmritok.trainer.errors import CheckpointError, ConfigError

COMMIT = "a" * 40


@pytest.fixture(scope="module")
def made(scanned, tmp_path_factory):
    """Save the encoder of a training."""
    folder = tmp_path_factory.mktemp("saved")
    load_encoder(scanned / "training").save_pretrained(folder / "model", license="cc-by-4.0")
    for name in ("training", "tokens.zarr", "cohort", "atlas", "recipe.yaml"):
        (folder / name).symlink_to(scanned / name)
    return folder


@pytest.fixture
def run(scanned):
    return next((scanned / "cohort" / "100001").rglob("*.dtseries.nii"))


@pytest.fixture
def cache(made, snapshot):
    """Put the model into the cache of the hub."""
    return shutil.copytree(made / "model", snapshot("somebody/small"), dirs_exist_ok=True)


def test_a_saved_encoder_embeds_a_scan_as_its_training_does(made, run, tmp_path):
    trained = load_encoder(made / "training")
    saved = Encoder.from_pretrained(made / "model")
    assert (trained.license, saved.license) == (None, "cc-by-4.0")
    one, other = trained.embed(run), saved.embed(run)
    for name in ("cls", "registers", "tokens", "pooled", "start", "times"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    saved.save_pretrained(tmp_path / "again")
    again = load_encoder(tmp_path / "again")
    assert again.license == "cc-by-4.0"
    assert again.source["sha256"] == saved.source["sha256"]
    assert "license: cc-by-4.0" in (tmp_path / "again" / "README.md").read_text()
    Encoder.from_pretrained(made / "training").save_pretrained(tmp_path / "again")
    assert load_encoder(tmp_path / "again").license is None


def test_a_hub_model_is_found_in_the_cache_by_its_name(cache, run, made):
    wanted = load_encoder(made / "model").embed(run).pooled
    for encoder in (
        Encoder.from_pretrained("somebody/small"),
        Encoder.from_pretrained("somebody/small", revision=COMMIT, local_files_only=True),
        load_encoder("somebody/small"),
    ):
        assert encoder.source["checkpoint"] == str(cache)
        np.testing.assert_array_equal(encoder.embed(run).pooled, wanted)


def test_commands_take_the_name_of_a_hub_model(cache, made, tmp_path):
    done = fmritok("embed", "--from", "somebody/small", "--store", made / "tokens.zarr", "--out",
                   tmp_path / "e.parquet", "--device", "cpu")  # fmt: skip
    assert done.exit_code == 0, done.output
    done = fmritok("train", "--store", made / "tokens.zarr", "--out", tmp_path / "t", "--steps", 1,
                   "--loader-workers", 0, "--init-from", "somebody/small", "--recipe",
                   made / "recipe.yaml")  # fmt: skip
    assert done.exit_code == 0, done.output


def test_a_hub_model_that_is_not_there_is_one_error(cache):
    with pytest.raises(CheckpointError, match="fmritok fetch model somebody/else"):
        Encoder.from_pretrained("somebody/else")
    with pytest.raises(CheckpointError, match="Checkpoint somebody/else: .*got nothing"):
        load_encoder("somebody/else")
    done = fmritok("embed", "--from", "somebody/else", "--store", "x", "--out", "e.parquet")
    assert done.exit_code != 0


def test_fetch_model_downloads_and_prints_the_folder(monkeypatch, tmp_path):
    asked = {}

    def snapshot(hub_id, **options):
        asked.update(options, hub_id=hub_id)
        return str(tmp_path / COMMIT)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    done = fmritok("fetch", "model", "somebody/small", "--revision", "v1", "--file", "*.pth")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [f"somebody/small at {COMMIT}", str(tmp_path / COMMIT)]
    assert (asked["hub_id"], asked["revision"]) == ("somebody/small", "v1")
    assert {"config.json", "model.safetensors", "a.pth"} <= {
        name for name in ("config.json", "model.safetensors", "a.pth", "b.exe")
        for pattern in asked["allow_patterns"] if Path(name).match(pattern)
    }  # fmt: skip
    assert not asked["local_files_only"]


def test_fetch_model_without_a_network_is_one_sentence(cache):
    done = fmritok("fetch", "model", "somebody/else")
    assert done.exit_code == 1
    assert "where there is a network" in done.output
    assert len(done.output.splitlines()) == 1, done.output
    assert ".. " not in done.output


def test_pushing_needs_a_licence_and_uploads_no_paths(scanned, tmp_path, snapshot, run):
    made, pushed = scanned, tmp_path / "cache/models--somebody--small/snapshots" / COMMIT
    encoder = load_encoder(made / "training")
    with pytest.raises(ConfigError, match="expected an identifier such as cc-by-4.0, got none"):
        encoder.push_to_hub("somebody/small")
    with pytest.raises(ConfigError, match="Licence"):
        encoder.save_pretrained(tmp_path / "x", push_to_hub=True, repo_id="somebody/small")
    assert not pushed.exists()
    url = encoder.push_to_hub("somebody/small", license="cc-by-4.0")
    assert url.endswith(COMMIT)
    assert str(made) not in "".join(
        path.read_bytes().decode(errors="replace") for path in pushed.iterdir()
    )
    said = json.loads((pushed / "tokenizer.json").read_text())
    assert said["options"]["atlas"] == "atlas"
    with pytest.raises(CheckpointError, match="Give load_encoder options with paths"):
        load_encoder("somebody/small").embed(run)
    options = {"atlas": str(made / "atlas")}
    found = load_encoder(pushed, options=options).embed(run).pooled
    np.testing.assert_array_equal(found, encoder.embed(run).pooled)


def test_a_card_is_made_of_facts(made):
    card = Encoder.from_pretrained(made / "model").generate_model_card()
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "fmritok"
    assert {"fmri", "network", "mtm"} <= set(card.data.tags)


@pytest.mark.parametrize(
    ("name", "may_be"),
    [("user/model", True), ("user/model.v2", True), ("model", False), ("a/b/c", False),
     ("./model", False), ("/user/model", False), ("~/model", False), ("../x", False)],
)  # fmt: skip
def test_names_of_the_hub_are_told_from_paths(name, may_be):
    assert snapshots.is_hub_id(name) == may_be
