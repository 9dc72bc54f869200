"""An encoder needs its checkpoint alone; it embeds scans as it would from their store."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from tiny import fmritok, tokenize_options, write_atlas, write_cohort
from torch.utils.data import default_collate

from fmritok import load_encoder, open_store, tokenize
from fmritok.errors import RunError
from fmritok.trainer.data.windows import RunIndex
from fmritok.trainer.errors import CheckpointError, ConfigError
from fmritok.trainer.evaluation.features import load_frozen
from fmritok.trainer.probing.cache import FeatureCache
from fmritok.trainer.probing.passes import Need, features_of, needed_windows

WINDOW = 8
FAST = ["--steps", "2", "--loader-workers", "0"]
SMALL = {"model.width": 16, "model.layers": 1, "model.mlp_width": 16, "data.window": WINDOW,
         "data.batch_size": 2, "model.patch": 2, "model.registers": 1}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Tokenize a small cohort and train on it."""
    folder = tmp_path_factory.mktemp("encoder")
    atlas = write_atlas(folder / "atlas")
    root = write_cohort(folder / "cohort", ["100001", "100002", "100003"], frames=20)
    store = folder / "tokens.zarr"
    done = fmritok(*tokenize_options(root, store, atlas))
    assert done.exit_code == 0, done.output
    sets = [x for name, value in SMALL.items() for x in ("--set", f"{name}={value}")]
    done = fmritok("train", "--store", store, "--out", folder / "training", *FAST, *sets)
    assert done.exit_code == 0, done.output
    return folder


def test_it_needs_no_store_and_gives_what_the_store_gives(made, tmp_path):
    group = open_store(made / "tokens.zarr")["network"]
    run_id = "hcp_100002_tfMRI_MOTOR_LR"
    frozen = load_frozen(made / "training", group)
    index = RunIndex.of(group.runs, [run_id])
    # 21 frames: whole windows at 0 and 8, and one that ends with the run
    windows = needed_windows(index, np.array([0]), window=WINDOW, crops=1)
    need = Need("mean", windows, windows.run, 1)
    cache = FeatureCache(tmp_path / "cache")
    ((wanted,),) = features_of([frozen], group, index, [need], cache, device=torch.device("cpu"))

    alone = shutil.copytree(made / "training" / "checkpoints", tmp_path / "copied")
    (checkpoint,) = alone.iterdir()
    encoder = load_encoder(checkpoint)
    path = next((made / "cohort" / "100002").rglob("*.dtseries.nii"))
    out = encoder.embed(path)
    assert out.start.tolist() == pytest.approx([0, 8 * 0.72, 13 * 0.72])
    assert out.tokens.shape == (3, 4, 2, 16)
    assert (out.cls.shape, out.registers.shape) == ((3, 16), (3, 1, 16))
    np.testing.assert_allclose(out.times, [0, 1.44, 2.88, 4.32], rtol=1e-6)
    first = np.concatenate([out.tokens[0].mean((0, 1)), out.cls[0]])
    np.testing.assert_allclose(first, wanted[0], rtol=1e-5, atol=1e-6)
    pooled = np.concatenate([out.tokens.mean((0, 1, 2)), out.cls.mean(0)])
    np.testing.assert_allclose(out.pooled, pooled, rtol=1e-5, atol=1e-6)
    assert repr(encoder) == "Encoder(network: windows of 8 frames, 16 features, step 2)"
    assert repr(out) == "Embedding(3 windows of 4 x 2 tokens, 16 features)"


def test_batches_do_not_change_what_comes_out(made):
    encoder = load_encoder(made / "training")
    path = next((made / "cohort" / "100001").rglob("*.dtseries.nii"))
    one, many = encoder.embed(path, batch_size=1), encoder.embed(path)
    np.testing.assert_allclose(one.tokens, many.tokens, rtol=1e-4, atol=1e-5)


def test_at_least_one_window_at_once(made):
    encoder = load_encoder(made / "training")
    path = next((made / "cohort" / "100001").rglob("*.dtseries.nii"))
    for name, call in (("batch_size", encoder.embed), ("count", encoder.windows)):
        with pytest.raises(ConfigError, match=f"{name}: expected 1 or more, got 0"):
            call(path, **{name: 0})


def test_windows_of_runs_can_be_stacked_and_the_module_encodes_them(made, rng):
    """Of a run of two windows, an overlapping one, and one that ends with padding."""
    encoder = load_encoder(made / "training")
    runs = [rng.standard_normal((n, 4)) for n in (16, 11, 5)]
    batch = default_collate([encoder.windows(run, tr=0.72, count=2) for run in runs])
    out = encoder.module(batch)
    assert (out.cls.shape, out.tokens.shape) == ((3, 2, 16), (3, 2, 4, 2, 16))
    alone = [encoder.embed(run, tr=0.72) for run in runs]
    for i in (0, 1):
        np.testing.assert_allclose(out.cls[i].detach(), alone[i].cls, atol=1e-5)
        np.testing.assert_allclose(out.tokens[i].detach(), alone[i].tokens, atol=1e-5)
    np.testing.assert_allclose(out.cls[2, 0].detach(), alone[2].cls[0], atol=1e-5)
    assert out.valid[2, 0].tolist() == [True, True, True, False]
    row = out.in_a_row()
    assert row.shape == (3, 16, 16)
    np.testing.assert_allclose(row[2].mean(0).detach(), alone[2].tokens.mean((0, 1, 2)), atol=1e-5)
    row.sum().backward()
    assert all(x.grad is not None for x in encoder.module.encoder.blocks.parameters())


def test_a_run_that_is_tokenized_already_is_taken_as_it_is(made):
    encoder = load_encoder(made / "training")
    path = next((made / "cohort" / "100001").rglob("*.dtseries.nii"))
    tokens = tokenize(path, encoder.tokenizer)
    np.testing.assert_array_equal(encoder.embed(tokens).cls, encoder.embed(path).cls)


def test_a_run_shorter_than_a_window_is_one_window(made, rng):
    encoder = load_encoder(made / "training")
    out = encoder.embed(rng.standard_normal((5, 4)), tr=0.72)
    assert out.tokens.shape == (1, 3, 2, 16)
    assert np.isfinite(out.pooled).all()


def test_tokens_of_another_kind_are_refused_by_the_first_field(made, rng):
    encoder = load_encoder(made / "training")
    options = {"atlas": encoder.tokenizer.reference, "band": None, "tr": 1.0}
    other = tokenize(rng.standard_normal((30, 4)), "network", tr=0.72, options=options)
    with pytest.raises(CheckpointError, match=r"provenance\.tr.* = None .as it was trained"):
        encoder.embed(other)


def test_bad_input_is_refused_as_by_the_tokenizer(made, rng):
    encoder = load_encoder(made / "training")
    with pytest.raises(RunError, match="4 parcels, got time courses of 7"):
        encoder.embed(rng.standard_normal((30, 7)), tr=1.0)


def test_a_checkpoint_that_is_damaged_is_refused(made, tmp_path):
    copied = shutil.copytree(made / "training", tmp_path / "training")
    (file,) = copied.rglob("tokens.safetensors")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"tokens\.safetensors: expected the content"):
        load_encoder(copied)
    with pytest.raises(CheckpointError, match="got nothing"):
        load_encoder(tmp_path / "no-training")
