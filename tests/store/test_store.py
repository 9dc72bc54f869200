"""The store returns what was written, and refuses what it cannot keep."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from fmritok.errors import ProvenanceMismatchError, RunError, StoreError
from fmritok.pipeline.store.documents.difference import first_difference
from fmritok.pipeline.store.group import read_group
from fmritok.pipeline.store.ledger import allocate, finalize
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.locks.locking import one_writer
from fmritok.pipeline.store.precision import dequantize, store_precision
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.pipeline.store.schema import GroupSpec
from fmritok.pipeline.store.tables.switch import replace_tables
from fmritok.pipeline.store.verify import verify_store
from fmritok.pipeline.store.writer import write_run


def test_int8_residuals_stay_within_half_a_step_of_float64(rng):
    x = (3 + rng.uniform(0, 0.1, (1, 5, 7)) * rng.standard_normal((101, 5, 7))).astype(np.float32)
    stored = store_precision(x, "int8")
    exact = x.astype(np.float64)
    mean = exact.mean(0)
    step = np.abs(exact - mean).max(0) / 127
    values = dequantize(stored.tokens, stored.mean, stored.scale)
    assert stored.tokens.dtype == np.int8
    np.testing.assert_allclose(stored.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(stored.std, exact.std(0), rtol=1e-5)
    np.testing.assert_allclose(stored.scale, step, rtol=1e-4)
    assert (np.abs(values - exact) <= 0.5 * step * 1.001 + 1e-6).all()


def test_constant_features_come_back_exactly(rng):
    x = np.full((9, 2, 3), 0.1, np.float32)
    x[:, 1] = rng.standard_normal((9, 3)).astype(np.float32)
    stored = store_precision(x, "int8")
    assert (dequantize(stored.tokens, stored.mean, stored.scale)[:, 0] == x[:, 0]).all()
    assert (stored.std[0] == 0).all()


@pytest.mark.parametrize(
    ("bad", "precision"), [(np.nan, "int8"), (np.inf, "float16"), (7e4, "float16")]
)
def test_values_that_cannot_be_stored_are_an_error_of_the_run(bad, precision):
    x = np.ones((4, 2, 3), np.float32)
    x[2, 1, 1] = bad
    with pytest.raises(RunError, match="run-7"):
        store_precision(x, precision, where="run-7")


@pytest.mark.parametrize("precision", ["int8", "float16"])
@pytest.mark.parametrize("url", [None, "memory://roundtrip-{}.zarr"])
def test_round_trip_and_plain_zarr_reading(make_store, precision, url):
    url = url and url.format(precision)
    location, written = make_store([70, 5, 32], precision=precision, url=url)
    group = TokenStore(location.url).group()
    plain = zarr.open_group(location.url, mode="r")["vae/tokens"]
    assert (group.runs["start"] % 32 == 0).all()
    for run_id, x in written.items():
        run = group.run(run_id)
        stored = store_precision(x, precision)
        start, n = run["start"], run["n_frames"]
        assert (plain[start : start + n] == stored.tokens).all()
        values = group.values(run_id)
        assert np.abs(values - x).max() < 0.004 if precision == "int8" else 0.01
        np.testing.assert_array_equal(group.values(run_id, 3, 2), values[3:5])
        np.testing.assert_array_equal(group.statistics(run["row"]).std, stored.std)


def test_a_person_with_zarr_alone_meets_no_warning(make_store):
    location, _ = make_store([20, 40])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        root = zarr.open_group(location.url, mode="r")
        names = [name for name, _ in root.members(max_depth=None)]
        assert root["vae/records/demo_100_run0"].attrs["n_frames"] == 20
        runs = root["vae"][root["vae"].attrs["tables"]["runs"]]
        assert list(runs["run_id"][:]) == ["demo_100_run0", "demo_101_run1"]
    assert "vae/tokens" in names


@pytest.mark.parametrize(("first", "n_frames"), [(15, 10), (-5, 2), (21, None), (0, -1)])
def test_frames_beyond_a_run_are_an_error(make_store, first, n_frames):
    location, _ = make_store([20, 40])
    with pytest.raises(StoreError, match="demo_100_run0: expected some of its 20, got"):
        TokenStore(location.url).group().values("demo_100_run0", first, n_frames)


def test_unwritten_tail_takes_no_space(make_store):
    location, _ = make_store([1], dim=3072)
    assert location.used_bytes("vae/tokens/c") < 8 * 27 * 3072 * 1.05


def test_finished_runs_follow_the_sites_families_and_motion_of_the_catalogue(make_store, run_table):
    location, written = make_store([20, 40, 9])
    runs = run_table([20, 40, 9]).assign(
        site="NYU", family=["A", "A", ""], motion=[0.1, np.nan, 0.3], tr=9.0,
        problem=["", "", "the file is damaged"],
    )  # fmt: skip
    spec = GroupSpec(name="vae", n_tokens=27, dim=48, precision="int8", chunk_frames=8,
                     shard_frames=32, provenance={"tokenizer": "vae"})  # fmt: skip
    allocate(location, spec, runs)
    group = TokenStore(location.url).group()
    assert group.runs["site"].tolist() == ["NYU", "NYU", ""]
    assert group.runs["family"].tolist() == ["A", "A", "F102"]
    np.testing.assert_array_equal(group.runs["motion"], [0.1, np.nan, np.nan])
    assert group.runs["tr"].tolist() == [0.72] * 3
    assert group.values("demo_101_run1").shape == written["demo_101_run1"].shape
    # what is unknown now was known once
    allocate(location, spec, run_table([20, 40, 9]).assign(family="", motion=np.nan))
    runs = TokenStore(location.url).group().runs
    assert runs["family"].tolist() == ["A", "A", "F102"]
    assert runs["motion"][0] == 0.1
    assert not list(verify_store(location))


def test_a_table_without_head_motion_is_one_of_an_older_store(make_store, run_table):
    location, _ = make_store([20, 40])
    state = read_group(location, "vae")
    older = {name: state.table(name).drop(columns="motion", errors="ignore")
             for name in ("runs", "chunks")}  # fmt: skip
    replace_tables(location, state.document, older)
    group = TokenStore(location.url).group()
    assert group.runs["motion"].isna().all()
    finalize(location, "vae")
    assert not list(verify_store(location))


def test_readers_see_finished_runs_only(make_store, run_table):
    location, _ = make_store([20, 40])
    spec = GroupSpec("vae", 27, 48, "int8", chunk_frames=8, shard_frames=32,
                     provenance={"tokenizer": "vae"})  # fmt: skip
    more = run_table([20, 40, 33])
    plan = allocate(location, spec, more)
    assert plan["status"].tolist() == ["done", "done", "planned"]
    assert len(TokenGroup(location, "vae").runs) == 2
    x = np.random.default_rng(0).standard_normal((33, 27, 48)).astype(np.float32)
    last = plan.iloc[2]
    write_run(location, "vae", run_id=last["run_id"], row=last["row"], start=last["start"],
              stored=store_precision(x, "int8"))  # fmt: skip
    assert len(TokenGroup(location, "vae").runs) == 2
    assert last["start"] == 96
    assert (finalize(location, "vae")["status"] == ["done", "done", "planned"]).all()


def test_allocation_is_kept_and_a_longer_run_moves_to_the_end(tmp_path, run_table):
    location = Location(tmp_path / "s.zarr")
    spec = GroupSpec("vae", 3, 4, "int8", chunk_frames=8, shard_frames=32)
    first = allocate(location, spec, run_table([10, 40, 5]))
    assert first["start"].tolist() == [0, 32, 96]
    changed = run_table([33, 40, 5])
    assert allocate(location, spec, changed)["start"].tolist() == [128, 32, 96]
    assert allocate(location, spec, changed.iloc[[2]])["start"].tolist() == [96]


def test_another_configuration_is_refused_and_named(tmp_path, run_table):
    location = Location(tmp_path / "s.zarr")
    made = {"weights": {"sha256": "aa"}, "intensity": "max"}
    allocate(location, GroupSpec("vae", 3, 4, "int8", provenance=made), run_table([5]))
    other = {"weights": {"sha256": "bb"}, "intensity": "max"}
    with pytest.raises(ProvenanceMismatchError, match=r"weights\.sha256 = 'aa'.*got 'bb'"):
        allocate(location, GroupSpec("vae", 3, 4, "int8", provenance=other), run_table([5]))


def test_only_one_process_plans_a_group(tmp_path):
    location = Location(tmp_path / "s.zarr")
    with one_writer(location, "vae"):
        with pytest.raises(StoreError, match=f"no other writer, got process {os.getpid()} on"):
            with one_writer(location, "vae"):
                pass
        with one_writer(location, "network"):
            pass


def test_unaligned_writes_are_refused(make_store):
    location, _ = make_store([20])
    stored = store_precision(np.zeros((4, 27, 48), np.float32), "int8")
    with pytest.raises(StoreError, match="divisible by 32"):
        write_run(location, "vae", run_id="x", row=0, start=8, stored=stored)


def test_paths_that_are_no_store(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(StoreError, match="got a file"):
        TokenStore(file)
    with pytest.raises(StoreError, match="got nothing"):
        TokenStore(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.doc").write_text("x")
    with pytest.raises(StoreError, match="other content"):
        allocate(Location(tmp_path / "folder"), GroupSpec("vae", 3, 4, "int8"), None)
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(StoreError, match="format None"):
        TokenStore(tmp_path / "other.zarr")


def test_zeros_are_written_and_read_as_zeros(make_store):
    location, _ = make_store([20], n_tokens=2, dim=3, values=lambda *_: np.zeros((20, 2, 3)))
    group = TokenStore(location.url).group()
    assert not group.values("demo_100_run0").any()
    Path(location.url, "vae/scale/c/0/0/0").unlink()
    with pytest.raises(StoreError, match="vae/scale/c/0/0/0"):
        TokenStore(location.url).group().values("demo_100_run0")


def test_a_store_of_the_first_format_is_refused_in_one_sentence(tmp_path):
    attributes = {"format": "fmritok token store", "format_version": 1, "seal": None}
    zarr.open_group(tmp_path / "old.zarr", mode="w", attributes=attributes)
    with pytest.raises(StoreError, match="version 2 in its zarr.json, got 1. fmritok 0.1"):
        TokenStore(tmp_path / "old.zarr")


@pytest.mark.parametrize(
    "name", ["../up", "phenotypes", "a/b", "", ".hidden", "x.partial", "zarr.json", "a" * 65]
)
def test_names_of_groups_that_lead_elsewhere_are_refused(name):
    with pytest.raises(StoreError, match="Name of a token group"):
        GroupSpec(name, 3, 4, "int8")


@pytest.mark.parametrize("key", ["../other", "/etc/passwd", "vae/../../x", "a\0b"])
def test_keys_that_leave_the_store_are_refused(tmp_path, key):
    with pytest.raises(StoreError, match="a path within the store"):
        Location(tmp_path / "t.zarr").remove(key)


def test_the_group_reopens_in_another_process(make_store):
    location, written = make_store([20])
    group = TokenStore(location.url).group()
    group.read(0, 1)
    code = (
        "import pickle,sys;g=pickle.load(sys.stdin.buffer);"
        "print(float(g.values('demo_100_run0')[3,2,1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(group),
                          capture_output=True, check=True)  # fmt: skip
    assert float(done.stdout) == pytest.approx(written["demo_100_run0"][3, 2, 1], abs=0.01)


def test_the_first_difference_is_named_by_its_path():
    saved = {"a": {"b": 1, "c": {"d": 2}}, "e": None}
    assert first_difference(saved, {"a": {"b": 1, "c": {"d": 2}}, "e": None}) is None
    assert first_difference(saved, {"a": {"b": 1, "c": {"d": 3}}, "e": 4}) == ("a.c.d", 2, 3)
    assert first_difference({}, {"x": {"y": 1}}) == ("x.y", None, 1)


def test_urls_of_unknown_protocols_are_one_error():
    with pytest.raises(StoreError, match=r"Store URL s4://b/t\.zarr: expected a protocol"):
        TokenStore("s4://b/t.zarr")
