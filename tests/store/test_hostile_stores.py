"""Stores that somebody edited, with valid seals: one StoreError, or what the store really says.

Nothing outside of the store is touched, nothing waits, and no memory is taken for what is only
claimed.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import write_store
from tiny import fmritok

from fmritok.errors import StoreError
from fmritok.pipeline.store.documents.seal import canonical_json, growing_digest, sha256
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.records import read_record, remove_record
from fmritok.pipeline.store.tables.annotations import write_annotations
from fmritok.pipeline.store.tables.table import decode_table, encode_table, table_path
from fmritok.pipeline.store.verify import drop_runs, verify_store

#: What a command may take for a store of a few kilobytes.
MOST_BYTES = 64 * 2**20
#: Drawn stores of each kind; 60 and more were tried.
EXAMPLES = int(os.environ.get("FMRITOK_EXAMPLES", "5"))


class Files(dict[str, bytes]):
    """The files of a store, by key."""

    def __repr__(self) -> str:
        return f"{len(self)} files"

    def __or__(self, other: dict[str, bytes]) -> Files:
        return Files({**self, **other})


@pytest.fixture(scope="module")
def sound(fast_folder: Path) -> Files:
    """Return the files of a small store with two runs, phenotypes and events."""
    location = Location(fast_folder / "made" / "tokens.zarr")
    ids = list(write_store(location, [10, 40], n_tokens=2, dim=3))
    phenotypes = pd.DataFrame({"dataset": "demo", "subject": ["100", "101"], "session": ""})
    columns = pd.DataFrame({"dataset": ["demo"], "column": "age", "dtype": "float64", "unit": "a",
                            "source": "x", "meaning": "age"})  # fmt: skip
    events = pd.DataFrame({"run_id": ids, "onset": 1.0, "duration": 2.0, "trial_type": "left"})
    write_annotations(location, {"phenotypes": phenotypes.assign(age=[20.5, np.nan]),
                                 "phenotype_columns": columns, "events": events})  # fmt: skip
    return Files({key: location.read(key) for key in location.find("")})


@pytest.fixture
def place(fast_folder: Path) -> Iterator[Path]:
    """Return an empty folder for a store, beside a file that nobody may touch."""
    folder = fast_folder / "edited"
    folder.mkdir()
    (folder / "precious").write_text("mine")
    yield folder / "tokens.zarr"
    shutil.rmtree(folder)


def put(place: Path, files: Files) -> Location:
    shutil.rmtree(place, ignore_errors=True)
    for key, data in files.items():
        path = place / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Location(place)


def resealed(tree: dict[str, Any]) -> bytes:
    """Return a document whose digest is that of what it says now."""
    tree = copy.deepcopy(tree)
    try:
        tree["attributes"]["seal"].pop("digest", None)
        tree["attributes"]["seal"]["digest"] = sha256(canonical_json(tree))
    except (KeyError, TypeError, AttributeError):
        pass
    return canonical_json(tree)


def with_files(
    files: Files, group: str, changed: dict[str, bytes], tables: dict[str, str] | None = None
):
    """Put files into a group, and seal them."""
    prefix = f"{group}/" if group else ""
    tree = json.loads(files[f"{prefix}zarr.json"])
    seal = tree["attributes"]["seal"]
    for key, data in changed.items():
        name, _, last = key.partition("/")
        if name in seal["growing"] and last == "zarr.json":
            seal["growing"][name]["sha256"] = growing_digest(json.loads(data))
        else:
            seal["files"][key] = sha256(data)
    for name, path in (tables or {}).items():
        old = tree["attributes"]["tables"][name]
        for key in [k for k in seal["files"] if k.startswith(f"{old}/") and old != path]:
            del seal["files"][key]
        tree["attributes"]["tables"][name] = path
    new = {f"{prefix}{key}": data for key, data in changed.items()}
    return files | new | {f"{prefix}zarr.json": resealed(tree)}


def table_files(files: Files, group: str, name: str) -> dict[str, bytes]:
    prefix = f"{group}/" if group else ""
    path = json.loads(files[f"{prefix}zarr.json"])["attributes"]["tables"][name]
    start = f"{prefix}{path}/"
    return {key[len(start) :]: data for key, data in files.items() if key.startswith(start)}


def with_table(files: Files, group: str, name: str, change: Callable[[pd.DataFrame], Any]) -> Files:
    """Replace a table by one that somebody changed."""
    table = decode_table(table_files(files, group, name))
    changed = change(table)
    made = encode_table(table if changed is None else changed)
    path = table_path(name, made)
    return with_files(files, group, {f"{path}/{k}": v for k, v in made.items()}, {name: path})


def with_record(files: Files, run_id: str, change: Callable[[dict[str, Any]], Any]) -> Files:
    key = f"vae/records/{run_id}/zarr.json"
    tree = json.loads(files[key])
    body = tree["attributes"]
    body.pop("digest")
    change(body)
    body["digest"] = sha256(canonical_json(body))
    return files | {key: canonical_json(tree)}


def use(location: Location) -> dict[str, str]:
    """Do what commands do with a store; return what each of them refused."""

    def read() -> None:
        store = TokenStore(location.url)
        for name in store.groups:
            group = store.group(name)
            for run_id in group.runs["run_id"]:
                assert np.isfinite(group.values(run_id)).all()
            assert group.provenance is not None
        _ = store.phenotypes, store.phenotype_columns, store.events

    def verify() -> None:
        found = list(verify_store(location))
        drop_runs(location, found)

    refused = {}
    for step in (read, verify, read):
        try:
            step()
        except StoreError as error:
            refused[step.__name__] = str(error)
    result = fmritok("inspect", "--store", location.url)
    assert result.exit_code in (0, 1), (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return refused


def check(location: Location) -> dict[str, str]:
    """Use a store within bounds."""
    tracemalloc.start()
    try:
        refused = use(location)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    outside = Path(location.url).parent
    assert (outside / "precious").read_text() == "mine"
    assert {p.name for p in outside.iterdir()} == {"precious", "tokens.zarr"}
    for sentence in refused.values():
        assert "expected" in sentence
        assert len(sentence) < 5000
    return refused


def test_the_sound_store_is_read(sound, place):
    assert check(put(place, sound)) == {}


# --- trees of JSON, drawn ---------------------------------------------------------------------

ODD = st.sampled_from([
    None, True, -1, 0, 2**40, 2**70, 1e308, float("nan"), "", "..", "../../precious", "/dev/zero",
    "a/b", ".", "x" * 300, "[/x]", "\x1b[2J", "tokens", "runs", [], {}, [-1], [2**60, 2**60],
    {"a": {"b": []}}, "int8", "float64", "string", "1e9",
])  # fmt: skip
VALUES = st.one_of(ODD, st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner,
                                                                max_size=3), max_leaves=6,
))  # fmt: skip


def places_of(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List every place of a JSON tree."""
    found = [path] if path else []
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    for key, value in tree.items() if isinstance(tree, dict) else ():
        found += places_of(value, (*path, key))
    return found


def edit(data: st.DataObject, tree: Any) -> None:
    """Replace, remove or rename one thing in a tree."""
    where = data.draw(st.sampled_from(places_of(tree)), "where")
    for key in where[:-1]:
        tree = tree[key]
    key = where[-1]
    how = data.draw(st.sampled_from(["replace", "replace", "remove", "rename"]), "how")
    if how == "replace":
        tree[key] = data.draw(VALUES, "value")
    elif how == "remove" or isinstance(tree, list):
        del tree[key]
    else:
        tree[data.draw(st.sampled_from(["..", "../../precious", "/dev/zero", "", "a"]))] = tree.pop(
            key
        )


DRAWN = settings(
    deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True
)


@DRAWN
@given(data=st.data())
def test_documents_of_any_content(sound, fast_folder, data):
    key = data.draw(st.sampled_from(["zarr.json", "vae/zarr.json"]))
    tree = json.loads(sound[key])
    for _ in range(data.draw(st.integers(1, 2))):
        edit(data, tree)
    in_place(fast_folder, sound | {key: resealed(tree)})


@DRAWN
@given(data=st.data())
def test_metadata_of_arrays_of_any_content(sound, fast_folder, data):
    keys = sorted(k for k in sound if k.startswith("vae/") and k.count("/") > 1
                  and k.endswith("/zarr.json") and "/records/" not in k)  # fmt: skip
    key = data.draw(st.sampled_from(keys)).removeprefix("vae/")
    tree = json.loads(sound[f"vae/{key}"])
    edit(data, tree)
    try:
        files = with_files(sound, "vae", {key: canonical_json(tree)})
    except (KeyError, TypeError, UnicodeEncodeError):
        return  # it cannot be sealed
    in_place(fast_folder, files)


@DRAWN
@given(data=st.data())
def test_records_of_any_content(sound, fast_folder, data):
    try:
        files = with_record(sound, "demo_101_run1", lambda body: edit(data, body))
    except UnicodeEncodeError:
        return
    in_place(fast_folder, files)


@DRAWN
@given(data=st.data())
def test_tables_of_any_content(sound, fast_folder, data):
    group, name = data.draw(st.sampled_from(
        [("vae", "runs"), ("vae", "runs"), ("vae", "chunks"), ("", "events"), ("", "phenotypes")]
    ))  # fmt: skip

    def change(table: pd.DataFrame) -> pd.DataFrame:
        column = data.draw(st.sampled_from(list(table.columns)))
        if data.draw(st.booleans()):
            return table.drop(columns=column)
        values = table[column].astype(object).tolist()
        row = data.draw(st.integers(0, len(values) - 1))
        values[row] = data.draw(st.one_of(
            st.integers(-(2**62), 2**62), st.floats(), st.text(st.characters(codec="utf-8")),
            st.sampled_from(["../../precious", "..", "", "demo_100_run0", "[/x]"]), st.none(),
        ))  # fmt: skip
        return table.assign(**{column: pd.Series(values, dtype=object)})

    in_place(fast_folder, with_table(sound, group, name, change))


def in_place(fast_folder: Path, files: Files) -> dict[str, str]:
    folder = fast_folder / "drawn"
    folder.mkdir()
    try:
        (folder / "precious").write_text("mine")
        return check(put(folder / "tokens.zarr", files))
    finally:
        shutil.rmtree(folder)


# --- cases that were found ---------------------------------------------------------------------


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
    refused = check(location)
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
        check(put(place, sound | {key: deep}))


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
    assert [d.run_id for d in damage] == ["demo_101_run1"] or "row" in change
    files = with_table(files, "vae", "runs", lambda t: t.assign(status=["done", "planned"]))
    check(put(place, files))
    files = with_table(files, "vae", "runs", lambda t: t.drop(columns="status"))
    check(put(place, files))  # --drop makes the table again from the records


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
