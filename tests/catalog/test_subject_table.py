"""Tables of subjects keep their ids as text; of repeated rows and columns, what agrees is kept."""

from __future__ import annotations

import pytest

from fmritok.errors import CatalogError
from fmritok.pipeline.catalog.phenotypes import tidy
from fmritok.pipeline.tables.remarks import Remark
from fmritok.pipeline.tables.small_files import UnreadableError
from fmritok.pipeline.tables.subject_table import read_subject_table
from fmritok.pipeline.tables.text_table import BIDS, CSV


def write(tmp_path, content: str | bytes):
    path = tmp_path / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(tmp_path, content, dialect=CSV, **options):
    table, said = read_subject_table(write(tmp_path, content), dialect, ["Subject"], **options)
    return table.to_dict("list"), [words.partition(" (line")[0] for words in said]


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
        "Subject,name\n0010001,é\n".encode("utf-16"),
        "Subject,name\r0010001,é\r",
        "Subject,name\n0010001.0,é,\n",
    ],
)
def test_separators_encodings_and_marks(tmp_path, content):
    assert read(tmp_path, content) == ({"subject": ["0010001"], "name": ["é"]}, [])


def test_rows_longer_than_the_header_are_refused(tmp_path):
    """As R writes them: the numbers of the rows would be taken for ids."""
    with pytest.raises(CatalogError, match="2 columns in the header and 3 below it"):
        read(tmp_path, '"Subject","x"\n"1","0010001",5\n')


def test_a_comma_too_many_further_down_is_not_cut_off(tmp_path):
    table, said = read(tmp_path, "Subject,name\n0010001,a,\n0010002,b,c\n")
    assert table == {"subject": ["0010001"], "name": ["a"]}
    assert said == [Remark.LONG_ROWS]


@pytest.mark.parametrize("content", ["", "\n", b"PK\x03\x04\x00\x00Subject"])
def test_files_that_are_no_tables(tmp_path, content):
    with pytest.raises(UnreadableError, match="empty, or not text"):
        read(tmp_path, content)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(UnreadableError, match="no such file"):
        read_subject_table(tmp_path / "missing.csv", CSV, ["Subject"])


def test_only_the_wanted_columns_and_subjects_are_kept(tmp_path):
    rows = "\n".join(f"{i:07d},{i},{-i}" for i in range(60_000))
    table, said = read(tmp_path, f"Subject,a,b\n{rows}\n", columns={"b"},
                       subjects={"0000007", "0059999"}, limit=None)  # fmt: skip
    assert table == {"subject": ["0000007", "0059999"], "b": ["-7", "-59999"]}
    assert said == []


def test_ids_that_look_like_missing_values_are_ids(tmp_path):
    content = "Subject\tsite\nsub-NA\tNA\nSub-None\tNone\nnull\tn/a\n"
    table, said = read(tmp_path, content, BIDS, prefix="sub-")
    assert table == {"subject": ["NA", "None", "null"], "site": ["NA", "None", ""]}
    assert said == []


def test_rows_without_an_id_are_named(tmp_path):
    table, said = read(tmp_path, "Subject\tage\n1\t2\n\t3\nn/a\t4\n", BIDS)
    assert table == {"subject": ["1"], "age": ["2"]}
    assert said == [f"{Remark.NO_ID} (2)"]


def test_of_repeated_rows_what_agrees_is_kept(tmp_path):
    table, said = read(tmp_path, "Subject,a,b,c\n1,x,1,\n2,y,5,z\n1,x,2,w\n")
    assert table == {"subject": ["1", "2"], "a": ["x", "y"], "b": ["", "5"], "c": ["w", "z"]}
    assert said == [f"{Remark.SAME_SUBJECT}: '1'"]


def test_one_row_for_each_session(tmp_path):
    content = "Subject\tses\tage\nsub-1\tses-a\t5\nsub-1\tses-b\t6\nsub-2\tn/a\t7\n"
    table, said = read(tmp_path, content, BIDS, prefix="sub-", sessions=["session_id", "ses"])
    assert table == {"subject": ["1", "1", "2"], "session": ["a", "b", ""], "age": ["5", "6", "7"]}
    assert said == []


def test_of_repeated_columns_what_agrees_is_kept(tmp_path):
    table, said = read(tmp_path, "Subject,a,a\n1,x,x\n2,x,y\n3,,z\n")
    assert table == {"subject": ["1", "2", "3"], "a": ["x", "", "z"]}
    assert said == [f"{Remark.SAME_COLUMN}: 'a'"]


def test_columns_named_like_the_keys_keep_their_values_under_another_name(tmp_path):
    path = write(tmp_path, "participant_id,subject,dataset\ns1,x,siteX\n")
    table, _ = read_subject_table(path, CSV, ["participant_id"])
    found = tidy("d", table, {}, path=path).table
    assert found[["dataset", "subject"]].to_numpy().tolist() == [["d", "s1"]]
    assert found[["subject_in_table", "dataset_in_table"]].to_numpy().tolist() == [["x", "siteX"]]
