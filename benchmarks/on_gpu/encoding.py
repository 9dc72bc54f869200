"""Time, memory and error of every arithmetic of ``vae`` on a GPU.

    python benchmarks/on_gpu/encoding.py

``published`` encodes as the published script does: 1,600 slices a batch, three copied channels,
torch's own choice of products. Volumes are simulated, as no data may be on the machine: a still
picture, and time courses of half a percent. Full-size weights are random.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
from rows import Rows

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))
from vae import full_size_folder

__all__ = ["WAYS", "print_encoder", "reference_of", "simulated"]

#: Arithmetic, with its batch size or ``+compile``.
WAYS = ("fp32", "published", "delta+compile", "bf16+compile", "tf32", "delta")
#: Volumes to encode: true fp32 is slow, and delta encodes the mean with each block.
_TIMED = {"fp32": 8, "delta": 128, "delta+compile": 256}
_OTHERS = 64
_SOME = slice(6, None, 12)


def simulated(frames: int) -> np.ndarray:
    """Return volumes with a brain-like ball whose voxels vary by half a percent."""
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*[np.arange(96)] * 3, indexing="ij")) - 47.5
    inside = (places**2).sum(0) < 38**2
    still = np.where(inside, 500 + 400 * np.sin(places / 5).mean(0), 0).astype(np.float32)
    wave = np.cos(places[0] / 9).astype(np.float32)
    found = np.empty((frames, 96, 96, 96), np.float32)
    for volume in found:
        noise = rng.standard_normal((96, 96, 96), np.float32)
        volume[:] = still * (1 + 0.005 * rng.standard_normal() * wave + 0.002 * noise)
    return found


def reference_of(weights: str, cache: Path) -> str:
    """Return the folder or name of weights; ``full`` is made once."""
    return str(full_size_folder(cache)) if weights == "full" else weights


def print_encoder(
    weights: str, device: str, frames: int, seconds: float, ways: Sequence[str] = WAYS
) -> None:
    """Print a row for each way: milliseconds a volume, first call, memory, error."""
    from fmritok.tokenizers.fidelity import time_course_error

    volumes = simulated(frames)
    rows = Rows(f"{'encoder':14} {'ms/volume':>10} {'first s':>8} {'peak GiB':>8} "
                "error of time courses against fp32", seconds)  # fmt: skip
    exact: list[np.ndarray] = []

    def measured(way: str) -> Callable[[], tuple[str, None]]:
        def measure() -> tuple[str, None]:
            said, latents = _measure(weights, way, device, volumes)
            if way == "fp32":
                exact.append(latents)
            error = time_course_error(latents, exact[0]) if exact else "fp32 failed"
            return f"{said}  {error}", None

        return measure

    for way in ways:
        rows.add(f"{way:14}", measured(way))


def _measure(weights: str, way: str, device: str, frames: np.ndarray) -> tuple[str, np.ndarray]:
    """Return what a way takes, and some of its latents, frames first."""
    import torch

    from fmritok.device import choose_device, free_gpu_memory, peak_memory
    from fmritok.tokenizers.vae.intensity import VolumeStatistics
    from fmritok.tokenizers.vae.tokenizer import VaeTokenizer

    free_gpu_memory()
    where = choose_device(device)
    name, _, compiled = way.partition("+")
    name, _, batch = name.partition("/")
    tokenizer = VaeTokenizer(
        weights, arithmetic="fp32" if way == "published" else name, device=device,
        batch_size=int(batch) if batch else None, compile=bool(compiled),
    )  # fmt: skip
    intensity = tokenizer.fit(VolumeStatistics(float(frames.max()), frames.mean(0), frames.std(0)))
    encode: Callable[[np.ndarray], object]
    if way == "published":
        model = tokenizer._autoencoder.model

        def encode(volumes: np.ndarray) -> object:
            return _published(model, intensity.forward(volumes), where)
    else:
        tokenizer.setup()

        def encode(volumes: np.ndarray) -> object:
            return tokenizer.encode(volumes, intensity)

    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    encode(frames[:1])
    first = time.perf_counter() - start
    timed = frames[: _TIMED.get(way, _OTHERS)]
    start = time.perf_counter()
    encode(timed)
    each = (time.perf_counter() - start) / len(timed)
    said = f"{1000 * each:10.1f} {first:8.1f} {peak_memory(where) / 2**30:8.2f}"
    some = frames[:_OTHERS]
    if way == "published":
        return said, _published(model, intensity.forward(some), where, _SOME)
    return said, tokenizer.latents(some, intensity, _SOME).swapaxes(0, 1)


def _published(
    model: object, volumes: np.ndarray, device: object, some: slice = slice(None)
) -> np.ndarray:
    """Encode normalized volumes axis by axis; return latents (n_frames, 3, n_slices, ...)."""
    import torch

    from fmritok.tokenizers.vae.autoencoder import latent_of

    axes = []
    for axis in range(3):
        slices = np.moveaxis(volumes, axis + 1, 1)[:, some]
        colour = np.repeat(slices.reshape(-1, 1, 96, 96), 3, axis=1)
        with torch.no_grad():
            parts = [
                latent_of(model, torch.from_numpy(part).to(device)).cpu()
                for part in np.split(colour, range(1600, len(colour), 1600))
            ]
        axes.append(torch.cat(parts).unflatten(0, slices.shape[:2]))
    return torch.stack(axes, dim=1).numpy()


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--weights", default="full", show_default=True, help="dcae-tiny, full or FOLDER")
@click.option("--frames", default=256, show_default=True)
@click.option("--ways", default=",".join(WAYS), show_default=True)
@click.option("--seconds", default=130.0, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()))
def main(device: str, weights: str, frames: int, ways: str, seconds: float, cache: Path) -> None:
    """Print the table."""
    print_encoder(reference_of(weights, cache), device, frames, seconds, ways.split(","))


if __name__ == "__main__":
    main()
