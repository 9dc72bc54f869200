"""Measure random windows per second from the store and from alternative layouts.

    python benchmarks/speed/streaming.py [--rounds 7] [--only direct --only npy]
    python benchmarks/speed/streaming.py --soak 50000 --loader-workers 2

Every layout has a process of its own. All read the same windows in turn, round by round: other load
of the machine affects all equally. ``ratio`` is relative to the first layout in the same round.
``read`` is the number of bytes requested from the kernel per byte of tokens in the layout's dtype,
without mapped files. ``peak`` is resident memory above the idle process, with mapped files; windows
are freed at once. Cold: the kernel is asked to drop the pages before each window; lower layers may
still cache them.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import click
import numpy as np
from layouts import LAYOUTS, Layout

TOKENS, DIM = 27, 3072


def make_tokens(n_frames: int) -> dict[str, np.ndarray]:
    """Simulate latents: a large constant, slow fluctuations, a few frames of motion, empty cells.

    The fluctuations are 0.016 around constants of about 3, as those of real runs are, and the
    motion leaves int8 about as compressible (0.75) as they are.
    """
    rng = np.random.default_rng(0)
    shape = (TOKENS, DIM)
    mean = (3 * rng.lognormal(0, 0.3, shape)).astype(np.float32)
    spread = (0.016 * rng.lognormal(0, 0.5, shape)).astype(np.float32)
    spread[rng.random(shape) < 0.16] = 0
    deviation = np.empty((n_frames, *shape), np.float32)
    state = rng.standard_normal(shape, np.float32)
    for number, frame in enumerate(deviation):
        state = 0.7 * state + 0.714 * rng.standard_normal(shape, np.float32)
        frame[:] = spread * state * (3 if number % 100 < 2 else 1)
    step = np.maximum(np.abs(deviation).max(0), 1e-9) / 127
    return {
        "int8": np.rint(deviation / step).astype(np.int8),
        "float16": (mean + deviation).astype(np.float16),
    }


def contender(name: str, folder: Path, window: int, pipe: Connection) -> None:
    """Serve reads of a layout over a connection until it sends a stop."""
    read = LAYOUTS[name].open(folder)
    read(0, 1)
    idle = memory("VmRSS")
    pipe.send(None)
    for starts, cold in iter(pipe.recv, None):
        seconds, before, useful = 0.0, asked_bytes(), 0
        for start in starts:
            if cold:
                evict(folder)
            begin = time.perf_counter()
            tokens = read(start, window)
            seconds += time.perf_counter() - begin
            useful += tokens.nbytes
            del tokens
        peak = memory("VmHWM") - idle
        pipe.send((seconds / len(starts), (asked_bytes() - before) / useful, peak))


def memory(field: str) -> float:
    """Return this process's resident memory (``VmRSS``) or its peak (``VmHWM``), MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith(field))


def asked_bytes() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def evict(folder: Path) -> None:
    """Ask the kernel to drop the pages of the files."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def compare(root: Path, layouts: dict[str, Layout], window: int, rounds: int, frames: int) -> None:
    """Write every layout, let the contenders read in turn, and print the table."""
    tokens = make_tokens(frames)
    sizes, processes, pipes = {}, {}, {}
    context = multiprocessing.get_context("spawn")
    for name, layout in layouts.items():
        folder = root / (layout.folder or name)
        if not folder.exists():
            folder.mkdir()
            layout.write(folder, tokens[layout.precision])
        files = [path for path in folder.rglob("*") if path.is_file()]
        sizes[name] = (sum(path.stat().st_size for path in files) / frames, len(files))
        pipes[name], end = context.Pipe()
        arguments = (name, folder, window, end)
        processes[name] = context.Process(target=contender, args=arguments, daemon=True)
    del tokens
    os.sync()
    for name, process in processes.items():
        process.start()
        pipes[name].recv()
    for cold in (False, True):
        rng = np.random.default_rng(1)
        table: dict[str, list[tuple[float, float, float]]] = {name: [] for name in layouts}
        for _ in range(rounds if not cold else max(2, rounds // 2)):
            starts = rng.integers(0, frames - window, 2 if cold else 6).tolist()
            for name in layouts:
                pipes[name].send((starts, cold))
                table[name].append(pipes[name].recv())
        report(table, sizes, cold)
    for pipe in pipes.values():
        pipe.send(None)


def report(table: dict, sizes: dict, cold: bool) -> None:
    first = np.array(next(iter(table.values())))[:, 0]
    title = "cold pages" if cold else "warm pages"
    print(f"{title:34} {'ms (min..max)':>22} {'windows/s':>9} {'ratio (min..max)':>20} "
          f"{'read':>5} {'peak MiB':>8} {'kB/frame':>8} {'files':>5}")  # fmt: skip
    for name, rows in table.items():
        seconds, read, peak = np.array(rows).T
        ratio, ms = first / seconds, seconds * 1e3
        size, files = sizes[name]
        print(f"{name:34} {np.median(ms):6.1f} ({ms.min():5.1f}..{ms.max():5.1f}) "
              f"{1 / np.median(seconds):9.1f} {np.median(ratio):6.1f} ({ratio.min():5.1f}.."
              f"{ratio.max():5.1f}) {np.median(read):5.2f} {peak.max():8.0f} {size / 1e3:8.1f} "
              f"{files:5}", flush=True)  # fmt: skip


def soak(root: Path, n_windows: int, workers: int) -> None:
    """Stream windows of 500 runs through a loader, and print memory and open files on the way."""
    import pandas as pd
    import psutil

    from fmritok.pipeline.store.ledger import allocate, finalize
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.store.precision import store_precision
    from fmritok.pipeline.store.reader import TokenStore
    from fmritok.pipeline.store.records import RunRecord, write_record
    from fmritok.pipeline.store.schema import GroupSpec
    from fmritok.pipeline.store.writer import write_run
    from fmritok.trainer.data.drawing import random_windows
    from fmritok.trainer.data.reading import WindowReader
    from fmritok.trainer.data.windows import RunIndex, WindowBatches

    location, rng, n_runs = Location(root / "tokens.zarr"), np.random.default_rng(0), 500
    spec = GroupSpec(name="vae", n_tokens=27, dim=128, precision="int8", shard_frames=64)
    text = dict.fromkeys(("dataset", "session", "task", "site", "family", "space", "source",
                          "problem"), "")  # fmt: skip
    ids = [f"run{i}" for i in range(n_runs)]
    table = pd.DataFrame({"run_id": ids, "subject": ids, "tr": 0.72, "n_frames": 96, **text})
    for run in allocate(location, spec, table).to_dict("records"):
        values = rng.standard_normal((96, 27, 128), np.float32)
        place = {name: run[name] for name in ("run_id", "row", "start")}
        stored = store_precision(values, "int8")
        sums = write_run(location, "vae", stored=stored, **place)
        record = RunRecord(run["run_id"], "done", run["start"], 96, checksums=sums)
        write_record(location, "vae", record)
    finalize(location, "vae")
    group = TokenStore(location.url).group()
    index = RunIndex.of(group.runs, ids)
    batches = WindowBatches(
        lambda epoch: random_windows(index, window=32, windows_per_run=4, seed=0, epoch=epoch),
        batch_size=8,
    )
    loader = iter(WindowReader(group, index).loader(batches, workers=workers))
    start, every = time.perf_counter(), max(n_windows // 10, 8)
    history: list[list[float]] = []
    for done in range(8, n_windows + 1, 8):
        next(loader)
        if done // every != (done - 8) // every:
            processes = [psutil.Process(), *getattr(loader, "_workers", [])]
            found = [psutil.Process(p.pid) for p in processes]
            memory = [p.memory_info().rss / 2**20 for p in found]
            history.append(memory)
            print(f"{done:6} windows in {time.perf_counter() - start:5.0f} s: MiB "
                  f"{' '.join(f'{m:.1f}' for m in memory)}; open files "
                  f"{' '.join(str(p.num_fds()) for p in found)}", flush=True)  # fmt: skip
    growth = np.array(history[-1]) / np.array(history[2]) - 1
    print("growth from the third line to the last: " + " ".join(f"{g:+.1%}" for g in growth))
    if growth.max() > 0.03:
        raise SystemExit("memory grows")


@click.command()
@click.option("--frames", default=1200, show_default=True, help="Frames of the run.")
@click.option("--window", default=256, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--only", multiple=True, help="Contenders whose name holds this text.")
@click.option("--soak", "n_windows", type=int, help="Stream so many windows instead.")
@click.option("--loader-workers", "workers", default=2, show_default=True, help="With --soak.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write.")
def main(
    frames: int,
    window: int,
    rounds: int,
    only: tuple[str, ...],
    n_windows: int | None,
    workers: int,
    folder: Path | None,
) -> None:
    """Print the table, or the memory of a soak."""
    if n_windows is not None:
        with tempfile.TemporaryDirectory(dir=folder) as root:
            soak(Path(root), n_windows, workers)
        return
    layouts = {
        name: layout
        for i, (name, layout) in enumerate(LAYOUTS.items())
        if i == 0 or not only or any(text in name for text in only)
    }
    for name in [n for n, layout in layouts.items() if layout.needs]:
        if importlib.util.find_spec(layouts[name].needs) is None:
            print(f"left out: {name} ({layouts.pop(name).needs} is not installed)")
    print(f"windows of {window} of {frames} frames x {TOKENS} x {DIM}, {os.cpu_count()} cores, "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    with tempfile.TemporaryDirectory(dir=folder) as root:
        compare(Path(root), layouts, window, rounds, frames)


if __name__ == "__main__":
    main()
