"""Features of frozen encoders: what they are, what they are cached by, one pass for all."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from probed import probed_store, quick_training

from fmritok.pipeline.store.reader import TokenStore
from fmritok.trainer.data.windows import RunIndex, Windows
from fmritok.trainer.errors import CheckpointError, TrainingError
from fmritok.trainer.evaluation.features import (
    encode,
    following_windows,
    load_frozen,
    spread_windows,
)
from fmritok.trainer.probing import passes
from fmritok.trainer.probing.cache import FeatureCache
from fmritok.trainer.probing.passes import Need, features_of, needed_windows

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return probed_store(tmp_path_factory.mktemp("store"), 4)


@pytest.fixture(scope="module")
def training(store, tmp_path_factory):
    return quick_training(store, tmp_path_factory.mktemp("training") / "a", "model.patch=3")


@pytest.fixture
def opened(store):
    group = TokenStore(store).group()
    return group, RunIndex.of(group.runs, sorted(group.runs["run_id"]))


def _needs(index, window=8, crops=3):
    runs = np.arange(len(index))
    windows = needed_windows(index, runs, window=window, crops=crops)
    each = np.arange(len(windows))
    some = windows.take(each[windows.run % 2 == 0])
    return [
        Need("mean", windows, windows.run, len(runs)),
        Need("cells", windows, windows.run, len(runs)),
        Need("tokens", some, np.arange(len(some)), len(some)),
    ]


def _one_by_one(frozen, group, index, windows):
    """Encode windows alone: tokens without padding, and CLS."""
    found = []
    for i in range(len(windows)):
        own = windows.take(np.array([i]))
        ((_, (encoded,)),) = encode([frozen], group, index, own, device=CPU)
        found.append((encoded.tokens[0].numpy(), encoded.cls[0].numpy()))
    return found


def test_windows_are_spread_evenly_or_follow_each_other():
    assert spread_windows(20, window=8, crops=3) == [(0, 8), (6, 8), (12, 8)]
    assert spread_windows(9, window=8, crops=8) == [(0, 8), (1, 8)]
    assert spread_windows(5, window=8, crops=3) == [(0, 5)]
    assert following_windows(21, window=8) == [(0, 8), (8, 8), (13, 8)]
    assert following_windows(16, window=8) == [(0, 8), (8, 8)]
    assert following_windows(5, window=8) == [(0, 5)]


@pytest.mark.parametrize(
    ("options", "window"),
    [({"name": "mtm"}, 8), ({"name": "mae"}, 8), ({"name": "distill"}, 5),
     ({"name": "distill", "apart": True}, 4)],
)  # fmt: skip
def test_the_encoder_that_is_kept_is_loaded(store, tmp_path, options, window):
    chosen = [f"objective.{key}={value}" for key, value in options.items()]
    quick_training(store, tmp_path / "a", *chosen)
    group = TokenStore(store).group()
    frozen, again = (load_frozen(tmp_path / "a", group) for _ in range(2))
    new = load_frozen(tmp_path / "a", group, untrained_seed=0)
    assert frozen.window == window
    assert len(frozen.source["sha256"]) == 64
    pairs = list(zip(*(f.encoder.parameters() for f in (frozen, again, new)), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_features_are_means_over_the_windows_of_a_row(opened, training, tmp_path):
    group, index = opened
    frozen = load_frozen(training, group)
    index = replace(index, n_frames=np.where(np.arange(len(index)) % 3, index.n_frames, 5))
    needs = _needs(index)
    ((mean, cells, tokens),) = features_of(
        [frozen], group, index, needs, FeatureCache(tmp_path), device=CPU
    )
    windows = needs[0].windows
    each = _one_by_one(frozen, group, index, windows)
    for run in range(len(index)):
        own = [each[i] for i in np.flatnonzero(windows.run == run)]
        cls = np.mean([c for _, c in own], axis=0)
        over = np.mean([t.mean((0, 1)) for t, _ in own], axis=0)
        np.testing.assert_allclose(mean[run], np.concatenate([over, cls]), rtol=1e-4, atol=1e-5)
        apart = np.mean([t.mean(0).ravel() for t, _ in own], axis=0)
        np.testing.assert_allclose(cells[run], np.concatenate([apart, cls]), rtol=1e-4, atol=1e-5)
    assert np.ptp(cells[:, :-16].reshape(len(cells), -1, 16), axis=1).max() > 1e-3
    assert tokens.shape[1:] == (3, 3, 16)
    for place, (values, _) in enumerate(_one_by_one(frozen, group, index, needs[2].windows)):
        np.testing.assert_allclose(tokens[place, : len(values)], values, rtol=2e-3, atol=2e-3)
        assert not tokens[place, len(values) :].any()


def test_one_pass_serves_all_needs_and_encoders_and_the_cache_serves_the_next(
    opened, training, tmp_path, monkeypatch
):
    group, index = opened
    encoders = [load_frozen(training, group)]
    encoders += [load_frozen(training, group, untrained_seed=seed) for seed in (0, 1)]
    needs, cache, reads = _needs(index), FeatureCache(tmp_path), []

    def spy(encoders, group, index, windows, **options):
        reads.append((len(encoders), len(windows)))
        yield from encode(encoders, group, index, windows, **options)

    monkeypatch.setattr(passes, "encode", spy)
    first = features_of(encoders, group, index, needs, cache, device=CPU)
    assert reads == [(3, len(needs[0].windows))]
    again = features_of(encoders, group, index, needs, cache, device=CPU)
    assert len(reads) == 1
    for of_one, of_other in zip(first, again, strict=True):
        for one, other in zip(of_one, of_other, strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0][0], first[1][0])
    assert not np.array_equal(first[1][0], first[2][0])
    # What alone is lacking is made: of one encoder, for one need.
    lacking = next(f for f in tmp_path.glob("*.npy") if np.array_equal(np.load(f), first[1][1]))
    lacking.unlink()
    lacking.with_suffix(".json").unlink()
    features_of(encoders, group, index, needs, cache, device=CPU)
    assert reads[1:] == [(1, len(needs[1].windows))]


def test_other_tokens_weights_windows_and_pooling_have_other_entries(
    opened, training, store, tmp_path
):
    group, index = opened
    cache, needs = FeatureCache(tmp_path), _needs(index)[:1]

    def entries(encoder, index=index, needs=needs, group=group):
        features_of([encoder], group, index, needs, cache, device=CPU)
        return len(list(tmp_path.glob("*.npy")))

    frozen = load_frozen(training, group)
    assert entries(frozen) == entries(frozen) == 1
    assert entries(load_frozen(training, group, untrained_seed=3)) == 2
    assert entries(frozen, needs=_needs(index)[1:2]) == 3
    assert entries(frozen, needs=_needs(index, crops=2)[:1]) == 4
    # A run that was tokenized anew has another checksum.
    changed = TokenStore(store).group()
    changed.runs.loc[0, "checksum"] = "another"
    assert entries(frozen, group=changed) == 5
    longer = TokenStore(store).group()
    longer.contract = {**group.contract, "provenance": {"tokenizer": "another"}}
    assert entries(frozen, group=longer) == 6
    for file in tmp_path.glob("*.json"):
        key = json.loads(file.read_text())["key"]
        assert len(key["weights"]) == len(key["windows"]) == 64


@pytest.mark.parametrize("damage", ["flipped", "cut", "no record", "another record"])
def test_a_damaged_entry_is_made_anew_and_named(opened, training, tmp_path, caplog, damage):
    group, index = opened
    frozen, cache, needs = load_frozen(training, group), FeatureCache(tmp_path), _needs(index)[:1]
    ((whole,),) = features_of([frozen], group, index, needs, cache, device=CPU)
    whole = np.array(whole)
    (file,) = tmp_path.glob("*.npy")
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[-5] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[:-40])
    elif damage == "no record":
        file.with_suffix(".json").unlink()
    else:
        file.with_suffix(".json").write_text("[]")
    caplog.clear()
    ((again,),) = features_of([frozen], group, index, needs, cache, device=CPU)
    np.testing.assert_array_equal(again, whole)
    (message,) = [r.getMessage() for r in caplog.records if "damaged" in r.getMessage()]
    assert file.name in message
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".npy"]


def test_an_interrupted_pass_leaves_nothing(opened, training, tmp_path, monkeypatch):
    group, index = opened

    def stopped(*_, **__):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(passes, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        features_of([load_frozen(training, group)], group, index, _needs(index),
                    FeatureCache(tmp_path), device=CPU)  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_one_error(opened, training, tmp_path, monkeypatch):
    group, index = opened
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("fmritok.trainer.probing.cache.shutil.disk_usage", lambda _: usage)
    with pytest.raises(TrainingError, match=r"fewer windows with --crops"):
        features_of([load_frozen(training, group)], group, index, _needs(index),
                    FeatureCache(tmp_path), device=CPU)  # fmt: skip


def test_features_that_are_not_finite_are_refused_with_the_run(opened, training, tmp_path):
    group, index = opened
    frozen = load_frozen(training, group)
    with torch.no_grad():
        next(frozen.encoder.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"Features of run demo_100_run0 .* NaN or infinity"):
        features_of([frozen], group, index, _needs(index), FeatureCache(tmp_path), device=CPU)
    assert list(tmp_path.iterdir()) == []


def test_other_tokens_are_refused(store, training):
    group = TokenStore(store).group()
    group.contract = {**group.contract, "provenance": {"tokenizer": "other"}}
    with pytest.raises(CheckpointError, match=r"provenance\.tokenizer = 'vae' \(as it was trained"):
        load_frozen(training, group)


def test_windows_at_one_place_are_encoded_once(opened, training, tmp_path, monkeypatch):
    """Events at once have equal features, each in its row."""
    group, index = opened
    run = np.array([2, 0, 0, 2])
    windows = Windows.of(run, np.array([3, 1, 1, 3]), np.full(4, 6), np.zeros_like(run))
    need = Need("mean", windows, np.arange(4), 4)
    frozen, read = load_frozen(training, group), []

    def spy(encoders, group, index, windows, **options):
        read.append(pd.DataFrame({"run": windows.run, "first": windows.first}))
        yield from encode(encoders, group, index, windows, **options)

    monkeypatch.setattr(passes, "encode", spy)
    ((found,),) = features_of([frozen], group, index, [need], FeatureCache(tmp_path), device=CPU)
    assert read[0].to_numpy().tolist() == [[0, 1], [2, 3]]
    np.testing.assert_array_equal(found[0], found[3])
    np.testing.assert_array_equal(found[1], found[2])
    assert not np.array_equal(found[0], found[1])
