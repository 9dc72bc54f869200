"""Measure the memory of tokenizing one long run, with and without mapped files.

    python benchmarks/speed/memory.py --frames 1200

A simulated run is tokenized in this process with the embedded autoencoder. ``own`` is anonymous
memory; ``resident`` also counts mapped files, as the memory limits of clusters do.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import click


def memory() -> tuple[float, float]:
    """Return own and whole resident memory, GiB."""
    text = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines())
    return tuple(int(fields[key].split()[0]) / 2**20 for key in ("RssAnon", "VmRSS"))


@click.command()
@click.option("--frames", default=1200, show_default=True)
def main(frames: int) -> None:
    """Print the peaks."""
    from click.testing import CliRunner

    from fmritok.cli import main as fmritok
    from fmritok.pipeline.demo.cohort import write_demo_cohort
    from fmritok.pipeline.demo.config import DemoConfig

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "cohort"
        minutes = frames * 0.72 / 60
        write_demo_cohort(root, DemoConfig(subjects=1, minutes=minutes, runs=("rfMRI_REST1_LR",)))
        peaks, working = [0.0, 0.0], True

        def watch() -> None:
            while working:
                peaks[:] = map(max, peaks, memory())
                time.sleep(0.02)

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        result = CliRunner().invoke(
            fmritok,
            ["tokenize", "--dataset", "demo", "--root", str(root), "--executor", "serial",
             "--store", f"{folder}/tokens.zarr", "--scratch", folder],
            catch_exceptions=False,
        )  # fmt: skip
        working = False
        watcher.join()
        assert result.exit_code == 0, result.output
    seconds = time.perf_counter() - start
    print(f"{frames} frames in {seconds:.0f} s: peak {peaks[0]:.2f} GiB own, {peaks[1]:.2f} GiB "
          "resident")  # fmt: skip


if __name__ == "__main__":
    main()
