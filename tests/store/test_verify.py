"""Verify and readers notice damage; dropped and missing parts are written again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from fmritok.errors import StoreError
from fmritok.pipeline.store import group, ledger
from fmritok.pipeline.store.documents.root import create_root
from fmritok.pipeline.store.documents.seal import read_document
from fmritok.pipeline.store.ledger import allocate, finalize, finished_runs
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.precision import store_precision
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.pipeline.store.records import RunRecord, read_record, remove_record, write_record
from fmritok.pipeline.store.schema import GroupSpec
from fmritok.pipeline.store.tables import switch
from fmritok.pipeline.store.verify import drop_runs, unfinished_groups, verify_store
from fmritok.pipeline.store.writer import write_run


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
        for position in rng.integers(0, len(original), 2):
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
