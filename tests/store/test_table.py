"""Tables keep their values, types and order, whatever is merged into them, whoever reads them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from fmritok.pipeline.store.documents.seal import read_document
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.tables import switch
from fmritok.pipeline.store.tables.annotations import merged, read_annotation, write_annotations
from fmritok.pipeline.store.tables.table import decode_table, encode_table, table_path
from fmritok.pipeline.store.verify import verify_store

KEYS = ("dataset", "subject", "session")


def cohort(name, n=3, **columns):
    subjects = [f"{name}{i}" for i in range(n)]
    return pd.DataFrame({"dataset": name, "subject": subjects, "session": "", **columns})


@pytest.fixture
def location(tmp_path):
    return Location(tmp_path / "t.zarr")


def phenotypes(location):
    return read_annotation(location, "phenotypes")


def plain(table):
    """Return a table as lists of Python values, None where one is missing."""
    return {
        name: [None if pd.isna(value) else value for value in table[name].tolist()]
        for name in table.columns
    }


def test_a_column_with_missing_values_keeps_its_type():
    table = pd.DataFrame(
        {
            "text": ["a", None, ""],
            "whole": pd.array([2**60 + 1, None, -3], dtype="Int64"),
            "truth": [True, None, False],
            "number": [1.5, np.nan, np.inf],
            "all whole": [1, 2, 3],
            "n_eff/sum": [True, False, True],
            "nothing": [None, None, None],
        }
    )
    again = decode_table(encode_table(table))
    assert plain(again) == plain(table)
    assert [str(dtype) for dtype in again.dtypes] == [
        "object", "Int64", "boolean", "float64", "int64", "bool", "object",
    ]  # fmt: skip


def test_a_second_cohort_with_decimals_or_without_the_column_changes_no_value(location):
    write_annotations(location, {"phenotypes": cohort("hcp", 2, age=[22, 31], twin=[True, False])})
    write_annotations(location, {"phenotypes": cohort("bids", 2, age=[8.7, 9.9])})
    write_annotations(location, {"phenotypes": cohort("demo", 1, sex=["F"])})
    table = phenotypes(location)
    assert plain(table)["age"] == [22, 31, 8.7, 9.9, None]
    assert plain(table)["twin"] == [True, False, None, None, None]
    assert table["twin"].dtype == "boolean"
    write_annotations(location, {"phenotypes": cohort("other", 1, visits=[3])})
    assert str(phenotypes(location)["visits"].dtype) == "Int64"


def test_a_cohort_that_is_written_again_keeps_all_rows_in_their_order(location):
    for name, sex in (("adhd", "M"), ("hcp", "F"), ("ukb", "M")):
        write_annotations(location, {"phenotypes": cohort(name, sex=sex)})
    before = phenotypes(location)
    write_annotations(location, {"phenotypes": cohort("hcp", sex="F").iloc[::-1]})
    pd.testing.assert_frame_equal(phenotypes(location), before)
    write_annotations(location, {"phenotypes": cohort("adhd", 4, sex=["M", "F", "M", "F"])})
    after = phenotypes(location)
    assert after["subject"].tolist() == [*before["subject"], "adhd3"]
    assert after["sex"].tolist() == ["M", "F", "M", "F", "F", "F", "M", "M", "M", "F"]


def test_nothing_is_written_when_nothing_changed(location, monkeypatch):
    write_annotations(location, {"phenotypes": cohort("hcp", sex="F")})
    monkeypatch.setattr(Location, "write", lambda *_: pytest.fail("something was written"))
    monkeypatch.setattr(Location, "write_many", lambda _, files: not files or pytest.fail("too"))
    write_annotations(location, {"phenotypes": cohort("hcp", sex="F")})


def test_events_of_a_run_are_replaced_together(location):
    events = pd.DataFrame({"run_id": ["a", "a", "b"], "onset": [0.0, 1.0, 2.0]})
    events = events.assign(duration=1.0, trial_type="x")
    write_annotations(location, {"events": events})
    write_annotations(location, {"events": events.assign(run_id="a", onset=5.0)})
    table = read_annotation(location, "events")
    assert table["run_id"].tolist() == ["a", "a", "a", "b"]
    assert table["onset"].tolist() == [5.0, 5.0, 5.0, 2.0]


@pytest.mark.parametrize("step", ["write_many", "write_document"])
def test_a_kill_while_tables_are_replaced_leaves_the_old_ones_and_a_rerun_heals(
    location, monkeypatch, step
):
    write_annotations(location, {"phenotypes": cohort("adhd", sex="M", c1="x")})
    write_annotations(location, {"phenotypes": cohort("hcp", sex="F", c1="y")})
    before = phenotypes(location)

    def killed(*_):
        raise KeyboardInterrupt

    owner = Location if step == "write_many" else switch
    monkeypatch.setattr(owner, step, killed)
    with pytest.raises(KeyboardInterrupt):
        write_annotations(location, {"phenotypes": cohort("adhd", 4, sex="F", c1="z")})
    monkeypatch.undo()
    pd.testing.assert_frame_equal(phenotypes(location), before)
    assert list(verify_store(location)) == []
    write_annotations(location, {"phenotypes": cohort("adhd", 4, sex="F", c1="z")})
    table = phenotypes(location)
    assert table["subject"].tolist() == ["adhd0", "adhd1", "adhd2", "hcp0", "hcp1", "hcp2", "adhd3"]
    assert table["sex"].tolist() == ["F"] * 7
    assert table["c1"].tolist() == ["z", "z", "z", "y", "y", "y", "z"]


def test_a_reader_gets_whole_tables_while_they_are_replaced(location, monkeypatch):
    """The document is read, then the tables are replaced twice, then the files are read."""
    write_annotations(location, {"phenotypes": cohort("a", 2, v=0)})
    read_many, n = Location.read_many, []

    def racing(self, keys):
        n.append(1)
        if len(n) < 3:
            for _ in range(2):
                monkeypatch.setattr(Location, "read_many", read_many)
                value = len(n) * 10 + int(phenotypes(location)["v"].iloc[0]) + 1
                write_annotations(location, {"phenotypes": cohort("a", 2, v=value)})
            monkeypatch.setattr(Location, "read_many", racing)
        return read_many(self, keys)

    monkeypatch.setattr(Location, "read_many", racing)
    table = phenotypes(location)
    assert table["v"].nunique() == 1
    assert len(n) == 3


def test_tables_are_read_with_zarr_alone(location):
    write_annotations(location, {"phenotypes": cohort("a", 2, age=[31.5, 22], twins=[1, None])})
    root = zarr.open_group(location.url, mode="r")
    table = root[root.attrs["tables"]["phenotypes"]]
    assert table["subject"][:].tolist() == ["a0", "a1"]
    assert table["age"][:].tolist() == [31.5, 22.0]
    columns = {column["name"]: column for column in table.attrs["columns"]}
    assert columns["age"] == {"name": "age", "array": "age", "type": "float64"}


def test_replaced_tables_are_removed(location):
    for value in range(5):
        write_annotations(location, {"phenotypes": cohort("a", v=value)})
    path = read_document(location, "").attributes["tables"]["phenotypes"]
    assert [f"phenotypes/{name}" for name in location.list_dir("phenotypes")] == [
        path, "phenotypes/zarr.json",
    ]  # fmt: skip


VALUES = {
    "whole": st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
    "number": st.none() | st.floats(allow_nan=False),
    "truth": st.none() | st.booleans(),
    "text": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
}


@st.composite
def tables(draw):
    n = draw(st.integers(0, 5))
    subjects = draw(st.lists(st.sampled_from("abcdef"), min_size=n, max_size=n, unique=True))
    columns = {}
    for name in draw(st.lists(st.sampled_from("uvwxyz"), unique=True, max_size=4)):
        kind = sorted(VALUES)["uvwxyz".index(name) % 4]
        columns[name] = draw(st.lists(VALUES[kind], min_size=n, max_size=n))
    frame = pd.DataFrame({"dataset": "d", "subject": subjects, "session": ""}, dtype=object)
    return frame.assign(**{k: pd.Series(v, dtype=object) for k, v in columns.items()}), columns


@settings(deadline=None, max_examples=30)
@given(tables())
def test_any_table_comes_back_as_it_was(made):
    table, _ = made
    files = encode_table(table)
    again = decode_table(files)
    assert list(again.columns) == list(table.columns)
    assert plain(again) == plain(table)
    assert table_path("t", encode_table(again)) == table_path("t", files)


@settings(deadline=None, max_examples=30)
@given(st.lists(tables(), min_size=1, max_size=4))
def test_any_merge_keeps_the_last_row_of_each_key_at_its_first_place(made):
    wanted, order, columns = {}, [], []
    table = None
    for frame, own in made:
        if frame.empty:
            continue
        table = merged(table, frame, keys=KEYS)
        table = decode_table(encode_table(table))
        columns += [name for name in own if name not in columns]
        for i, subject in enumerate(frame["subject"]):
            order += [subject] * (subject not in order)
            wanted[subject] = {name: values[i] for name, values in own.items()}
    if table is None:
        return
    assert table["subject"].tolist() == order
    for name in columns:
        assert plain(table)[name] == [wanted[subject].get(name) for subject in order], name


def test_a_column_of_another_kind_is_kept_apart_with_the_name_of_its_cohort(location):
    about = {"dataset": "a", "column": "score", "dtype": "float", "unit": "", "source": "",
             "meaning": ""}  # fmt: skip
    columns = pd.DataFrame([about])
    write_annotations(
        location, {"phenotypes": cohort("a", 2, score=[1, 2]), "phenotype_columns": columns}
    )
    other = columns.assign(dataset="b")
    later = {"phenotypes": cohort("b", 2, score=["high", "low"]), "phenotype_columns": other}
    for _ in range(2):
        write_annotations(location, later)
        assert plain(phenotypes(location))["score"] == [1, 2, None, None]
        assert plain(phenotypes(location))["score (b)"] == [None, None, "high", "low"]
    about = read_annotation(location, "phenotype_columns")
    assert about[["dataset", "column"]].to_numpy().tolist() == [["a", "score"], ["b", "score (b)"]]


def test_a_missing_value_replaces_no_known_one(location):
    write_annotations(location, {"phenotypes": cohort("a", 2, age=[30, 40], sex=["F", "M"])})
    write_annotations(location, {"phenotypes": cohort("a", 2, age=[None, 41], iq=[100, None])})
    table = plain(phenotypes(location))
    assert table["age"] == [30, 41]
    assert table["sex"] == ["F", "M"]
    assert table["iq"] == [100, None]
