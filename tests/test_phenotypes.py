"""Tables keep their ids, tell separators and encodings, and are typed by what is in them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fmritok.pipeline.errors import CatalogError
from fmritok.pipeline.phenotypes import Column, sex_labels, tidy


def write(tmp_path, content: str | bytes):
    path = tmp_path / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        "Subject,name\n0010001,é\n",
        "Subject\tname\r\n0010001\té\r\n",
        "SUBJECT;name\n 0010001 ; é \n",
        '"subject","name"\n"0010001","é"\n',
        "\ufeffSubject,name\n0010001,é\n",
        "Subject,name\n0010001,é\n,\n",
        "Subject,name\n0010001,é\n".encode("latin-1"),
        "Subject,name\n0010001.0,é,\n",
    ],
)
def test_separators_encodings_and_marks(tmp_path, content):
    table = read_text_table(write(tmp_path, content), ["Subject"])
    assert table.rename(columns=str.lower).values.tolist() == [["0010001", "é"]]


def test_rows_longer_than_the_header_are_refused(tmp_path):
    """As R writes them: the numbers of the rows would be taken for ids."""
    with pytest.raises(CatalogError, match="2 columns in the header and 3 below it"):
        read_text_table(write(tmp_path, '"Subject","x"\n"1","0010001",5\n'), ["Subject"])


@pytest.mark.parametrize(
    "rows", ["0010001,a\n0010002,b,c\n", "0010001,a,\n0010002,b,c\n", "0010001,a,\n2,b,c,d\n"]
)
def test_a_comma_too_many_further_down_is_not_cut_off(tmp_path, rows):
    with pytest.raises(CatalogError, match="Phenotype table"):
        read_text_table(write(tmp_path, f"Subject,name\n{rows}"), ["Subject"])


@pytest.mark.parametrize("content", ["", "\n", b"PK\x03\x04\x00\x00Subject"])
def test_files_that_are_no_tables(tmp_path, content):
    with pytest.raises(CatalogError, match="an empty or binary file"):
        read_text_table(write(tmp_path, content), ["Subject"])


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(CatalogError, match="FileNotFoundError"):
        read_text_table(tmp_path / "missing.csv", ["Subject"])


def test_only_the_wanted_columns_and_subjects_are_kept(tmp_path):
    rows = "\n".join(f"{i:07d},{i},{-i}" for i in range(60_000))
    path = write(tmp_path, f"eid,a,b\n{rows}\n")
    table = read_text_table(path, ["eid"], columns={"b"}, subjects={"0000007", "0059999"})
    assert table.to_dict("list") == {"subject": ["0000007", "0059999"], "b": ["-7", "-59999"]}


def test_types_follow_the_values():
    table = pd.DataFrame(
        {
            "subject": ["01", "02", "03"],
            "count": ["1", "2", "3"],
            "gap": ["1", "", "3"],
            "score": ["1.5", "-2e1", "3"],
            "code": ["007", "8", "9"],
            "word": ["1", "x", ""],
            "empty": ["", "", ""],
            "age": ["", "30", "31.5"],
        }
    )
    found = tidy("x", table, {"age": Column("age", "years", kind="number")}, source="t.csv")
    dtypes = {k: str(v) for k, v in found.table.dtypes.items()}
    assert (dtypes["count"], dtypes["gap"], dtypes["score"]) == ("int64", "float64", "float64")
    assert list(found.table)[:4] == ["dataset", "subject", "session", "age"]
    assert found.table["code"].tolist() == ["007", "8", "9"]
    assert found.table["word"].tolist() == ["1", "x", ""]
    assert found.table["empty"].tolist() == ["", "", ""]
    np.testing.assert_array_equal(found.table["score"], [1.5, -20, 3])
    described = found.columns.set_index("column")
    assert described["dtype"].to_dict() == {
        "age": "float64", "count": "int64", "gap": "float64", "score": "float64", "code": "str",
        "word": "str", "empty": "str",
    }  # fmt: skip
    assert described.loc["age"].tolist() == ["x", "float64", "years", "t.csv", "age"]


def test_words_in_a_column_of_numbers_are_an_error():
    table = pd.DataFrame({"subject": ["1"], "age": ["9y"]})
    with pytest.raises(CatalogError, match="Phenotype column age of x: expected numbers"):
        tidy("x", table, {"age": Column(kind="number")})


def test_sex_by_letter_word_and_code():
    given = pd.Series(["F", "male", "1.0", "0", "", "other"])
    assert sex_labels(given, {"0": "F", "1": "M"}).tolist() == ["F", "M", "M", "F", "", ""]
    assert sex_labels(given).tolist() == ["F", "M", "", "", "", ""]


def test_whole_numbers_that_a_float_cannot_hold_stay_text():
    """They are ids: 9007199254740993 would become ...992."""
    found = tidy("d", pd.DataFrame({"subject": ["1", "2"], "scan": ["9007199254740993", "7"]}), {})
    assert found.table["scan"].tolist() == ["9007199254740993", "7"]


def test_columns_named_like_the_keys_keep_their_values_under_another_name(tmp_path):
    path = write(tmp_path, "participant_id,subject,dataset\ns1,x,siteX\n")
    table = read_text_table(path, ["participant_id"])
    found = tidy("d", table, {}).table
    assert found[["dataset", "subject"]].to_numpy().tolist() == [["d", "s1"]]
    assert found[["subject_in_table", "dataset_in_table"]].to_numpy().tolist() == [["x", "siteX"]]
