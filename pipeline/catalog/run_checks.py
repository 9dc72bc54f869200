"""Checks of a run's files without opening them: existence, size, and valid names."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fmritok.errors import expected
from fmritok.faults import told_apart
from fmritok.pipeline.catalog.phenotypes import showable
from fmritok.pipeline.sources.files import file_stamp
from fmritok.pipeline.tables.remarks import Reason
from fmritok.pipeline.tables.small_files import POINTER_BYTES, not_fetched

if TYPE_CHECKING:
    from fmritok.pipeline.catalog.cohort import RunFile

__all__ = [
    "FAULTS_OF_FILES", "Stamp", "fetch_problem", "loose_label", "name_problem", "nearly_equal",
    "stamp_of",
]  # fmt: skip

#: Exceptions caused by the content of a file. TypeError and KeyError are bugs of the program.
FAULTS_OF_FILES = (OSError, ValueError, ArithmeticError, EOFError, RecursionError,
                   NotImplementedError, zlib.error, zipfile.BadZipFile)  # fmt: skip


class Stamp(NamedTuple):
    """Sizes, times and problems of the files of a run."""

    sizes: str = ""
    """Sizes of the run's file, right hemisphere, warp and mask, bytes; empty if one is missing."""
    times: str = ""
    """Modification times of the same files, ns since 1970."""
    problem: str = ""
    """Why the run cannot be tokenized; empty if it can."""
    no_mask: str = ""
    """Why the mask cannot be used; empty if it can."""


def stamp_of(file: RunFile) -> Stamp:
    """Examine all files of a run. The mask is optional, the others are required.

    Raises
    ------
    MachineError
        If the machine is at fault, for example with too many open files.
    """
    stamps, no_mask = [], ""
    for path in (file.path, file.right, file.warp, file.mask):
        if path is None:
            continue
        try:
            with told_apart("source", path):
                stamp = file_stamp(path)
            if stamp[0] > POINTER_BYTES or not_fetched(path) is None:
                stamps.append(stamp)
                continue
            why: object = "the line of text that stands for it"
        except FAULTS_OF_FILES as error:
            why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        if path != file.mask:
            lost = expected("Run file", path, "a file that can be read", why,
                            "Copy it again from its source.")  # fmt: skip
            return Stamp(problem=fetch_problem(path) or lost)
        no_mask = not_fetched(path) or Reason.MISSING
    sizes, times = zip(*stamps, strict=True)
    return Stamp(" ".join(map(str, sizes)), " ".join(map(str, times)), no_mask=no_mask)


def fetch_problem(path: Path) -> str:
    """Return the problem of a file without its content, such as a pointer; empty if it is here."""
    reason = not_fetched(path)
    if reason is None:
        return ""
    what, _, how = reason.partition(": fetch it ")
    return expected("Run file", path, "the file itself", what, f"Fetch it {how}.")


def loose_label(label: str) -> str:
    """Normalize a label or id: without case, signs and leading zeros of numbers."""
    text = re.sub(r"[^a-z0-9]", "", label.lower())
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", text)


def nearly_equal(ids: Iterable[str], others: Iterable[str]) -> list[str]:
    """Describe pairs of ids that differ only in case, signs or zeros."""
    known = {loose_label(other): other for other in others}
    pairs = ((one, known.get(loose_label(one))) for one in ids)
    return [f"{one} and {other}" for one, other in pairs if other is not None]


def name_problem(file: RunFile, root: Path) -> str:
    """Return why names of a run cannot be stored; empty if they can."""
    names = (file.subject, file.session, file.task, file.site, file.family,
             str(file.path.relative_to(root)))  # fmt: skip
    hidden = next((name for name in names if not showable(name)), None)
    if hidden is None:
        return ""
    return expected("Name", ascii(hidden), "characters that can be shown", "control characters",
                    "Rename the folder or file, or correct the table.")  # fmt: skip
