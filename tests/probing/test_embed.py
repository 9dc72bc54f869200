"""``fmritok embed``: a table that pandas reads, with the features of the probe."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from probed import LENGTHS, probed_store, quick_training
from tiny import fmritok

from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.records import list_records, remove_record
from fmritok.trainer.data.windows import RunIndex
from fmritok.trainer.evaluation.features import encode, load_frozen
from fmritok.trainer.probing import embedding
from fmritok.trainer.probing.cache import FeatureCache
from fmritok.trainer.probing.passes import Need, features_of, needed_windows

CPU = torch.device("cpu")
N_RUNS = 8


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed")
    store = probed_store(folder, N_RUNS // 2)
    quick_training(store, folder / "a", "model.patch=3")
    return folder


def _embed(made, out, *more):
    done = fmritok("embed", "--store", made / "tokens.zarr", "--from", made / "a", "--device",
                   "cpu", "--out", out, *more)  # fmt: skip
    assert done.exit_code == 0, done.output
    return done, pd.read_parquet(out)


@pytest.mark.parametrize("pool", ["mean", "cells"])
def test_a_row_of_each_run_has_the_features_of_the_probe(made, tmp_path, pool):
    done, table = _embed(made, tmp_path / "e.parquet", "--pool", pool, "--crops", 3)
    width = {"mean": 32, "cells": 64}[pool]
    assert f"8 rows of {width} features, one for each run" in done.output
    group = TokenStore(made / "tokens.zarr").group()
    frozen = load_frozen(made / "a", group)
    index = RunIndex.of(group.runs, table["run_id"].tolist())
    windows = needed_windows(index, np.arange(N_RUNS), window=8, crops=3)
    need = Need(pool, windows, windows.run, N_RUNS)
    ((wanted,),) = features_of([frozen], group, index, [need], FeatureCache(tmp_path), device=CPU)
    np.testing.assert_allclose(np.stack(table["embedding"]), wanted, rtol=1e-5, atol=1e-6)
    assert table["embedding"][0].dtype == np.float32
    store = TokenStore(made / "tokens.zarr")
    people = store.phenotypes.set_index("subject")
    assert table["sex"].tolist() == people["sex"].loc[table["subject"]].tolist()
    assert table["age"].tolist() == people["age"].loc[table["subject"]].tolist()
    assert table["age"].dtype == np.float64
    said = json.loads(pq.read_schema(tmp_path / "e.parquet").metadata[b"fmritok"])
    assert said["sha256"] == frozen.source["sha256"]
    assert (said["per"], said["pool"], said["crops"], said["width"]) == ("run", pool, 3, 16)
    assert said["contract"]["provenance"] == {"tokenizer": "vae"}


def test_windows_follow_each_other_to_the_end_of_the_run(made, tmp_path):
    _, table = _embed(made, tmp_path / "e.parquet", "--per", "window")
    for run_id, own in table.groupby("run_id"):
        n = LENGTHS[int(run_id[-1]) % 2]
        starts = [0, 8, 12] if n == 20 else [0, 1]
        assert own["first_frame"].tolist() == starts
        np.testing.assert_allclose(own["start_s"], 0.72 * np.array(starts))
        assert own["n_frames"].tolist() == [8] * len(starts)
    assert len(np.stack(table["embedding"])[0]) == 32


@pytest.mark.parametrize("pool", ["mean", "cells"])
def test_frames_are_the_patches_of_all_windows(made, tmp_path, pool):
    _, table = _embed(made, tmp_path / "e.parquet", "--per", "frame", "--pool", pool)
    group = TokenStore(made / "tokens.zarr").group()
    frozen = load_frozen(made / "a", group)
    run_id = "demo_100_run0"
    own = table[table["run_id"] == run_id]
    # windows at 0, 8, 12; patches of three frames; of the last window those after frame 16
    assert own["first_frame"].tolist() == [0, 3, 6, 8, 11, 14, 15, 18]
    assert own["n_frames"].tolist() == [3, 3, 2, 3, 3, 2, 3, 2]
    index = RunIndex.of(group.runs, [run_id])
    windows = embedding._windows(index, frozen, "frame", 8)
    ((_, (encoded,)),) = encode([frozen], group, index, windows, device=CPU)
    wanted = encoded.tokens.numpy()[[0, 0, 0, 1, 1, 1, 2, 2], [0, 1, 2, 0, 1, 2, 1, 2]]
    wanted = wanted.mean(1) if pool == "mean" else wanted.reshape(8, -1)
    np.testing.assert_allclose(np.stack(own["embedding"]), wanted, rtol=1e-4, atol=1e-5)
    covered = {f for a, n in zip(own["first_frame"], own["n_frames"], strict=True)
               for f in range(a, a + n)}  # fmt: skip
    assert covered == set(range(20))


def test_row_groups_bound_the_memory_and_change_nothing(made, tmp_path, monkeypatch):
    _, whole = _embed(made, tmp_path / "a.parquet", "--per", "window")
    monkeypatch.setattr(embedding, "_GROUP_BYTES", 200)
    batches = []

    def few(*arguments, **options):
        for batch in encode(*arguments, batch_size=2, **options):
            batches.append(batch)
            yield batch

    monkeypatch.setattr(embedding, "encode", few)
    _, parts = _embed(made, tmp_path / "b.parquet", "--per", "window")
    assert pq.ParquetFile(tmp_path / "b.parquet").num_row_groups == len(batches) == 10
    columns = [name for name in whole if name != "embedding"]
    pd.testing.assert_frame_equal(whole[columns], parts[columns])
    np.testing.assert_allclose(np.stack(whole["embedding"]), np.stack(parts["embedding"]),
                               rtol=1e-4, atol=1e-5)  # fmt: skip


def test_some_runs_can_be_chosen_and_what_is_wrong_is_one_error(made, tmp_path):
    _, table = _embed(made, tmp_path / "e.parquet", "--where", "subject=101")
    assert table["run_id"].tolist() == ["demo_101_run2", "demo_101_run3"]
    command = ["embed", "--store", made / "tokens.zarr", "--from", made / "a", "--device", "cpu"]
    for options, status, words in (
        (["--out", tmp_path / "x.parquet", "--where", "task=sleep"], 2, "task among rest"),
        (["--out", tmp_path], 2, "expected a file such as embeddings.parquet"),
        (["--out", tmp_path / "e.parquet" / "x"], 1, "Embeddings"),
    ):
        done = fmritok(*command, *options)
        assert done.exit_code == status, done.output
        assert words in " ".join(done.output.split())


def test_an_interrupted_one_leaves_the_earlier_file(made, tmp_path, monkeypatch):
    out = tmp_path / "e.parquet"
    _embed(made, out)
    before = out.read_bytes()

    def stopped(*_, **__):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(embedding, "encode", stopped)
    done = fmritok("embed", "--store", made / "tokens.zarr", "--from", made / "a", "--out", out)
    assert done.exit_code == 130
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


def test_a_group_without_a_finished_run_is_one_error(made, tmp_path):
    shutil.copytree(made / "tokens.zarr", tmp_path / "t.zarr")
    location = Location(tmp_path / "t.zarr")
    (name,) = TokenStore(location.url).groups
    for run_id in list_records(location, name):
        remove_record(location, name, run_id)
    done = fmritok("embed", "--store", location.url, "--from", made / "a", "--out", tmp_path / "e")
    assert done.exit_code == 1
    assert f"Token group {name} of {location}: expected at least one finished run" in done.output
