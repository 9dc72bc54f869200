"""Compare ``vae`` with the published way: time per volume, peak memory, equality of tokens.

    python benchmarks/speed/vae.py --weights dcae-tiny --volumes 2
    python benchmarks/speed/vae.py --weights full --volumes 1 --repeats 1

``full`` is the full-size f32c32 architecture with random weights (1.3 GB, made once in --cache).
The plain way follows the published script: the whole model, three copied channels, every slice, one
axis after another. Each way has a process and a peak memory of its own. Rounds alternate: noise of
the machine affects both.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

FULL = {
    "attention_head_dim": 32,
    "in_channels": 3,
    "latent_channels": 32,
    "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "encoder_layers_per_block": [0, 4, 8, 2, 2, 2],
    "decoder_layers_per_block": [0, 5, 10, 2, 2, 2],
    "encoder_qkv_multiscales": [[]] * 6,
    "decoder_qkv_multiscales": [[]] * 6,
    "downsample_block_type": "pixel_unshuffle",
    "upsample_block_type": "pixel_shuffle",
    "decoder_norm_types": ["batch_norm"] * 3 + ["rms_norm"] * 3,
    "decoder_act_fns": ["relu"] * 3 + ["silu"] * 3,
    "scaling_factor": 0.3189,
}


def full_size_folder(cache: Path) -> Path:
    """Make the full-size architecture with random weights, once."""
    folder = cache / "dc-ae-f32c32-random"
    if not (folder / "config.json").exists():
        import torch
        from diffusers import AutoencoderDC

        torch.manual_seed(0)
        AutoencoderDC(**FULL).save_pretrained(folder)
    return folder


def real_volumes(count: int) -> tuple[np.ndarray, object]:
    from fmritok.pipeline.sources.volumes import RunVolumes

    data = Path(os.environ.get("FMRITOK_TEST_DATA", "../shared/data"))
    path = next((data / "bold_mni").glob("*sf02*MNI2mm91x109x91*bold.nii.gz"))
    run = RunVolumes.read(path)
    return next(run.blocks(count))[1], run.statistics


def plain(folder: Path, volumes: np.ndarray) -> tuple[np.ndarray, float]:
    """Encode as the published script does."""
    import torch
    from diffusers import AutoencoderDC

    model = AutoencoderDC.from_pretrained(folder).float().eval()
    start = time.perf_counter()
    per_axis = []
    for axis in range(3):
        flat = np.moveaxis(volumes, axis + 1, 1).reshape(-1, 1, 96, 96)
        colour = torch.from_numpy(np.ascontiguousarray(np.repeat(flat, 3, axis=1)))
        with torch.no_grad():
            parts = [model.encode(part).latent for part in colour.split(96)]
        per_axis.append(torch.cat(parts).reshape(len(volumes), 96, 32, 3, 3))
    from fmritok.tokenizers.vae.slices import tokens_from_latents

    tokens = tokens_from_latents(torch.stack(per_axis)).numpy()
    return tokens, time.perf_counter() - start


def ours(
    folder: Path, volumes: np.ndarray, statistics: object, way: str
) -> tuple[np.ndarray, float]:
    """Encode with the tokenizer; ``way`` is an arithmetic, or bf16+compile."""
    from fmritok.tokenizers.vae.tokenizer import VaeTokenizer

    name, _, compiled = way.partition("+")
    tokenizer = VaeTokenizer(str(folder), arithmetic=name, compile=bool(compiled))
    tokenizer.setup()
    intensity = tokenizer.fit(statistics)
    if compiled:  # compiling is paid once a process, not once a volume
        tokenizer.encode(np.zeros_like(volumes[:1]), intensity)
    start = time.perf_counter()
    tokens = tokenizer.encode(volumes, intensity)
    return tokens, time.perf_counter() - start


def measure(way: str, folder: Path, count: int, out: Path) -> None:
    """Run one way in this process; print seconds and peak memory as JSON."""
    from fmritok.tokenizers.vae.intensity import fit_intensity

    volumes, statistics = real_volumes(count)
    if way == "plain":
        normalized = fit_intensity("max", statistics).forward(volumes)
        tokens, seconds = plain(folder, normalized)
    else:
        tokens, seconds = ours(folder, volumes, statistics, way)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.save(out, tokens)
    print(json.dumps({"seconds": seconds, "peak": peak * 1024}))


@click.command()
@click.option("--weights", default="dcae-tiny", show_default=True, help="dcae-tiny, full or FOLDER")
@click.option("--volumes", default=2, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()))
@click.option("--compile", "compiled", is_flag=True, help="Also bf16 with torch.compile.")
@click.option("--one", hidden=True, nargs=2, help="Measure one way in this process.")
def main(
    weights: str,
    volumes: int,
    repeats: int,
    cache: Path,
    compiled: bool,
    one: tuple[str, str] | None,
) -> None:
    """Print a table of the ways; the ratio is the plain way's time over theirs."""
    from fmritok.tokenizers.vae.weights import resolve_weights

    folder = full_size_folder(cache) if weights == "full" else resolve_weights(weights).folder
    if one:
        measure(one[0], folder, volumes, Path(one[1]))
        return
    ways = ["plain", "fp32", "bf16", "delta", *(["bf16+compile"] if compiled else [])]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    peaks: dict[str, float] = {}
    tokens = {}
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(repeats):
            for way in ways if repeat % 2 == 0 else reversed(ways):
                out = Path(scratch) / f"{way}.npy"
                done = subprocess.run(
                    [sys.executable, __file__, "--weights", weights, "--volumes", str(volumes),
                     "--cache", cache, "--one", way, out],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                found = json.loads(done.stdout.strip().splitlines()[-1])
                seconds[way].append(found["seconds"] / volumes)
                peaks[way] = found["peak"]
                tokens[way] = np.load(out)
    from fmritok.tokenizers.fidelity import time_course_error

    reference = tokens["plain"].astype(np.float64)
    print(f"{weights}, {volumes} real volumes, {repeats} rounds, {os.cpu_count()} cores")
    print(f"{'way':12} {'s/volume (min..max)':24} {'ratio':>14} {'peak GiB':>9} {'max error':>10} "
          f"{'courses':>10}")  # fmt: skip
    for way in ways:
        s = seconds[way]
        ratios = [a / b for a, b in zip(seconds["plain"], s, strict=True)]
        error = tokens[way] - reference
        print(
            f"{way:12} {min(s):8.3f} .. {max(s):8.3f}     "
            f"{min(ratios):5.2f} .. {max(ratios):5.2f} {peaks[way] / 2**30:9.2f} "
            f"{np.abs(error).max() / np.abs(reference).max():10.2g} "
            f"{time_course_error(tokens[way], reference).median if volumes > 1 else np.nan:10.2g}"
        )


if __name__ == "__main__":
    main()
