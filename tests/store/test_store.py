"""The store keeps what was written, says what it holds, and notices damage."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from fmritok.errors import ProvenanceMismatchError, RunError, StoreError
from fmritok.pipeline.store import group, ledger
from fmritok.pipeline.store.documents.difference import first_difference
from fmritok.pipeline.store.documents.root import create_root
from fmritok.pipeline.store.documents.seal import read_document
from fmritok.pipeline.store.ledger import allocate, finalize, finished_runs
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.locks.locking import one_writer
from fmritok.pipeline.store.precision import dequantize, store_precision
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.pipeline.store.records import RunRecord, read_record, remove_record, write_record
from fmritok.pipeline.store.schema import GroupSpec
from fmritok.pipeline.store.tables import switch
from fmritok.pipeline.store.verify import drop_runs, unfinished_groups, verify_store
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
    plain = zarr.open_group(location.zarr_store(), mode="r")["vae/tokens"]
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


def test_unwritten_tail_takes_no_space(make_store):
    location, _ = make_store([1], dim=3072)
    assert location.used_bytes("vae/tokens/c") < 8 * 27 * 3072 * 1.05


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


def test_verify_is_silent_on_a_sound_store(make_store):
    location, _ = make_store([70, 5])
    assert list(verify_store(location)) == []


def test_verify_finds_any_flipped_byte_and_names_the_run(make_store, rng):
    """Flip one byte at random places of every file of the store, one at a time."""
    location, _ = make_store([40, 5], n_tokens=3, dim=8)
    unnamed = []
    for key in location.find(""):
        path = Path(location.url, key)
        original = path.read_bytes()
        for position in rng.integers(0, len(original), 6):
            broken = bytearray(original)
            broken[position] ^= int(rng.integers(1, 256))
            path.write_bytes(broken)
            damage = _verify(location)
            assert damage, f"flip at byte {position} of {key} was not found"
            if key.startswith(tuple(f"vae/{n}/c/" for n in ("tokens", "mean", "std", "scale"))):
                row = int(key.split("/c/")[1].split("/")[0])
                run = row if "tokens" not in key else (0 if row < 2 else 1)
                unnamed += [key] * (f"demo_10{run}_run{run}" not in {d.run_id for d in damage})
            if "/records/demo" in key:
                unnamed += [key] * (key.split("/")[2] not in {d.run_id for d in damage})
        path.write_bytes(original)
    assert unnamed == []
    assert _verify(location) == []


def test_no_byte_of_the_metadata_goes_unwatched(make_store, rng):
    """Flip every byte of a group's own metadata, also those that say that it is sealed."""
    location, _ = make_store([5], n_tokens=2, dim=2)
    path = Path(location.url, "vae", "zarr.json")
    original = path.read_bytes()
    for position in range(len(original)):
        broken = bytearray(original)
        broken[position] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        with pytest.raises(StoreError, match=r"vae/zarr\.json"):
            read_document(location, "vae")
    path.write_bytes(original)
    assert read_document(location, "vae").attributes["contract"]["precision"] == "int8"


def test_dropped_runs_are_planned_again_and_others_stay(make_store, run_table):
    location, _ = make_store([40, 5])
    shard = Path(location.url, "vae/tokens/c/2/0/0")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert drop_runs(location, list(verify_store(location))) == 1
    assert TokenGroup(location, "vae").runs["run_id"].tolist() == ["demo_100_run0"]
    spec = GroupSpec("vae", 27, 48, "int8", chunk_frames=8, shard_frames=32,
                     provenance={"tokenizer": "vae"})  # fmt: skip
    assert allocate(location, spec, run_table([40, 5]))["status"].tolist() == ["done", "planned"]
    assert unfinished_groups(location) == ["vae"]


@pytest.mark.parametrize(
    ("module", "step"),
    [
        (group, "blank_group"), (group, "replace_tables"), (group, "list_group"),
        (switch, "write_document"), (ledger, "lengthen"), (ledger, "replace_tables"),
    ],
)  # fmt: skip
def test_a_creation_that_was_cut_off_is_made_again(
    tmp_path, run_table, monkeypatch, module, step
):  # fmt: skip
    """Kill the planner before each of its steps: the next one starts as if there were nothing."""
    location = Location(tmp_path / "s.zarr")
    spec = GroupSpec("vae", 3, 4, "int8", chunk_frames=8, shard_frames=32)
    create_root(location)

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, step, killed)
    with pytest.raises(KeyboardInterrupt):
        allocate(location, spec, run_table([10, 40]))
    monkeypatch.undo()
    assert finished_runs(location, "vae") == set()
    if module is not ledger:
        assert TokenStore(location.url).groups == ()
        with pytest.raises(StoreError, match="no finished group yet"):
            TokenStore(location.url).group("vae")
    assert allocate(location, spec, run_table([10, 40]))["start"].tolist() == [0, 32]
    finalize(location, "vae")
    assert list(verify_store(location)) == []


def _verify(location):
    try:
        return list(verify_store(location))
    except StoreError as error:
        return [error]


def test_a_missing_shard_is_damage_of_its_run(make_store):
    location, _ = make_store([40, 5])
    Path(location.url, "vae/tokens/c/2/0/0").unlink()
    assert {d.run_id for d in verify_store(location)} == {"demo_101_run1"}


def test_a_missing_record_hides_the_run_and_is_reported(make_store):
    location, _ = make_store([40, 5])
    location.remove("vae/records/demo_101_run1/zarr.json")
    assert TokenGroup(location, "vae").runs["run_id"].tolist() == ["demo_100_run0"]
    assert [d.run_id for d in verify_store(location)] == ["demo_101_run1"]
    assert read_record(location, "vae", "demo_101_run1") is None


@pytest.mark.parametrize("array", ["tokens", "mean", "std", "scale"])
def test_a_missing_file_is_an_error_of_every_reader(make_store, array):
    """zarr-python alone would read the value that stands for nothing."""
    location, _ = make_store([20])
    key = TokenStore(location.url).group()._arrays[array].file_key(0)
    Path(location.url, key).unlink()
    plain = zarr.open_group(location.url, mode="r")["vae"][array]
    assert plain[0].min() == -128 if array == "tokens" else np.isnan(plain[0]).all()
    group = TokenStore(location.url).group()
    with pytest.raises(StoreError, match=rf"{key}: expected the data of a .* got nothing"):
        group.array("std", 0) if array == "std" else group.values("demo_100_run0")


def test_zeros_are_written_and_read_as_zeros(make_store):
    location, _ = make_store([20], n_tokens=2, dim=3, values=lambda *_: np.zeros((20, 2, 3)))
    group = TokenStore(location.url).group()
    assert not group.values("demo_100_run0").any()
    Path(location.url, "vae/scale/c/0/0/0").unlink()
    with pytest.raises(StoreError, match="vae/scale/c/0/0/0"):
        TokenStore(location.url).group().values("demo_100_run0")


@pytest.mark.parametrize("gone", ["vae", "vae/records", "vae/runs", "vae/coordinates"])
def test_a_folder_that_is_gone_is_an_error_of_readers_and_of_verify(make_store, gone):
    location, _ = make_store([20])
    location.remove_tree(gone)
    assert TokenStore(location.url).groups == ("vae",)
    with pytest.raises(StoreError, match=f"{gone}.*(nothing|gone)"):
        TokenStore(location.url).group()
    assert any(gone in d.where for d in verify_store(location))


def test_a_group_that_is_gone_is_forgotten_when_asked_and_made_anew(make_store, run_table):
    location, _ = make_store([20])
    location.remove_tree("vae")
    spec = GroupSpec("vae", 3, 4, "int8", chunk_frames=8, shard_frames=32)
    with pytest.raises(StoreError, match="the store lists it.*verify --drop"):
        allocate(location, spec, run_table([10]))
    drop_runs(location, list(verify_store(location)))
    assert list(verify_store(location)) == []
    assert allocate(location, spec, run_table([10]))["start"].tolist() == [0]


@pytest.mark.parametrize("table", ["runs", "chunks"])
def test_a_damaged_table_is_made_again_from_the_records(make_store, table):
    location, written = make_store([40, 5, 70])
    before = TokenStore(location.url).group()
    key = next(k for k in location.find(f"vae/{table}") if k.endswith("/c/0"))
    data = bytearray(location.read(key))
    data[len(data) // 2] ^= 1
    location.write(key, bytes(data))
    with pytest.raises(StoreError, match=key):
        TokenStore(location.url).group()
    assert drop_runs(location, list(verify_store(location))) == 0
    assert list(verify_store(location)) == []
    after = TokenStore(location.url).group()
    pd.testing.assert_frame_equal(after.all_runs[before.all_runs.columns], before.all_runs)
    for run_id in written:
        np.testing.assert_array_equal(after.values(run_id), before.values(run_id))


def test_runs_without_a_record_lose_their_rows_with_a_damaged_table(make_store, run_table):
    location, _ = make_store([40, 5, 70], n_tokens=3, dim=4)
    remove_record(location, "vae", "demo_101_run1")
    location.remove_tree(read_document(location, "vae").key("runs"))
    for _ in range(2):
        drop_runs(location, list(verify_store(location)))
    runs = TokenStore(location.url).group().runs
    assert runs["run_id"].tolist() == ["demo_100_run0", "demo_102_run2"]
    spec = GroupSpec("vae", 3, 4, "int8", chunk_frames=8, shard_frames=32,
                     static={"coordinates": np.zeros((3, 3), np.float32)},
                     provenance={"tokenizer": "vae"})  # fmt: skip
    plan = allocate(location, spec, run_table([40, 5, 70]))
    assert plan["status"].tolist() == ["done", "planned", "done"]
    assert plan["row"].tolist() == [0, 3, 2]


def test_a_run_that_was_redone_and_not_folded_is_folded_with_its_new_checksum(
    make_store, run_table
):
    """Dropped, tokenized again with other values, killed before the end, then the same again."""
    location, _ = make_store([40, 40], n_tokens=3, dim=4)
    spec = GroupSpec("vae", 3, 4, "int8", chunk_frames=8, shard_frames=32,
                     static={"coordinates": np.zeros((3, 3), np.float32)},
                     provenance={"tokenizer": "vae"})  # fmt: skip
    run_id = "demo_100_run0"
    old = TokenGroup(location, "vae").run(run_id)["checksum"]
    remove_record(location, "vae", run_id)
    run = allocate(location, spec, run_table([40, 40])).iloc[0]
    x = np.random.default_rng(9).standard_normal((40, 3, 4)).astype(np.float32)
    sums = write_run(location, "vae", run_id=run_id, row=run["row"], start=run["start"],
                     stored=store_precision(x, "int8"))  # fmt: skip
    write_record(location, "vae", RunRecord(run_id, "done", int(run["start"]), 40, checksums=sums))
    np.testing.assert_allclose(TokenGroup(location, "vae").values(run_id), x, atol=0.05)
    allocate(location, spec, run_table([40, 40]))
    table = finalize(location, "vae")
    record = read_record(location, "vae", run_id)
    assert table["checksum"][0] == record.checksum != old
    np.testing.assert_allclose(TokenGroup(location, "vae").values(run_id), x, atol=0.05)
    assert list(verify_store(location)) == []


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
