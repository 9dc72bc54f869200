"""The Dask cluster of this machine: how many workers, and what each of them sees."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fmritok.device import count_cores, visible_gpus
from fmritok.errors import MachineError, expected
from fmritok.quantities import counted

if TYPE_CHECKING:
    from distributed import LocalCluster

    from fmritok.pipeline.tokenization.job import Job

__all__ = ["default_workers", "started_here", "worker_gpus"]

#: Address of the dashboard, on loopback. If the port is in use, Dask takes another one.
_DASHBOARD = "127.0.0.1:8787"
#: Memory of a worker with the full-size autoencoder for a long run, bytes.
_MEMORY_A_WORKER = 4e9
#: Workers that share a GPU: while one of them encodes its run, the other reads, places or writes
#: its own. Processes, because threads of one process wait for each other's Python.
_WORKERS_A_GPU = 2
#: How often a task may lose its worker before its run is given up.
_ALLOWED_FAILURES = 2


def default_workers() -> int:
    """Return the default number of workers: two per GPU, else one per core; within the memory.

    On a CPU, several workers with one thread are faster than one worker with several threads:
    threads of one worker wait for each other at every layer of the network.
    """
    import psutil

    room = int(psutil.virtual_memory().available // _MEMORY_A_WORKER)
    gpus = len(visible_gpus())
    return max(gpus, 1, min(_WORKERS_A_GPU * gpus or count_cores(), room))


def worker_gpus(job: Job, count: int) -> list[str]:
    """Return the GPU that each of ``count`` workers sees, by its ``CUDA_VISIBLE_DEVICES``.

    More workers than GPUs share them in turn. The list is empty without a GPU, or if a tokenizer's
    ``device`` names a single device.
    """
    gpus = visible_gpus()
    asked = {json.loads(made.options).get("device", "auto") for made in job.groups.values()}
    if not gpus or not asked <= {"auto", "cuda"}:
        return []
    return [gpus[number % len(gpus)] for number in range(count)]


@contextmanager
def started_here(
    count: int, threads: int, *, gpus: Sequence[str] = (), scratch: str = ""
) -> Iterator[LocalCluster]:
    """Start a cluster on this machine; close it on exit.

    Parameters
    ----------
    count : int
        Workers, each a process for one task at a time.
    threads : int
        Threads of each worker's torch.
    gpus : sequence of str
        See :func:`worker_gpus`; empty leaves the environment as it is.
    scratch : str
        Folder for temporary files; empty for the system's.

    Raises
    ------
    MachineError
        If the workers do not start.
    """
    import dask
    from distributed import LocalCluster

    settings = {
        "distributed.nanny.pre-spawn-environ": _environment(threads),
        "distributed.scheduler.allowed-failures": _ALLOWED_FAILURES,
        "distributed.worker.daemon": True,
        "distributed.logging.distributed": "error",
    }
    with dask.config.set(settings):
        try:
            cluster = (_one_gpu_each(gpus) if gpus else LocalCluster)(
                n_workers=0 if gpus else count,
                threads_per_worker=1,
                # Loopback only: the dashboard has a "stop" button.
                host="127.0.0.1",
                dashboard_address=_DASHBOARD,
                local_directory=scratch or None,
                silence_logs=50,
            )
        except (RuntimeError, OSError) as error:  # a worker died before it was ready
            raise MachineError(
                expected("Dask cluster", "on this machine", f"{counted(count, 'worker')} to start",
                         f"{type(error).__name__}: {error}",
                         "Run the same command again; with less memory, use --workers 1.")
            ) from error  # fmt: skip
        with cluster:
            if gpus:
                cluster.scale(count)
            yield cluster


def _one_gpu_each(gpus: Sequence[str]) -> type[LocalCluster]:
    """Return a kind of local cluster whose workers differ in the GPU that they see."""
    from distributed import LocalCluster

    class OneGpuEach(LocalCluster):  # type: ignore[misc]
        def new_worker_spec(self) -> dict[Any, Any]:
            spec: dict[Any, Any] = super().new_worker_spec()
            for number, worker in spec.items():
                seen = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
                spec[number] = worker | {"options": worker["options"] | {"env": seen}}
            return spec

    return OneGpuEach


def _environment(threads: int) -> dict[str, str]:
    """Return the environment variables of worker processes.

    Dask's defaults are one thread, and a heap that is returned to the system after every layer of a
    network. With them, encoding spends more than half of its time on page faults.
    """
    heap = str(256 << 20)
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads compete for busy cores
        "MALLOC_TRIM_THRESHOLD_": heap,
        "MALLOC_MMAP_THRESHOLD_": heap,
    }
