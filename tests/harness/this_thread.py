"""Let zarr-python work in this thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def zarr_in_this_thread() -> Iterator[None]:
    """Let zarr-python do its work here: in an order that is always the same, and sooner.

    It hands everything to a thread with an event loop, and that hands files to further threads.
    """
    import zarr
    import zarr.core.sync

    real_sync, real_to_thread = zarr.core.sync.sync, asyncio.to_thread
    own = threading.local()

    def sync(coroutine: Any, loop: Any = None, timeout: float | None = None) -> Any:
        if getattr(own, "pid", None) != os.getpid():  # a child's loop is its own
            own.pid, own.loop = os.getpid(), asyncio.new_event_loop()
        return own.loop.run_until_complete(coroutine)

    async def here(function: Any, /, *arguments: Any, **more: Any) -> Any:
        return function(*arguments, **more)

    modules = [
        module for name, module in list(sys.modules.items())
        if name.startswith("zarr.") and getattr(module, "sync", None) is real_sync
    ]  # fmt: skip
    assert modules
    for module in modules:
        module.sync = sync  # type: ignore[attr-defined]
    asyncio.to_thread = here  # type: ignore[assignment]
    try:
        with zarr.config.set({"async.concurrency": 1}):
            yield
    finally:
        asyncio.to_thread = real_to_thread
        for module in modules:
            module.sync = real_sync  # type: ignore[attr-defined]
