"""A dataset that fails in every way a loader worker can; workers import it by its name."""

from __future__ import annotations

import errno
import os

import torch

from fmritok.errors import StoreError


class BrokenDataset(torch.utils.data.Dataset):
    """Fails in the way that the first request names."""

    def __getitems__(self, requests):
        return _FAULTS[requests[0]]()


def _raise(error):
    raise error


def _share():
    """Return a tensor for which there is no shared memory, as torch says it."""

    def refuse(*_):
        raise RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")

    torch.UntypedStorage.share_memory_ = refuse
    return (torch.zeros(3),)


_FAULTS = {
    "none": lambda: (torch.zeros(3),),
    "shm": lambda: _raise(RuntimeError(
        "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
    )),
    "memory": lambda: _raise(MemoryError()),
    "cpu": lambda: torch.empty(2**60, dtype=torch.uint8),
    "files": lambda: _raise(OSError(errno.EMFILE, os.strerror(errno.EMFILE))),
    "store": lambda: _raise(StoreError("damaged")),
    "bug": lambda: _raise(RuntimeError("shapes differ")),
    "share": _share,
    "unsendable": lambda: (lambda: None),
}  # fmt: skip
