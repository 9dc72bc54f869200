"""Small files are read within bounds, and each that cannot be used gives one reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fmritok.pipeline.tables import small_files
from fmritok.pipeline.tables.remarks import Reason
from fmritok.pipeline.tables.small_files import (
    UnreadableError,
    not_fetched,
    read_json,
    read_text,
    text_lines,
)

POINTERS = [
    b"/annex/objects/MD5E-s100--d41d8cd98f00b204e9800998ecf8427e.tsv\n",
    b"../.git/annex/objects/xx/yy/MD5E-s100--d41d/MD5E-s100--d41d.tsv",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
]


def reason(do, *arguments, **options) -> str:
    with pytest.raises(UnreadableError) as caught:
        do(*arguments, **options)
    return str(caught.value)


def lines(path: Path) -> list[str]:
    return list(text_lines(path))


@pytest.mark.parametrize("read", [read_text, read_json, lines])
def test_files_that_are_not_there_or_no_files(tmp_path, read):
    """A pipe that nobody writes to must not hang."""
    path = tmp_path / "a.json"
    assert reason(read, path) == Reason.MISSING
    path.symlink_to(".git/annex/objects/xx/MD5E-s1--0")
    assert reason(read, path) == Reason.LINK
    path.unlink()
    os.mkfifo(path)
    assert reason(read, path) == Reason.IRREGULAR
    assert reason(read, tmp_path) == Reason.IRREGULAR
    assert reason(read, Path("/dev/zero")) == Reason.IRREGULAR
    assert reason(read, tmp_path / "a.json" / "b") in (
        Reason.MISSING,
        Reason.ERROR + ": Not a directory",
    )
    assert reason(read, Path("a\0b")) == Reason.MISSING


@pytest.mark.parametrize("content", POINTERS)
def test_pointers_to_content_elsewhere_are_not_taken_for_it(tmp_path, content):
    path = tmp_path / "a.tsv"
    path.write_bytes(content)
    assert reason(lines, path) == Reason.POINTER
    assert not_fetched(path) == Reason.POINTER
    path.write_text("participant_id\tpath\nsub-01\tannex/objects/x\n")
    assert lines(path)[1] == "sub-01\tannex/objects/x"
    assert not_fetched(path) is None


def test_a_file_without_permission(tmp_path, monkeypatch):
    def closed(*_):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.json"
    path.write_text("{}")
    monkeypatch.setattr(os, "open", closed)
    assert reason(read_json, path) == Reason.DENIED


def test_large_files_are_not_read(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    for read in (read_text, read_json, lines):
        assert reason(read, path) == Reason.TOO_LARGE
    monkeypatch.setattr(small_files, "_LONGEST_LINE", 1000)
    path.write_bytes(b"x" * 2000)
    assert reason(lambda: list(text_lines(path, limit=None))) == Reason.TOO_LARGE


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[" * 200_000, Reason.DEEP_JSON),
        ('{"a":' * 200_000, Reason.DEEP_JSON),
        ("", Reason.NO_JSON),
        ("{", Reason.NO_JSON),
        ('{"a": ' + "9" * 5000 + "}", Reason.NO_JSON),
        ("[1]", Reason.NO_FIELDS),
        ("null", Reason.NO_FIELDS),
        ("\0\0\0\0", Reason.BINARY),
    ],
)
def test_json_that_holds_no_fields(tmp_path, content, why):
    path = tmp_path / "a.json"
    path.write_text(content)
    assert reason(read_json, path) == why


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_encodings_of_fields_and_lines(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_bytes('{"InstitutionName": "Universit\xe9"}'.encode(encoding))
    assert read_json(path) == {"InstitutionName": "Universit\xe9"}
    path.write_bytes("a\tb\r\nUniversit\xe9\t\u00a0\n".encode(encoding))
    assert lines(path) == ["a\tb", "Universit\xe9\t\u00a0"]


def test_signs_of_windows_and_bytes_without_a_meaning(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"\x80 10\n\x81\xe9\n")
    assert lines(path) == ["\u20ac 10", "\x81\xe9"]


def test_line_ends_of_all_systems_and_no_others(tmp_path):
    path = tmp_path / "a.tsv"
    for content in (b"a\nb\n\nc", b"a\r\nb\r\n\r\nc\r\n", b"a\rb\r\rc"):
        path.write_bytes(content)
        assert lines(path) == ["a", "b", "", "c"]
    path.write_text("a\x0bb\u2028c\x85d\nx\ry\n", newline="")
    assert lines(path) == ["a\x0bb\u2028c\x85d", "x\ry"]


def test_a_file_with_zeros_in_the_middle_is_no_text(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"onset\n1\n\0\0\0\n")
    assert reason(lines, path) == Reason.BINARY
