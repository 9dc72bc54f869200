"""Rows of tables: none is lost, none is shifted, and what is doubtful is said."""

from __future__ import annotations

import pytest

from fmritok.pipeline.tables.remarks import Remark
from fmritok.pipeline.tables.small_files import UnreadableError
from fmritok.pipeline.tables.text_table import BIDS, CSV, MisalignedError, TextTable, find_column


def read(tmp_path, content: str, dialect=BIDS):
    path = tmp_path / "table"
    path.write_bytes(content.encode())
    table = TextTable(path, dialect)
    rows = list(table.rows())
    return table.header, rows, set(table.remarks)


def test_bids_tables_have_no_quoting(tmp_path):
    content = 'id\tnote\n1\t"left handed\n2\tok"\n3\t"x"\n'
    assert read(tmp_path, content) == (
        ["id", "note"], [["1", '"left handed'], ["2", 'ok"'], ["3", '"x"']], set(),
    )  # fmt: skip


def test_csv_tables_have(tmp_path):
    content = 'id,note\n1,"a, b"\n2,"say ""hi"""\n3,5\'11"\n4, "c, d"\n'
    assert read(tmp_path, content, CSV)[1:] == (
        [["1", "a, b"], ["2", 'say "hi"'], ["3", "5'11\""], ["4", "c, d"]], set(),
    )  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        'id,note,x\n1,"left,1\n2,right,1\n3,ok",1\n',  # closed further down: swallows two rows
        'id,note,x\n1,"left,1\n2,right,1\n3,ok,1\n',  # never closed
        'id,note,x\n1,"left"ish,1\n2,right,1\n3,ok,1\n',  # text after the quote mark
    ],
)
def test_a_lone_quote_mark_in_a_csv_swallows_no_rows(tmp_path, content):
    _, rows, remarks = read(tmp_path, content, CSV)
    assert [(row[0], row[2]) for row in rows] == [("1", "1"), ("2", "1"), ("3", "1")]
    assert remarks == {Remark.STRAY_QUOTES}


def test_line_breaks_in_quoted_text_are_kept_and_named(tmp_path):
    _, rows, remarks = read(tmp_path, 'id,note\n1,"two\nlines"\n2,x\n', CSV)
    assert rows == [["1", "two\nlines"], ["2", "x"]]
    assert remarks == {Remark.LINE_BREAKS}


def test_rows_that_do_not_fit_the_header(tmp_path):
    content = "id\ta\tb\n1\tx\ty\n2\tx\n3\tx\ty\tz\n4\tx\ty\t\t\n\n \t \t \n5\tx\ty\n"
    _, rows, remarks = read(tmp_path, content)
    assert rows == [["1", "x", "y"], ["2", "x", ""], ["4", "x", "y"], ["5", "x", "y"]]
    assert remarks == {Remark.SHORT_ROWS, Remark.LONG_ROWS}


def test_a_table_whose_rows_are_all_too_long_is_refused(tmp_path):
    with pytest.raises(MisalignedError, match="2 columns in the header and 3 below it"):
        read(tmp_path, '"id","x"\n"1","0010001",5\n', CSV)


def test_what_comes_before_the_header(tmp_path):
    content = "\n  \t \n# made by a script\nid\ta\t\t\n1\tx\t\t\n#2\ty\t\t\n"
    assert read(tmp_path, content) == (["id", "a"], [["1", "x"]], {Remark.COMMENTS})
    assert read(tmp_path, "sep=;\nid;a\n1;x\n", CSV)[:2] == (["id", "a"], [["1", "x"]])


def test_the_line_of_a_remark_is_told(tmp_path):
    (tmp_path / "t").write_text("id\ta\n1\tx\n2\n3\n")
    table = TextTable(tmp_path / "t", BIDS)
    list(table.rows())
    assert table.said() == [f"{Remark.SHORT_ROWS} (line 3)"]


def test_a_bids_table_with_commas_is_read_and_named(tmp_path):
    content = 'id,a\n1,"x, y"\n'
    assert read(tmp_path, content) == (["id", "a"], [["1", "x, y"]], {Remark.NOT_TABS})
    assert read(tmp_path, "id\n1\n") == (["id"], [["1"]], set())
    assert read(tmp_path, "id\ta,b;c\n1\tx\n")[0] == ["id", "a,b;c"]


@pytest.mark.parametrize("content", ["", "\n\n", "PK\3\4\0\0", "id\ta\n1\t\0\n"])
def test_files_that_are_no_tables(tmp_path, content):
    with pytest.raises(UnreadableError, match="empty, or not text"):
        read(tmp_path, content)


def test_columns_are_found_by_their_own_case_first():
    assert find_column(["Age", "age", "AGE"], ["age"]) == "age"
    assert find_column(["Age", "AGE"], ["age"]) == "Age"
    assert find_column(["x"], ["age"]) is None
