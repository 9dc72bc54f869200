"""Messages of the catalogue about tables, sidecars, names and links.

Equal faults have equal messages: the same fault of a thousand files is reported in one line.
``docs/files.md`` lists all messages; a test compares them.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Reason", "Remark"]


class Reason(StrEnum):
    """Why a small file cannot be used."""

    LINK = "a link to content that is not there: fetch it with `datalad get`"
    POINTER = "a pointer of git-annex or Git LFS, not the file: fetch it with `datalad get` or `git lfs pull`"  # noqa: E501
    DENIED = "no permission to read it"
    MISSING = "no such file"
    ERROR = "an error while it was read"
    IRREGULAR = "not a regular file, but a folder, pipe or device"
    TOO_LARGE = "too large for such a file"
    BINARY = "empty, or not text"
    NO_JSON = "no JSON"
    DEEP_JSON = "JSON nested too deeply"
    NO_FIELDS = "JSON, but not an object with named fields"
    NO_COLUMN = "a required column is missing"
    NO_NUMBER = "no number in it"
    NO_ONSETS = "no row with a numeric onset"
    NOT_FSL = "not three columns of numbers"


class Remark(StrEnum):
    """A doubt about a used file, or the consequence of an unusable one. Details may follow."""

    NO_MOTION = "head motion is unknown"
    NO_EVENTS = "its events are not used"
    NO_SIDECAR = "sidecar not used"
    NO_MASK = "mask not used"
    NO_PHENOTYPES = "its phenotypes are not used"
    NO_DESCRIPTION = "phenotype columns are not described"
    NEARLY_EVENTS = "events of a run without events, under a slightly different name: not used"
    LONG_ROWS = "rows with more fields than the header are not used"
    SHORT_ROWS = "rows with fewer fields than the header: the last fields are missing"
    STRAY_QUOTES = "a quote mark that opens no quoted text is read as a character"
    LINE_BREAKS = "quoted text with line breaks: check that no rows are lost in it"
    COMMENTS = "lines that begin with # are not read"
    NOT_TABS = "columns are not separated by tabs: read as a CSV file"
    SAME_COLUMN = "columns of one name are joined; values that differ are missing"
    NO_ID = "rows without an id are not used"
    SAME_SUBJECT = "rows of one subject are joined; values that differ are missing"
    NEARLY_IDS = "ids of runs and tables that differ only in case, signs or zeros: not joined"
    COLUMN_NAME = "control characters in column names are replaced"
    COMMAS = "numbers with commas are read as decimal or thousands commas"
    EITHER_COMMAS = "commas in numbers may be decimal or thousands commas: kept as text"
    NOT_NUMBERS = "values that are not numbers become missing"
    MIXED = "numbers and text in one column: kept as text"
    AGE_UNKNOWN = "ages that are not a single number become missing"
    AGE_TOPPED = "ages such as 90+ are taken as 90"
    AGE_UNIT = "ages in other units are converted to years"
    SEX_UNKNOWN = "codes of sex without a description become missing"
    DX_UNKNOWN = "codes of diagnoses unknown to ADHD-200 become missing"
    BAD_ONSETS = "rows without a numeric onset are not used"
    BAD_DURATIONS = "durations that are not numbers become missing"
    BAD_MOTION = "frames without a numeric displacement are not counted"

    def with_reason(self, reason: object) -> str:
        """Return the remark followed by its reason."""
        return f"{self.value}: {reason}"
