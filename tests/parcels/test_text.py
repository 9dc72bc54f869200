"""Tables of numbers as text: headers, comments, index columns, and what is wrong with them."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from parcel_series import series, write_text

from fmritok.errors import RunError
from fmritok.pipeline.parcels.text import read_text_matrix

VALUES = series(6, 3)
ROWS = "\n".join("\t".join(f"{x:.2f}" for x in row) for row in VALUES) + "\n"


def read(tmp_path, text, name="run.1D"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    matrix, _ = read_text_matrix(path)
    shape, _ = read_text_matrix(path, values=False)
    assert (shape.n_rows, shape.n_columns, shape.columns, shape.rows, shape.text_columns) == (
        matrix.n_rows, matrix.n_columns, matrix.columns, matrix.rows, matrix.text_columns
    )  # fmt: skip
    return matrix


@pytest.mark.parametrize(
    ("before", "columns"),
    [
        ("", ()),
        ("#1\t#2\t#3\n", ("#1", "#2", "#3")),
        ("# a\tb\tc\n", ("a", "b", "c")),
        ("a\tb\tc\n", ("a", "b", "c")),
        ('"a"\t"b"\t"c"\n', ("a", "b", "c")),
        ("0\t1\t2\n", ("0", "1", "2")),
        ("1\t2\t3\n", ("1", "2", "3")),
        ("# made by a tool\n\na\tb\tc\n", ("a", "b", "c")),
        ("# 3dmaskave -mask x.nii run.nii with words\n", ()),
        ("\ufeffa\tb\tc\n", ("a", "b", "c")),
    ],
)
def test_a_header_gives_names_and_no_frame(tmp_path, before, columns):
    matrix = read(tmp_path, before + ROWS)
    assert matrix.columns == columns
    np.testing.assert_allclose(matrix.values, VALUES)


@pytest.mark.parametrize("separator", ["\t", ",", ";", " ", "   "])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_separators_and_line_ends(tmp_path, separator, ending):
    text = ROWS.replace("\t", separator).replace("\n", ending)
    np.testing.assert_allclose(read(tmp_path, text).values, VALUES)


def test_ascending_integers_are_labels_and_no_frame(tmp_path):
    values = series(4, 6)
    rows = "\n".join("\t".join(f"{x:.2f}" for x in row) for row in values)
    matrix = read(tmp_path, "2001\t2002\t2101\t2102\t2111\t2112\n" + rows)
    assert matrix.columns == ("2001", "2002", "2101", "2102", "2111", "2112")
    np.testing.assert_allclose(matrix.values, values)


def test_a_header_may_leave_out_the_name_of_the_rows(tmp_path):
    lines = [f"{i}\t{row}" for i, row in enumerate(ROWS.splitlines(), 1)]
    assert read(tmp_path, "a\tb\tc\n" + "\n".join(lines)).columns == ("", "a", "b", "c")
    with pytest.raises(RunError, match="2 numbers in a row, as its header has names, got 3"):
        read(tmp_path, "a\tb\n" + ROWS)


def test_lines_of_afni_end_with_a_tab(tmp_path):
    matrix = read(tmp_path, "a\tb\tc\n" + ROWS.replace("\n", "\t\n"))
    np.testing.assert_allclose(matrix.values, VALUES)


def test_columns_of_3droistats(tmp_path):
    lines = [f"r.nii\t{i}[?]\t{row}" for i, row in enumerate(ROWS.splitlines())]
    matrix = read(tmp_path, "File\tSub-brick\tMean_1\tMean_2\tMean_3\n" + "\n".join(lines))
    assert matrix.columns == ("File", "Sub-brick", "Mean_1", "Mean_2", "Mean_3")
    assert (matrix.n_columns, matrix.text_columns) == (5, 2)
    np.testing.assert_allclose(matrix.values, VALUES)


def test_names_of_rows(tmp_path):
    lines = [f"p{i},{row}" for i, row in enumerate(ROWS.replace("\t", ",").splitlines())]
    matrix = read(tmp_path, "\n".join(lines), "run.csv")
    assert matrix.rows == ("p0", "p1", "p2", "p3", "p4", "p5")
    np.testing.assert_allclose(matrix.values, VALUES)


def test_missing_numbers_are_nan_and_gzip_is_read(tmp_path):
    path = tmp_path / "run.tsv.gz"
    path.write_bytes(gzip.compress(b"a\tb\n1.5\tn/a\n2.5\tnan\n"))
    matrix, digest = read_text_matrix(path)
    np.testing.assert_array_equal(matrix.values, [[1.5, np.nan], [2.5, np.nan]])
    assert len(digest) == 64


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got no row"),
        ("# only a comment\n", "got no row"),
        ("1.5\t2.5\n3.5\n", "2 columns in each row, got 1 in row 2 of 2"),
        ("1.5\t2.5\n3.5\t4.5\t5.5\n6.5\t7.5\n", "2 columns in each row, got 3 in row 2 of 3"),
        ("1.5\t2.5\n3.5\tx\n", "numbers, got 'x' in row 2, column 2"),
        ("a\tb\tc\n1.5\t2.5\n", "3 numbers in a row, as its header has names, got 2"),
        (b"\x00\x01\x02\x00", "empty, or not text"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(tmp_path, text, words):
    with pytest.raises(RunError, match=words):
        read(tmp_path, text)


def test_a_damaged_gzip_file_is_refused(tmp_path):
    path = tmp_path / "run.1D.gz"
    path.write_bytes(gzip.compress(ROWS.encode() * 99)[:-20])
    with pytest.raises(RunError, match="a table of numbers, got"):
        read_text_matrix(path)


def test_a_file_is_hashed_as_it_is_stored(tmp_path):
    import hashlib

    path = write_text(tmp_path / "run.tsv", VALUES)
    assert read_text_matrix(path)[1] == hashlib.sha256(path.read_bytes()).hexdigest()
