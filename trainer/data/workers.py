"""Start and end the loader workers."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
import os
import signal
import threading
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.popen_forkserver import Popen
from typing import Any

import torch
import zarr

from fmritok.pipeline.store.chunks.shard_files import use_threads

__all__ = ["NOT_HANDED_OVER", "prepare_worker", "worker_options"]

#: Exit status of a worker that could not send a batch.
NOT_HANDED_OVER = 74


def worker_options(module: str) -> dict[str, Any]:
    """Return options of a `DataLoader` with workers.

    Parameters
    ----------
    module : str
        Preloaded once for all workers: they start faster and use less memory.
    """
    # Not fork: the child would copy zarr's running event loop and could hang.
    context = _WorkerContext()
    context.set_forkserver_preload([module])
    return {
        "multiprocessing_context": context,
        "persistent_workers": True,
        "prefetch_factor": 2,
        "worker_init_fn": prepare_worker,
    }


def prepare_worker(_: int) -> None:
    """Set up this worker: one thread, signals ignored, exit when the trainer exits."""
    torch.set_num_threads(1)
    use_threads(1)
    zarr.config.set({"threading.max_workers": 1})
    trainer = multiprocessing.parent_process()
    if trainer is None:
        return
    # A queue drops batches it cannot send, and the trainer would wait forever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_at_once)  # type: ignore[attr-defined]
    # Ctrl-C and SIGTERM of a cluster reach every process. Only the trainer reacts.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_trainer, args=(trainer,), daemon=True).start()


def _end_with_trainer(trainer: Any) -> None:
    """Exit when the trainer exits; torch's watchdog only watches the forkserver."""
    trainer.join()
    os._exit(1)


def _end_at_once(_: Exception, __: Any) -> None:
    os._exit(NOT_HANDED_OVER)


class _WorkerPopen(Popen):
    """multiprocessing terminates children with SIGTERM at exit; workers ignore it, so kill them."""

    def terminate(self) -> None:
        self.kill()


class _WorkerProcess(ForkServerProcess):
    @staticmethod
    def _Popen(process: Any) -> _WorkerPopen:
        return _WorkerPopen(process)


class _WorkerContext(ForkServerContext):
    Process = _WorkerProcess
