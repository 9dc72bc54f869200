"""Speed of the whole of ``fmritok tokenize`` on a GPU, reading and writing included.

    python benchmarks/on_gpu/tokenizing.py

Runs are simulated: one file of HCP's shape, linked for each subject. ``one after another`` is
``--executor serial``; ``overlapping`` has two workers that share the GPU. ``s in all`` is the whole
command. ``volumes/s`` counts from the first run's reading to the last one's record, without the
start of workers, the loading of weights and the compiling.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
from encoding import reference_of, simulated
from rows import Rows

__all__ = ["WAYS", "print_tokenize"]

_HOW = {"overlapping": ("--workers", "2"), "one after another": ("--executor", "serial")}
WAYS = tuple(_HOW)
_AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
_NAME = "rfMRI_REST1_LR"


def print_tokenize(
    weights: str, device: str, runs: int, frames: int, seconds: float, ways: Sequence[str] = WAYS
) -> None:
    """Print a row for each way to run the command."""
    rows = Rows(f"{'tokenize':18} {'volumes/s':>10} {'s in all':>9}   seconds of all runs by phase",
                seconds)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "hcp"
        _write_runs(root, runs, frames)
        for name in ways:
            how = _HOW[name]
            store = Path(folder) / f"{how[-1]}.zarr"
            options = ["--weights", weights, "--device", device, *how]
            rows.add(f"{name:18}", _command(root, store, options, runs * frames, rows.left))


def _write_runs(root: Path, runs: int, frames: int) -> None:
    """Write one run of 91 x 109 x 91 voxels, and link it for the other subjects."""
    import nibabel as nib
    from isal import igzip

    values = np.zeros((91, 109, 91, frames), np.int16)
    for number, volume in enumerate(simulated(frames)):
        values[:, 6:102, :, number] = volume[:91, :, :91]
    image = nib.Nifti1Image(values, _AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((2, 2, 2, 0.72))
    first: Path | None = None
    for subject in range(runs):
        path = root / f"{100001 + subject}" / "MNINonLinear" / "Results" / _NAME
        path.mkdir(parents=True)
        path = path / f"{_NAME}_hp2000_clean.nii.gz"
        if first is None:
            with igzip.open(path, "wb", compresslevel=1) as file:
                file.write(image.to_bytes())
            first = path
        else:
            path.hardlink_to(first)


def _command(
    root: Path, store: Path, options: list[str], volumes: int, limit: float
) -> Callable[[], tuple[str, None]]:
    def measure() -> tuple[str, None]:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "fmritok.cli", "tokenize", "--dataset", "hcp", "--root", root,
             "--store", store, *options],
            capture_output=True, text=True, timeout=max(limit, 60),
        )  # fmt: skip
        taken = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["killed"])[-1])
        phases: dict[str, float] = {}
        begun, finished = [], []
        for path in sorted((store / "vae" / "records").glob("*/zarr.json")):
            finished.append(path.stat().st_mtime)
            record = json.loads(path.read_text())["attributes"]
            own = {name: s for name, s in record["seconds"].items() if name != "setup"}
            begun.append(finished[-1] - sum(own.values()))
            for phase, seconds in own.items():
                phases[phase] = phases.get(phase, 0) + seconds
        rate = volumes / (max(finished) - min(begun))
        told = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in phases.items())
        return f"{rate:10.2f} {taken:9.1f}   {told}", None

    return measure


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--weights", default="full", show_default=True, help="dcae-tiny, full or FOLDER")
@click.option("--runs", default=4, show_default=True)
@click.option("--frames", default=256, show_default=True, help="Of a run.")
@click.option("--way", "ways", multiple=True, type=click.Choice(WAYS), default=WAYS)
@click.option("--seconds", default=110.0, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()))
def main(
    device: str, weights: str, runs: int, frames: int, ways: tuple[str, ...], seconds: float,
    cache: Path,
) -> None:  # fmt: skip
    """Print the table."""
    print_tokenize(reference_of(weights, cache), device, runs, frames, seconds, ways)


if __name__ == "__main__":
    main()
