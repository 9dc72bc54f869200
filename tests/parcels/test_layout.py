"""Which axis is time is said or certain, never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmritok.errors import RunError
from fmritok.pipeline.parcels.layout import Matrix, SeriesLayout, frames_by_parcels

PATH = Path("run.tsv")


def of(matrix, **layout):
    n_frames, names, chosen = frames_by_parcels(matrix, SeriesLayout(4, **layout), PATH)
    return n_frames, names, chosen.tolist()


def test_rows_are_frames_unless_something_else_is_said():
    assert of(Matrix(9, 4)) == (9, (), [0, 1, 2, 3])
    assert of(Matrix(4, 9), frames="columns") == (9, (), [0, 1, 2, 3])


def test_a_square_matrix_needs_a_word_or_names():
    with pytest.raises(RunError, match="told apart, got 4 rows and as many columns. Say `frames:"):
        of(Matrix(4, 4))
    assert of(Matrix(4, 4), frames="rows")[0] == 4
    assert of(Matrix(4, 4, columns=("a", "b", "c", "d")))[1] == ("a", "b", "c", "d")


def test_a_transposed_matrix_is_refused_with_the_word_that_would_help():
    with pytest.raises(RunError, match="4 parcels in the columns.*got 9. .*say `frames: columns`"):
        of(Matrix(4, 9))
    with pytest.raises(RunError, match="4 parcels in the rows.*got 9. .*say `frames: rows`"):
        of(Matrix(9, 4), frames="columns")


def test_another_number_of_columns_is_refused():
    with pytest.raises(RunError, match="4 parcels in the columns, as the atlas has, got 5"):
        of(Matrix(9, 5))
    assert of(Matrix(9, 3, columns=("a", "b", "c")))[1] == ("a", "b", "c")  # found by name


def test_columns_that_are_no_parcels_are_skipped():
    assert of(Matrix(9, 6), skip=2) == (9, (), [2, 3, 4, 5])
    names = ("time", "a", "b", "c", "d")
    assert of(Matrix(9, 5, names), skip=("time",)) == (9, names[1:], [1, 2, 3, 4])
    afni = Matrix(9, 6, ("File", "Sub-brick", "Mean_1", "Mean_2", "Mean_3", "Mean_4"),
                  text_columns=2)  # fmt: skip
    assert of(afni)[2] == [0, 1, 2, 3]
    index = Matrix(9, 5, ("", "a", "b", "c", "d"))
    assert of(index) == (9, ("a", "b", "c", "d"), [1, 2, 3, 4])
    with pytest.raises(RunError, match="'seconds', to `skip` it, got 'time', 'a'"):
        of(Matrix(9, 5, names), skip=("seconds",))


def test_names_of_rows_are_parcels_only_if_columns_are_frames():
    named = Matrix(4, 10, rows=("a", "b", "c", "d"), text_columns=1)
    assert of(named, frames="columns") == (9, ("a", "b", "c", "d"), [0, 1, 2, 3])
    with pytest.raises(RunError, match="numbers, got text. If each row is a parcel"):
        of(named)


def test_a_layout_survives_as_text():
    for skip in (2, ("File", "Sub-brick"), ()):
        layout = SeriesLayout(200, "columns", skip)
        assert SeriesLayout.from_text(layout.to_text()) == layout
