"""Repositories of the Hugging Face Hub: download them, and find them again without a network."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fmritok.progress import report

__all__ = ["HubError", "fetched_snapshot", "find_snapshot", "is_hub_id"]

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class HubError(Exception):
    """A repository of the hub cannot be had; the text says why."""


def is_hub_id(name: str) -> bool:
    """Tell whether a name may be one of the hub, such as ``user/model``."""
    return _HUB_ID.fullmatch(name) is not None


def fetched_snapshot(
    hub_id: str,
    revision: str | None = None,
    *,
    files: Sequence[str] | None = None,
    offline: bool = False,
    **options: Any,
) -> Path:
    """Return the folder of a repository in the cache of the hub, downloaded if needed.

    Parameters
    ----------
    hub_id : str
    revision : str, optional
        Commit, tag or branch. Default: ``main``.
    files : sequence of str, optional
        Patterns of the files. Default: all.
    offline : bool
        Do not use the network.
    **options
        Of the hub's client, such as ``token`` and ``cache_dir``.

    Raises
    ------
    HubError
        If there is no copy, and it cannot be downloaded.
    """
    from huggingface_hub import snapshot_download

    patterns = None if files is None else list(files)
    try:
        folder = snapshot_download(
            hub_id, revision=revision, allow_patterns=patterns, local_files_only=offline,
            tqdm_class=_reported_bars(), **options,
        )  # fmt: skip
    except Exception as error:  # the hub's client raises many exceptions, also without a copy
        text = " ".join(str(error).split()).rstrip(".")  # the client writes paragraphs
        reason = "no copy on this machine" if offline else f"{type(error).__name__}: {text}"
        raise HubError(reason) from error
    return Path(folder)


def find_snapshot(hub_id: str) -> Path | None:
    """Return the folder of a repository that was fetched before; None if there is none."""
    if not is_hub_id(hub_id):
        return None
    try:
        return fetched_snapshot(hub_id, None, offline=True)
    except HubError:
        return None


def _reported_bars() -> type[Any]:
    """Return bars for the hub's client that draw nothing, and tell the step at work their bytes."""
    from huggingface_hub.utils.tqdm import tqdm

    class Reported(tqdm):
        def __init__(self, *args: Any, name: str | None = None, **options: Any) -> None:
            # Another bar of bytes, with another name, counts what the network transferred.
            self._counts = name == "huggingface_hub.snapshot_download"
            options |= {"file": io.StringIO(), "disable": False}
            super().__init__(*args, **options)  # type: ignore[no-untyped-call]

        def display(self, *_: Any, **__: Any) -> None:
            if self._counts and self.unit == "B":
                report(self.n / 1e6, (self.total or 0) / 1e6, "MB")

    return Reported
