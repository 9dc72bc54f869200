"""Look at the files of a run from outside: are they here, and can their names be stored."""

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

#: What a file can cause by what is in it. Faults of the program (TypeError, KeyError) are not here.
FAULTS_OF_FILES = (OSError, ValueError, ArithmeticError, EOFError, RecursionError,
                   NotImplementedError, zlib.error, zipfile.BadZipFile)  # fmt: skip


class Stamp(NamedTuple):
    """What the files of a run are, from outside."""

    sizes: str = ""
    """Bytes of the run's file, right hemisphere, warp and mask; empty if one is gone."""
    times: str = ""
    """Their times of change, ns since 1970."""
    problem: str = ""
    """Why the run cannot be tokenized without one of them."""
    no_mask: str = ""
    """Why the mask cannot be used."""


def stamp_of(file: RunFile) -> Stamp:
    """Look at all files of a run: it can do without its mask, not without the others.

    Raises
    ------
    MachineError
        If it is no fault of the files, such as too many open files.
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
    """Return the problem of a run's file whose content is somewhere else; empty if it is here."""
    reason = not_fetched(path)
    if reason is None:
        return ""
    what, _, how = reason.partition(": fetch it ")
    return expected("Run file", path, "the file itself", what, f"Fetch it {how}.")


def loose_label(label: str) -> str:
    """Return a label or an id without case, signs and leading zeros of numbers."""
    text = re.sub(r"[^a-z0-9]", "", label.lower())
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", text)


def nearly_equal(ids: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return pairs of ids that are equal but for case, signs and zeros, in words."""
    known = {loose_label(other): other for other in others}
    pairs = ((one, known.get(loose_label(one))) for one in ids)
    return [f"{one} and {other}" for one, other in pairs if other is not None]


def name_problem(file: RunFile, root: Path) -> str:
    """Say what in the names of a run cannot be stored; empty if all can."""
    names = (file.subject, file.session, file.task, file.site, file.family,
             str(file.path.relative_to(root)))  # fmt: skip
    hidden = next((name for name in names if not showable(name)), None)
    if hidden is None:
        return ""
    return expected("Name", ascii(hidden), "characters that can be shown", "control characters",
                    "Rename the folder or file, or correct the table.")  # fmt: skip
