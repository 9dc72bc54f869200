"""Time and error of every arithmetic of ``vae`` on a GPU, in one table.

    python benchmarks/gpu.py                                          # full size, under 6 minutes
    python benchmarks/gpu.py --device cpu --weights dcae-tiny --frames 2 --batch-sizes 16

``delta`` encodes the mean of every slice position once for all frames: with few frames it is slow.

Rows are independent: one that fails says why, and the others go on. No row starts after --limit
seconds. Volumes are simulated, as no data may be on the machine: a still picture, and time courses
of half a percent. Full-size weights are random.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "speed"))
from vae import full_size_folder

_WAYS = ("fp32", "tf32", "bf16", "fp16", "delta", "bf16+compile")


def simulated(frames: int) -> np.ndarray:
    """Return volumes with a brain-like ball whose voxels vary by half a percent."""
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*[np.arange(96)] * 3, indexing="ij")) - 47.5
    inside = (places**2).sum(0) < 38**2
    still = np.where(inside, 500 + 400 * np.sin(places / 5).mean(0), 0)
    courses = 1 + 0.005 * rng.standard_normal((frames, 1, 1, 1)) * np.cos(places[0] / 9)
    noise = 1 + 0.002 * rng.standard_normal((frames, 96, 96, 96))
    return (still * courses * noise).astype(np.float32)


def measure(reference: str, way: str, device: str, batch: int, frames: np.ndarray) -> np.ndarray:
    """Print seconds and memory of one way; return some of its latents, frames first."""
    import torch

    from fmritok.tokenizers.vae.intensity import VolumeStatistics
    from fmritok.tokenizers.vae.tokenizer import VaeTokenizer

    name, _, compiled = way.partition("+")
    tokenizer = VaeTokenizer(reference, arithmetic=name, device=device, batch_size=batch,
                             compile=bool(compiled))  # fmt: skip
    tokenizer.setup()
    mean = frames.mean(0)
    intensity = tokenizer.fit(VolumeStatistics(float(frames.max()), mean, frames.std(0)))
    start = time.perf_counter()
    tokenizer.encode(frames[:1], intensity)
    first = time.perf_counter() - start
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    tokenizer.encode(frames, intensity)
    each = (time.perf_counter() - start) / len(frames)
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0
    print(f"{way:13} {batch:6} {1000 * each:10.1f} {first:8.1f} {peak:8.2f}", end="", flush=True)
    return tokenizer.latents(frames, intensity, slice(6, None, 12)).swapaxes(0, 1)


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--weights", default="full", show_default=True, help="dcae-tiny, full or FOLDER")
@click.option("--frames", default=64, show_default=True)
@click.option("--batch-sizes", default="16,64,288", show_default=True)
@click.option(
    "--limit", default=300.0, show_default=True, help="Seconds after which no row starts."
)
@click.option("--cache", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()))
def main(
    device: str, weights: str, frames: int, batch_sizes: str, limit: float, cache: Path
) -> None:
    """Print one row per arithmetic and batch size."""
    import torch

    from fmritok.tokenizers.fidelity import time_course_error

    started = time.perf_counter()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{name}, torch {torch.__version__}, {weights}, {frames} simulated frames")
    print(f"{'arithmetic':13} {'batch':>6} {'ms/volume':>10} {'first s':>8} {'peak GiB':>8} "
          "error of time courses against fp32")  # fmt: skip
    volumes = simulated(frames)
    reference = str(full_size_folder(cache)) if weights == "full" else weights
    exact: np.ndarray | None = None
    for way in _WAYS:
        for batch in map(int, batch_sizes.split(",")):
            if time.perf_counter() - started > limit:
                print(f"{way:13} {batch:6} left out: the time is over", flush=True)
                continue
            try:
                found = measure(reference, way, device, batch, volumes)
            except Exception as error:  # the other rows are worth having
                reason = (str(error).splitlines() or [""])[0]
                print(f"{way:13} {batch:6} failed: {type(error).__name__}: {reason}"[:150])
                continue
            exact = found if exact is None and way == "fp32" else exact
            print(f"  {time_course_error(found, exact)}" if exact is not None else "", flush=True)


if __name__ == "__main__":
    main()
