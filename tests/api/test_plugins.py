"""Tokenizers, adapters and objectives of other distributions are used like ours."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from foreign_plugins import BlockMeans, Denoising
from tiny import fmritok

from fmritok import load_encoder, open_store
from fmritok.errors import CatalogError, FmritokError
from fmritok.list_command import KINDS
from fmritok.pipeline.datasets import DATASETS
from fmritok.testing import ObjectiveContract, VolumeTokenizerContract
from fmritok.tokenizers.registry import TOKENIZERS, build_tokenizer

ENTRY_POINTS = """
[fmritok.tokenizers]
block-means = foreign_plugins:BlockMeans
broken = no_such_module:Tokenizer
vae = foreign_plugins:BlockMeans

[fmritok.datasets]
flat = foreign_plugins:catalog_flat

[fmritok.objectives]
broken = no_such_module:Objective
denoising = foreign_plugins:Denoising
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """Install another distribution, as far as its metadata go."""
    folder = tmp_path / "site" / "foreign-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(folder.parent)


class TestBlockMeans(VolumeTokenizerContract):
    @pytest.fixture
    def tokenizer(self):
        return BlockMeans()


class TestDenoising(ObjectiveContract):
    @pytest.fixture
    def objective(self):
        return Denoising


def test_names_are_ours_and_theirs_and_ours_win(foreign):
    assert TOKENIZERS.names() == ["block-means", "broken", "flatmap", "network", "vae"]
    assert "flat" in DATASETS.names()
    assert TOKENIZERS.find("vae") is not BlockMeans
    assert isinstance(build_tokenizer("block-means", {"cells": 2}), BlockMeans)


def test_an_unknown_name_is_refused_with_the_nearest(foreign):
    with pytest.raises(FmritokError, match=r"one of block-means, .*Did you mean block-means\?"):
        TOKENIZERS.find("block-mean")
    with pytest.raises(CatalogError, match=r"got an unknown name. Did you mean hcp\?"):
        DATASETS.find("hpc")
    with pytest.raises(FmritokError, match="Choose one of them"):
        TOKENIZERS.find("zzz")


def test_another_distribution_that_is_broken_is_named(foreign):
    with pytest.raises(FmritokError, match="broken of foreign: expected no_such_module:Tokenizer"):
        TOKENIZERS.find("broken")


def test_a_foreign_cohort_and_tokenizer_go_all_the_way(foreign, tmp_path, rng):
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (90, -126, -72)
    values = rng.uniform(100, 900, (91, 109, 91, 4)).astype(np.float32)
    root, store = tmp_path / "cohort", tmp_path / "tokens.zarr"
    root.mkdir()
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((2, 2, 2, 2.0))
    image.set_sform(affine, "mni")
    nib.save(image, root / "01.nii.gz")
    made = fmritok("tokenize", "--dataset", "flat", "--root", root, "--store", store,
                   "--tokenizer", "block-means", "--set", "block-means.cells=6",
                   "--executor", "serial")  # fmt: skip
    assert made.exit_code == 0, made.output
    group = open_store(store)["block-means"]
    assert group["flat_01"].shape == (4, 216, 1)
    picture = tmp_path / "back.nii.gz"
    decoded = fmritok("decode", "--store", store, "--run", "flat_01", "--frames", "1:3",
                      "--out", picture)  # fmt: skip
    assert decoded.exit_code == 0, decoded.output
    back = nib.load(picture)
    assert back.shape == (96, 96, 96, 2)
    mean = group["flat_01"][1].reshape(6, 6, 6)
    np.testing.assert_array_equal(back.get_fdata()[::16, ::16, ::16, 0], mean)
    wrong = fmritok("decode", "--store", store, "--run", "flat_01", "--out", tmp_path / "a.png")
    assert "a file ending in .nii or .nii.gz, got .png" in wrong.output
    other = fmritok("decode", "--store", store, "--run", "flat_01", "--out", picture,
                    "--weights", "somewhere")  # fmt: skip
    assert other.exit_code == 2
    assert "--weights: expected an option of tokenizer block-means" in other.output


def test_a_foreign_objective_is_trained_resumed_and_loaded(foreign, make_store, tmp_path):
    location, _ = make_store([20, 24, 16, 18], n_tokens=3, dim=4)
    out = tmp_path / "training"
    small = {"data.window": 8, "model.width": 16, "model.layers": 1, "model.mlp_width": 16,
             "train.checkpoint_every": 2, "train.validate_every": 2}  # fmt: skip
    options = [f"--set={name}={value}" for name, value in small.items()]
    chosen = ["--set", "objective.name=denoising", "--set", "objective.noise=0.2"]
    train = ("train", "--loader-workers", 0, "--device", "cpu")
    done = fmritok(*train, "--store", location.url, "--out", out, "--recipe", "tiny",
                   *options, *chosen, "--steps", 4)  # fmt: skip
    assert done.exit_code == 0, done.output
    last = out / "checkpoints" / "step-00000004"
    weights = (last / "model.safetensors").read_bytes()
    shutil.rmtree(last)
    again = fmritok(*train, "--store", location.url, "--resume", out)
    assert again.exit_code == 0, again.output
    assert (last / "model.safetensors").read_bytes() == weights
    encoder = load_encoder(out)
    assert (encoder.window, encoder.width) == (8, 16)
    ours = fmritok(*train, "--store", location.url, "--set", "objective.noise=0.2")
    assert ours.exit_code == 2
    assert "options of objective denoising and distill" in " ".join(ours.output.split())


def test_list_names_ours_and_theirs(foreign):
    found = {kind: fmritok("list", kind, "--json") for kind in KINDS}
    names = {kind: {row["name"] for row in json.loads(one.output)} for kind, one in found.items()}
    assert names["tokenizers"] == {"block-means", "broken", "flatmap", "network", "vae"}
    assert {"bids", "flat", "hcp"} <= names["datasets"]
    assert {"tiny", "tablet"} <= names["recipes"]
    assert names["objectives"] == {"broken", "denoising", "distill", "mae", "mtm"}
    listed = fmritok("list", "objectives").output
    assert "Add noise to the tokens, and predict them without it. (foreign)" in listed
    printed = fmritok("list", "tokenizers").output
    assert "The mean of each cube of voxels. (foreign)" in printed
    assert "expected no_such_module:Tokenizer to be imported" in " ".join(printed.split())
    assert "A small model that learns on two CPU cores" in fmritok("list", "recipes").output
    assert fmritok("list", "recipe").exit_code == 2
