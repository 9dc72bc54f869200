"""Find the runs of a cohort by a pattern of their file names.

``{subject}``, ``{session}``, ``{task}``, ``{run}``, ``{site}`` and other names in braces stand for
any text without a slash, ``*`` for any other text, ``**`` for any folders. ``{subject:[0-9]+}``
limits a name to a regular expression. A pattern without braces finds files with BIDS names, such as
those of XCP-D. After the name of an HDF5 file, a pattern goes on with the datasets in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fmritok.errors import CatalogError, RunError, expected, wrong_usage
from fmritok.pipeline.datasets.bids_files import parse_name
from fmritok.pipeline.parcels.arrays import HDF5, dataset_names

__all__ = ["FoundSeries", "find_series"]

_NAME = re.compile(r"\{([A-Za-z_]\w*)(?::((?:[^{}]|\{\d+(?:,\d*)?\})+))?\}")
_TOKEN = re.compile(rf"(?P<name>{_NAME.pattern})|(?P<folders>\*\*/)|(?P<any>\*)|(?P<one>\?)")
#: BIDS entities that are called otherwise in patterns, and those that do not tell runs apart.
_BIDS = {"sub": "subject", "ses": "session"}
_NOT_OF_RUNS = ("space", "cohort", "res", "den", "desc", "seg", "atlas", "stat", "parc")


@dataclass(frozen=True)
class FoundSeries:
    """A file, or a dataset in one, that a pattern found.

    Attributes
    ----------
    path : Path
    entities : dict of str to str
        Subject and further entities in the order of the pattern. Empty if `problem` is not.
    problem : str
        Why it is not used; empty if it is.
    """

    path: Path
    entities: dict[str, str]
    problem: str = ""


def find_series(root: Path, pattern: str, where: Path) -> Iterator[FoundSeries]:
    """Yield the files and datasets below a folder that a pattern describes, sorted.

    Parameters
    ----------
    root : Path
    pattern : str
    where : Path
        The file with the pattern, for errors.

    Raises
    ------
    CatalogError
        If the pattern is invalid or has no subject.
    """
    named = _NAME.search(pattern) is not None
    expression = _expression(pattern, where)
    if named and "subject" not in expression.groupindex:
        raise _refusal(where, "{subject}", pattern, "Put it where the names have the subject's id.")
    outer, inner = _split(pattern)
    for path in sorted(root.glob(_glob(outer))):
        is_hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if is_hidden or path.is_dir() or path.suffix == ".json":  # a sidecar
            continue
        names = [inner] if inner else [""]
        if _TOKEN.search(inner):
            try:
                names = dataset_names(path)
            except RunError as error:
                yield FoundSeries(path, {}, str(error).replace(str(path), "the file"))
                continue
        matches = [(path / name, expression.fullmatch((path / name).relative_to(root).as_posix()))
                   for name in names]  # fmt: skip
        for one, match in matches:
            if match is not None:
                yield FoundSeries(one, match.groupdict()) if named else _by_bids_name(one)
        if inner and not any(match for _, match in matches):
            there = ", ".join(names[:5]) or "no matrix"
            yield FoundSeries(path, {}, f"no dataset in it fits {inner}, but it has {there}")


def _by_bids_name(path: Path) -> FoundSeries:
    parsed = parse_name(path)
    if parsed is None or "sub" not in parsed.entities:
        return FoundSeries(path, {}, "no BIDS name with a subject: give a pattern with {subject}")
    kept = {k: v for k, v in parsed.entities.items() if k not in _NOT_OF_RUNS}
    return FoundSeries(path, {_BIDS.get(k, k): v for k, v in kept.items()})


def _expression(pattern: str, where: Path) -> re.Pattern[str]:
    """Return the regular expression of a pattern."""
    parts, last, seen = [], 0, set()
    for token in _TOKEN.finditer(pattern):
        parts.append(re.escape(pattern[last : token.start()]))
        last = token.end()
        if token["folders"]:
            parts.append("(?:.*/)?")
        elif token["any"] or token["one"]:
            parts.append("[^/]*" if token["any"] else "[^/]")
        else:
            name, limit = token[2], token[3] or "[^/]+?"
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{limit})")
            seen.add(name)
    rest = pattern[last:]
    text = "".join([*parts, re.escape(rest)])
    try:
        if re.search(r"[{}]", _TOKEN.sub("", pattern)):
            raise re.error("a brace without its partner, or a name that is no word")
        return re.compile(text)
    except re.error as error:
        raise _refusal(where, "names in braces, such as {subject}", f"{pattern!r}: {error}",
                       "Correct the pattern.") from error  # fmt: skip


def _split(pattern: str) -> tuple[str, str]:
    """Split a pattern into that of an HDF5 file and that of the datasets in it."""
    parts = pattern.split("/")
    for i, part in enumerate(parts[:-1]):
        if part.endswith(HDF5):
            return "/".join(parts[: i + 1]), "/".join(parts[i + 1 :])
    return pattern, ""


def _glob(pattern: str) -> str:
    return _NAME.sub("*", pattern)


def _refusal(where: Path, wanted: str, got: str, next_step: str) -> CatalogError:
    return wrong_usage(CatalogError(expected("pattern in", where, wanted, got, next_step)))
