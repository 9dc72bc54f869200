"""Files on the network with known contents: downloaded or copied, and checked by their sha256."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from fmritok.errors import FmritokError, expected
from fmritok.progress import report

__all__ = ["GITHUB", "PinnedFile"]

GITHUB = "https://raw.githubusercontent.com"
#: Bytes of a download that are read at once.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class PinnedFile:
    """A file on the network with its expected checksum.

    Attributes
    ----------
    name : str
        Local file name.
    url, sha256 : str
    """

    name: str
    url: str
    sha256: str

    def bring(self, folder: Path, source: Path | None) -> Path:
        """Download the file or copy it from a folder, and compare its checksum.

        Raises
        ------
        FmritokError
            If the file is not available, or its checksum differs.
        """
        folder.mkdir(parents=True, exist_ok=True)
        target, partial = folder / self.name, folder / f".{self.name}.partial"
        try:
            if source:
                shutil.copyfile(source / self.name, partial)
            else:
                with urlopen(self.url, timeout=60) as answer, partial.open("wb") as file:
                    total = int(answer.headers.get("Content-Length") or 0)
                    while block := answer.read(_BLOCK):
                        file.write(block)
                        report(file.tell() / 1e6, total / 1e6, "MB")
        except (OSError, URLError) as error:
            partial.unlink(missing_ok=True)
            raise FmritokError(
                expected("File", source / self.name if source else self.url, "a copy of it",
                         f"{type(error).__name__}: {error}",
                         "Run this where there is a network, or give a folder with --from.")
            ) from error  # fmt: skip
        found = hashlib.sha256(partial.read_bytes()).hexdigest()
        if found != self.sha256:
            partial.unlink()
            raise FmritokError(
                expected("File", self.name, f"sha256 {self.sha256}", found,
                         "It changed on the way or at its source: do not use it.")
            )  # fmt: skip
        return partial.replace(target)
