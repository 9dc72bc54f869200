"""Documents, arrays, records and tables with drawn content: no command fails without an error."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmritok.pipeline.store.documents.seal import canonical_json


@pytest.fixture(scope="module")
def sound(fast_folder: Path) -> Files:
    return sound_store(fast_folder)


#: Drawn stores of each kind; 60 and more were tried.
EXAMPLES = int(os.environ.get("FMRITOK_EXAMPLES", "3"))


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
