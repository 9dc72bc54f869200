"""Where the time of ``delta`` goes: the base pass, and one batch of frames at one slice position.

    python benchmarks/on_gpu/delta_batch.py
    python benchmarks/on_gpu/delta_batch.py --device cpu --frames 2 --base-images 1 --eager

The architecture is AutoencoderDC f32c32 with random weights. Errors are against fp32 products.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))
from vae import FULL

#: Of the 288 slices of a volume, those that are not all background, in a brain of common size.
_POSITIONS = 232


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--frames", default=128, show_default=True)
@click.option("--base-images", default=16, show_default=True)
@click.option("--eager", is_flag=True, help="Do not compile.")
@click.option("--kernels", default=25, show_default=True, help="Of a GPU, to list by their time.")
def main(device: str, frames: int, base_images: int, eager: bool, kernels: int) -> None:
    """Print times, errors, and a GPU's kernels."""
    import torch
    from diffusers import AutoencoderDC

    from fmritok.tokenizers.vae.arithmetic import equal_batches, fp32_products
    from fmritok.tokenizers.vae.autoencoder import latent_of
    from fmritok.tokenizers.vae.delta import DeltaEncoder

    where = torch.device(device)
    torch.manual_seed(0)
    with where:
        model = AutoencoderDC(**FULL)
    model.decoder = None
    model = model.requires_grad_(False).to(memory_format=torch.channels_last)

    def encoder(**options: bool) -> DeltaEncoder:
        return DeltaEncoder(lambda x: latent_of(model, x), channels_last=True, **options)

    def timed(name: str, work: Callable[[], object], repeats: int) -> float:
        for count in (1, repeats):
            start = time.perf_counter()
            for _ in range(count):
                work()
            if where.type == "cuda":
                torch.cuda.synchronize()
            seconds = (time.perf_counter() - start) / count
            print(f"{name}, {'first' if count == 1 else 'then'}: {1000 * seconds:.2f} ms")
        return seconds

    half = encoder(compile=not eager)
    still = torch.rand(base_images, 1, 96, 96, device=where).expand(-1, 3, -1, -1)
    moved = 0.005 * torch.randn(frames, 1, 96, 96, device=where).expand(-1, 3, -1, -1)
    with torch.inference_mode(), fp32_products("delta", where):
        timed(f"base pass of {base_images} images", lambda: half.base(still), 3)
        notes = half.base(still).notes_of(0)
        with equal_batches():
            name = f"deviations of {frames} frames"
            seconds = timed(name, lambda: half.deviations(notes, moved), 3)
            found = half.deviations(notes, moved)
        print(f"a volume of {_POSITIONS} positions: {1000 * seconds * _POSITIONS / frames:.1f} ms")
        wanted = encoder(half=False).deviations(notes, moved[:8])
        error = float((found[:8] - wanted).norm() / wanted.norm())
        print(f"error of fp16 products: {error:.2%}")
        if where.type == "cuda":
            _list_kernels(lambda: half.deviations(notes, moved), kernels)


def _list_kernels(work: Callable[[], object], most: int) -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        work()
        torch.cuda.synchronize()
    rows = sorted(profiled.key_averages(), key=lambda row: -row.self_device_time_total)
    for row in rows[:most]:
        milliseconds = row.self_device_time_total / 1000
        print(f"{milliseconds:8.3f} ms {row.count:4} x {row.key[:100]}")


if __name__ == "__main__":
    main()
