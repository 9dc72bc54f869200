"""Encoders on the hub: saved, pushed, and found again in its cache without a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from tiny import fmritok, tokenize_options, write_atlas, write_cohort

from fmritok import Encoder, load_encoder
from fmritok.hub import snapshots
from fmritok.trainer.errors import CheckpointError, ConfigError

COMMIT = "a" * 40
SMALL = {"model.width": 16, "model.layers": 1, "model.mlp_width": 16, "data.window": 8,
         "data.batch_size": 2, "model.patch": 2}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Tokenize a small cohort, train on it, and save the encoder."""
    folder = tmp_path_factory.mktemp("hub")
    atlas = write_atlas(folder / "atlas")
    root = write_cohort(folder / "cohort", ["100001", "100002", "100003"], frames=20)
    done = fmritok(*tokenize_options(root, folder / "tokens.zarr", atlas))
    assert done.exit_code == 0, done.output
    sets = [x for name, value in SMALL.items() for x in ("--set", f"{name}={value}")]
    done = fmritok("train", "--store", folder / "tokens.zarr", "--out", folder / "training",
                   "--steps", "2", "--loader-workers", "0", *sets)  # fmt: skip
    assert done.exit_code == 0, done.output
    load_encoder(folder / "training").save_pretrained(folder / "model", license="cc-by-4.0")
    return folder


@pytest.fixture
def run(made):
    return next((made / "cohort" / "100001").rglob("*.dtseries.nii"))


@pytest.fixture
def cache(made, tmp_path, monkeypatch):
    """Make a cache as the hub's client does, with the model; there is no network."""
    folder = tmp_path / "cache"
    place = folder / "models--somebody--small" / "snapshots" / COMMIT
    shutil.copytree(made / "model", place)
    (place.parents[1] / "refs").mkdir()
    (place.parents[1] / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return place


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
                   "--loader-workers", 0, "--init-from", "somebody/small",
                   *[x for name, value in SMALL.items() for x in ("--set", f"{name}={value}")],
                   )  # fmt: skip
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
    assert "where there is a network" in " ".join(done.output.split())


class FakeHub:
    """What the mixin uses of the hub's client; keeps what is uploaded."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, token=None):
        return self

    def create_repo(self, repo_id, **_):
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, folder_path, repo_id, **_):
        shutil.copytree(folder_path, self.folder)
        return f"https://huggingface.co/{repo_id}/commit/{COMMIT}"


def test_pushing_needs_a_licence_and_uploads_no_paths(made, tmp_path, monkeypatch, run):
    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", FakeHub(tmp_path / "pushed"))
    encoder = load_encoder(made / "training")
    with pytest.raises(ConfigError, match="expected an identifier such as cc-by-4.0, got none"):
        encoder.push_to_hub("somebody/small")
    with pytest.raises(ConfigError, match="Licence"):
        encoder.save_pretrained(tmp_path / "x", push_to_hub=True, repo_id="somebody/small")
    assert not (tmp_path / "pushed").exists()
    url = encoder.push_to_hub("somebody/small", license="cc-by-4.0")
    assert url.endswith(COMMIT)
    assert str(made) not in "".join(
        path.read_bytes().decode(errors="replace") for path in (tmp_path / "pushed").iterdir()
    )
    pushed = json.loads((tmp_path / "pushed" / "tokenizer.json").read_text())
    assert pushed["options"]["atlas"] == "atlas"
    with pytest.raises(CheckpointError, match="Give load_encoder options with paths"):
        load_encoder(tmp_path / "pushed").embed(run)
    options = {"atlas": str(made / "atlas")}
    found = load_encoder(tmp_path / "pushed", options=options).embed(run).pooled
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
