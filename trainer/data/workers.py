"""Processes that read windows beside the trainer: how they start, and when they end."""

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

#: Exit status of a worker whose batch did not get through.
NOT_HANDED_OVER = 74


def worker_options(module: str) -> dict[str, Any]:
    """Return what a `DataLoader` with workers is to be told.

    Parameters
    ----------
    module : str
        Imported once for all workers: they start at once, and in less memory.
    """
    # A fork would copy zarr's running event loop, and the child could hang.
    context = _WorkerContext()
    context.set_forkserver_preload([module])
    return {
        "multiprocessing_context": context,
        "persistent_workers": True,
        "prefetch_factor": 2,
        "worker_init_fn": prepare_worker,
    }


def prepare_worker(_: int) -> None:
    """Make this process a worker: one thread, deaf to signals, gone when the trainer is gone."""
    torch.set_num_threads(1)
    use_threads(1)
    zarr.config.set({"threading.max_workers": 1})
    trainer = multiprocessing.parent_process()
    if trainer is None:
        return
    # A queue drops what it cannot send, and the trainer would wait for it without end.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_at_once)  # type: ignore[attr-defined]
    # Ctrl-C and a cluster's SIGTERM reach every process; the trainer alone decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_trainer, args=(trainer,), daemon=True).start()


def _end_with_trainer(trainer: Any) -> None:
    """End this worker when the trainer is gone; torch's own watchdog sees the forkserver only."""
    trainer.join()
    os._exit(1)


def _end_at_once(_: Exception, __: Any) -> None:
    os._exit(NOT_HANDED_OVER)


class _WorkerPopen(Popen):
    """A Python that exits ends its children by SIGTERM, and waits: these would not hear it."""

    def terminate(self) -> None:
        self.kill()


class _WorkerProcess(ForkServerProcess):
    @staticmethod
    def _Popen(process: Any) -> _WorkerPopen:
        return _WorkerPopen(process)


class _WorkerContext(ForkServerContext):
    Process = _WorkerProcess
