"""What arithmetic and storage cost the tokens' time courses, and how many bytes a frame takes.

    python benchmarks/speed/precision.py --weights dcae-tiny
    python benchmarks/speed/precision.py --weights full --every 96 --no-storage

The first table has every arithmetic of ``vae`` against true fp32, on frames spread over a real scan
in native space, with a warp, and in MNI space. A CPU rounds as a GPU does (tf32, delta) or computes
with 16 bits.
The second: tokens of every tokenizer are stored as int8 residuals, float16 and (for comparison)
bfloat16, and read back. Errors are those of time courses: ``fmritok.tokenizers.fidelity``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
from real_runs import data_folder, real_runs
from vae import full_size_folder


def compressed(values: np.ndarray) -> float:
    """Return the bytes of a frame in zstd-1 chunks of up to 16 frames."""
    import zarr

    store = zarr.storage.MemoryStore()
    array = zarr.create_array(
        store,
        shape=values.shape,
        chunks=(min(16, len(values)), *values.shape[1:]),
        dtype=values.dtype,
        compressors=[zarr.codecs.ZstdCodec(level=1)],
    )
    array[:] = values
    return array.nbytes_stored() / len(values)


def print_rows(run: str, made: str, exact: np.ndarray) -> None:
    """Print what every precision costs on one run's tokens."""
    import torch

    from fmritok.pipeline.store.precision import dequantize, store_precision
    from fmritok.tokenizers.fidelity import time_course_error

    int8, half = store_precision(exact, "int8"), store_precision(exact, "float16")
    brain = torch.from_numpy(exact).bfloat16()
    for name, values, stored in (
        ("int8", dequantize(int8.tokens, int8.mean, int8.scale), int8.tokens),
        ("float16", half.tokens.astype(np.float32), half.tokens),
        ("bfloat16", brain.float().numpy(), brain.view(torch.int16).numpy()),
    ):
        packed = compressed(stored)
        error = time_course_error(values, exact)
        print(f"{run:6} {made:14} {name:9} {100 * error.median:8.2f} "
              f"{stored[0].nbytes:8d} {packed:8.0f} {packed / exact[0].nbytes:10.3f}")  # fmt: skip


def series_tokens(data: Path) -> None:
    """Print the rows of ``flatmap`` and ``network`` on the real run of 100 frames."""
    from fmritok.pipeline.sources.opening import RunFiles, open_run
    from fmritok.tokenizers.flatmap.tokenizer import FlatmapTokenizer
    from fmritok.tokenizers.network.tokenizer import NetworkTokenizer

    path = next((data / "bold_mni").glob("sub-sf02*res-3*bold.nii.gz"))
    for tokenizer in (FlatmapTokenizer(), NetworkTokenizer()):
        source = open_run(RunFiles(path))
        places = tokenizer.places(source.space)
        series = np.concatenate([places.apply_to_frames(b) for b in source.blocks()], axis=1)
        made = tokenizer.encode_series(series, 2.0, places, places.counts)
        print_rows("MNI", tokenizer.name, np.concatenate(list(made.blocks)))


def print_arithmetic(
    reference: str, frames: int, every: int, chosen: tuple[str, ...], rows: tuple[str, ...]
) -> None:
    """Print the error of every arithmetic, on both real runs in both intensity modes."""
    from fmritok.tokenizers.fidelity import spread_frames, time_course_error
    from fmritok.tokenizers.vae.tokenizer import VaeTokenizer

    print(f"error of time courses, %: median / 95th percentile of features, against fp32\n"
          f"{frames} frames spread over the run, every {every}th slice of each axis")  # fmt: skip
    print(f"{'run':6} {'mode':7}" + "".join(f"{name:>17}" for name in chosen))
    some = slice(every // 2, None, every)
    for run, source in real_runs():
        volumes = source.frames_at(spread_frames(source.n_frames, frames))
        for mode in ("max", "zscore"):
            if rows and f"{run}-{mode}" not in rows:
                continue
            latents = {}
            print(f"{run:6} {mode:7}", end="", flush=True)
            for name in ("fp32", *chosen):
                tokenizer = VaeTokenizer(reference, intensity=mode, arithmetic=name)
                tokenizer.setup()
                intensity = tokenizer.fit(source.statistics)
                latents[name] = tokenizer.latents(volumes, intensity, some).swapaxes(0, 1)
                if name != "fp32":
                    found = time_course_error(latents[name], latents["fp32"])
                    cell = f"{100 * found.median:8.2f} /{100 * found.percentile_95:7.2f}"
                    print(cell, end="", flush=True)
            print(flush=True)


@click.command()
@click.option("--weights", default="dcae-tiny", show_default=True, help="dcae-tiny, full or FOLDER")
@click.option("--frames", default=16, show_default=True, help="Frames of the run that are encoded.")
@click.option("--every", default=12, show_default=True, help="Every how many-th slice of an axis.")
@click.option(
    "--arithmetic",
    "chosen",
    multiple=True,
    default=("tf32", "bf16", "fp16", "delta"),
    show_default=True,
    help="Columns of the first table; fp16 is slow on a CPU.",
)
@click.option(
    "--row",
    "rows",
    multiple=True,
    help="Row of the first table, such as MNI-zscore; repeatable. Default: all.",
)
@click.option("--storage/--no-storage", default=True, help="Also the table of storage.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()))
def main(
    weights: str,
    frames: int,
    every: int,
    chosen: tuple[str, ...],
    rows: tuple[str, ...],
    storage: bool,
    cache: Path,
) -> None:
    """Print the tables."""
    from fmritok.tokenizers.vae.tokenizer import VaeTokenizer

    reference = str(full_size_folder(cache)) if weights == "full" else weights
    print(weights)
    print_arithmetic(reference, frames, every, chosen, rows)
    if not storage:
        return
    print("error of stored time courses (median), and bytes a frame (zstd 1)")
    print(f"{'run':6} {'tokens':14} {'stored as':9} {'error %':>8} {'raw':>8} {'zstd':>8} "
          f"{'of float32':>10}")  # fmt: skip
    for name, run in real_runs():
        for mode in ("max", "zscore"):
            tokenizer = VaeTokenizer(reference, intensity=mode)
            tokenizer.setup()
            intensity = tokenizer.fit(run.statistics)
            volumes = next(run.blocks(min(frames, run.n_frames)))[1]
            print_rows(name, f"vae {mode}", tokenizer.encode(volumes, intensity))
    if weights != "full":
        series_tokens(data_folder())


if __name__ == "__main__":
    main()
