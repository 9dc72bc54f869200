"""Stores that somebody edited, with valid seals: one StoreError, or what the store really says.

Nothing outside of the store is changed, nothing waits, and claimed sizes take no memory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edited_stores import (
    Files,
    check,
    put,
    resealed,
    sound_store,
    with_files,
    with_record,
    with_table,
)
from tiny import fmritok

from fmritok.errors import StoreError
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.records import read_record, remove_record
from fmritok.pipeline.store.verify import drop_runs, verify_store


@pytest.fixture(scope="module")
def sound(fast_folder: Path) -> Files:
    return sound_store(fast_folder)


@pytest.fixture
def place(fast_folder: Path) -> Iterator[Path]:
    """Return an empty folder for a store, beside a file that nobody may touch."""
    folder = fast_folder / "edited"
    folder.mkdir()
    (folder / "precious").write_text("mine")
    yield folder / "tokens.zarr"
    shutil.rmtree(folder)


def test_the_sound_store_is_read(sound, place):
    assert check(put(place, sound)) == {}


def test_a_run_id_does_not_lead_out_of_the_store(sound, place):
    outside = place.parent / "x"
    outside.mkdir()
    (outside / "zarr.json").write_text("mine")
    files = with_table(sound, "vae", "runs", lambda t: t.assign(run_id=["../../../x", "b"]))
    location = put(place, files)
    with pytest.raises(StoreError, match=r"a run named '../../../x'"):
        TokenStore(location.url).group("vae")
    fmritok("verify", "--store", str(place), "--drop")
    assert (outside / "zarr.json").read_text() == "mine"
    assert TokenStore(location.url).group("vae").runs["run_id"].tolist() == [
        "demo_100_run0", "demo_101_run1",
    ]  # made again from the records  # fmt: skip
    with pytest.raises(StoreError, match="a path outside of it"):
        remove_record(location, "vae", "../../../x")
    with pytest.raises(StoreError, match="a path outside of it"):
        read_record(location, "..", "x")


@pytest.mark.parametrize("target", ["/dev/zero", "fifo", "socket", "large"])
@pytest.mark.parametrize("key", ["vae/zarr.json", "vae/coordinates/c/0/0", "vae/tokens/c/0/0/0"])
def test_only_regular_files_of_sensible_size_are_read(sound, place, key, target, monkeypatch):
    location = put(place, sound)
    path = place / key
    path.unlink()
    if target == "fifo":
        os.mkfifo(path)
    elif target == "socket":
        import socket

        with monkeypatch.context() as there:
            there.chdir(path.parent)  # a socket's path is at most 108 bytes long
            socket.socket(socket.AF_UNIX).bind(path.name)
    elif target == "large":
        with path.open("wb") as file:
            file.truncate(2**45)
    else:
        path.symlink_to(target)
    refused = check(location, claims_size=target in ("/dev/zero", "large"))
    assert "read" in refused or not path.exists() or target == "large"


def test_a_sealed_name_that_is_a_device_is_not_read(sound, place):
    tree = json.loads(sound["vae/zarr.json"])
    tree["attributes"]["seal"]["files"]["../../../../dev/zero"] = "0" * 64
    refused = check(put(place, sound | {"vae/zarr.json": resealed(tree)}))
    assert "a file named" in refused["read"]


def test_nothing_is_written_or_removed_through_a_link_that_leads_elsewhere(sound, place):
    location = put(place, sound)
    elsewhere = place.parent / "elsewhere"
    (place / "vae/records").rename(elsewhere)
    (place / "vae/records").symlink_to(elsewhere)
    assert TokenStore(location.url).group("vae").runs.shape[0] == 2  # reading does no harm
    for change in (
        lambda: remove_record(location, "vae", "demo_100_run0"),
        lambda: location.write("vae/records/x/zarr.json", b""),
        lambda: location.write_many({"vae/records/x": b""}),
        lambda: location.create("vae/records/x", b""),
        lambda: location.remove_tree("vae/records/demo_100_run0"),
    ):
        with pytest.raises(StoreError, match="writes and removes nothing outside of the store"):
            change()
    assert sorted(p.name for p in elsewhere.iterdir()) == [
        "demo_100_run0", "demo_101_run1", "zarr.json",
    ]  # fmt: skip
    shutil.rmtree(elsewhere)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"attributes":'])
def test_json_of_200000_levels(sound, place, opening):
    deep = opening * 200_000
    for key in ("zarr.json", "vae/zarr.json", "vae/records/demo_100_run0/zarr.json",
                "vae/tokens/zarr.json", "events/zarr.json"):  # fmt: skip
        check(put(place, sound | {key: deep}), claims_size=opening == b"[")


def test_json_that_is_deep_and_sealed(sound, place):
    tree = json.loads(sound["vae/zarr.json"])
    deep: Any = "end"
    for _ in range(300):
        deep = {"a": deep}
    tree["attributes"]["contract"]["provenance"] = deep
    refused = check(put(place, sound | {"vae/zarr.json": resealed(tree)}))
    assert "nested too deeply" in refused["read"]


def zstd_of_zeros(size: int) -> bytes:
    from numcodecs import zstd

    from fmritok.pipeline.store.chunks.codec import crc

    frame = zstd.compress(np.zeros(size, np.uint8), 1)
    return frame + crc(np.frombuffer(frame, np.uint8))


def test_chunks_that_unpack_to_gigabytes(sound, place):
    bomb = zstd_of_zeros(2**30)
    assert len(bomb) < 200_000
    runs = json.loads(sound["vae/zarr.json"])["attributes"]["tables"]["runs"]
    for key in ("coordinates/c/0/0", f"{runs}/run_id/c/0", f"{runs}/start/c/0"):
        refused = check(put(place, with_files(sound, "vae", {key: bomb})))
        assert "bytes" in refused["read"], key
    refused = check(put(place, sound | {"vae/mean/c/0/0/0": bomb}))
    assert "bytes" in refused["read"]


def test_columns_that_claim_billions_of_rows(sound, place):
    runs = json.loads(sound["vae/zarr.json"])["attributes"]["tables"]["runs"]
    for column in ("start", "run_id"):
        key = f"{runs}/{column}/zarr.json"
        metadata = json.loads(sound[f"vae/{key}"])
        for shape, chunk in ([2**40], [2]), ([2**40], [2**40]), ([2], [2**28]):
            metadata["shape"] = shape
            metadata["chunk_grid"]["configuration"]["chunk_shape"] = chunk
            changed = {key: json.dumps(metadata).encode()}
            refused = check(put(place, with_files(sound, "vae", changed)))
            assert f"array {column}" in refused["read"] or "chunks of" in refused["read"]


@pytest.mark.parametrize(("column", "values", "words"), [
    ("start", [0, 0], "share a shard"),
    ("start", [0, 33], "share a shard"),
    ("start", [-32, 32], "negative"),
    ("start", [2**62, 32], "beyond"),
    ("n_frames", [10, 2**62], "beyond"),
    ("n_frames", [0, 40], "without frames"),
    ("run_id", ["a", "a"], "two runs named a"),
    ("run_id", ["a", ""], "a run named ''"),
    ("status", ["done", "perhaps"], "another status"),
    ("tr", [0.72, np.nan], "repetition time"),
    ("tr", [0.72, -1.0], "repetition time"),
    ("mean_crc32c", [-1, 2], "other numbers than checksums"),
    ("start", ["a", "b"], "column start of type object"),
    ("site", [1, 2], "column site of type int64"),
])  # fmt: skip
def test_runs_that_cannot_be_are_refused_and_made_again(sound, place, column, values, words):
    files = with_table(sound, "vae", "runs", lambda t: t.assign(**{column: values}))
    location = put(place, files)
    with pytest.raises(StoreError, match=words):
        TokenStore(place).group("vae")
    damage = list(verify_store(location))
    assert [d.is_table for d in damage] == [True]
    drop_runs(location, damage)
    assert TokenStore(place).group("vae").runs["n_frames"].tolist() == [10, 40]
    assert list(verify_store(location)) == []


@pytest.mark.parametrize("change", [
    {"row": 2**40}, {"start": 2**40}, {"start": -1}, {"n_frames": 2**40}, {"status": "perhaps"},
    {"columns": {"path": "x"}}, {"columns": {"tr": "x"}}, {"checksums": {}}, {"seconds": []},
    {"checksums": {"tokens": {"sha256": "0" * 64, "crc32c": "0" * 8}}}, {"run_id": "../x"},
])  # fmt: skip
def test_records_that_cannot_be_are_named_by_verify(sound, place, change):
    files = with_record(sound, "demo_101_run1", lambda body: body.update(change))
    location = put(place, files)
    damage = list(verify_store(location))
    claims_size = 2**40 in change.values()
    assert [d.run_id for d in damage] == ["demo_101_run1"] or "row" in change
    files = with_table(files, "vae", "runs", lambda t: t.assign(status=["done", "planned"]))
    check(put(place, files), claims_size=claims_size)
    files = with_table(files, "vae", "runs", lambda t: t.drop(columns="status"))
    check(put(place, files), claims_size=claims_size)  # --drop makes the table again from records


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".a", "events", "x" * 65, "a\nb", "a.json"])
def test_a_group_name_is_checked_before_anything_is_made(tmp_path, name):
    result = fmritok("tokenize", "--dataset", "hcp", "--root", tmp_path / "nothing",
                     "--store", tmp_path / "s.zarr", "--group", name)  # fmt: skip
    assert result.exit_code != 0
    assert "Name of a token group" in result.output
    assert list(tmp_path.iterdir()) == []
    for command in (["train"], ["probe", "--training", "x", "--target", "sex"],
                    ["decode", "--run", "x", "--out", "x.png"]):  # fmt: skip
        result = fmritok(*command, "--store", tmp_path / "s.zarr", "--group", name)
        assert result.exit_code != 0


@pytest.mark.parametrize("command", ["train", "probe", "decode"])
def test_commands_refuse_edited_stores_with_one_sentence(sound, place, tmp_path, command):
    arguments = {
        "train": ["--recipe", "tiny", "--steps", "1", "--out", tmp_path / "out"],
        "probe": ["--training", tmp_path, "--target", "age", "--group", "vae"],
        "decode": ["--run", "demo_100_run0", "--out", tmp_path / "x.nii.gz"],
    }[command]

    def with_contract(name: str, value: Any) -> Files:
        tree = json.loads(sound["vae/zarr.json"])
        tree["attributes"]["contract"][name] = value
        return sound | {"vae/zarr.json": resealed(tree)}

    from fmritok.pipeline.store.tables.table import encode_arrays

    wrong = encode_arrays({"coordinates": np.zeros((3, 3), np.float32)})
    del wrong["zarr.json"]
    for files in (
        with_contract("tokens_per_frame", 2**40),
        with_contract("provenance", []),
        with_contract("dim", 4),
        with_table(sound, "vae", "runs", lambda t: t.assign(tr=[np.nan, 1.0])),
        with_table(sound, "vae", "runs", lambda t: t.drop(columns="subject")),
        with_files(sound, "vae", wrong),
        sound | {"vae/zarr.json": b"{}"},
        *([with_contract("provenance", {"tokenizer": "vae"})] if command == "decode" else ()),
    ):
        put(place, files)
        result = fmritok(command, "--store", place, *arguments)
        assert result.exit_code in (1, 2), result.output
        assert isinstance(result.exception, SystemExit), result.exception
        assert "expected" in result.output
    assert list(tmp_path.iterdir()) == []
