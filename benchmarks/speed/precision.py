"""What arithmetic and storage cost the tokens' time courses, and how many bytes a frame takes.

    python benchmarks/speed/precision.py --weights dcae-tiny
    python benchmarks/speed/precision.py --weights full --run sf02 --frames 3

The first table has every arithmetic of ``vae`` against true fp32, on frames spread over real runs
and every twelfth slice. A CPU rounds as a GPU does (tf32, delta) or computes with 16 bits.
The second: tokens of every tokenizer are stored as int8 residuals, float16 and (for comparison)
bfloat16, and read back. Errors are those of time courses: ``fmritok.tokenizers.fidelity``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click
import numpy as np
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
        source = open_run(RunFiles(str(path)))
        places = tokenizer.places(source.space)
        series = np.concatenate([places.apply_to_frames(b) for b in source.blocks()], axis=1)
        made = tokenizer.encode_series(series, 2.0, places, places.counts)
        print_rows("sf02", tokenizer.name, np.concatenate(list(made.blocks)))


def print_arithmetic(data: Path, reference: str, frames: int, only: str) -> None:
    """Print the error of every arithmetic, on every real MNI run and intensity mode."""
    from fmritok.pipeline.sources.volumes import RunVolumes
    from fmritok.tokenizers.fidelity import spread_frames
    from fmritok.tokenizers.vae.arithmetic import ARITHMETICS
    from fmritok.tokenizers.vae.tokenizer import VaeTokenizer

    print("error of time courses, %: median / 95th percentile of features, against fp32")
    print(f"{'run':6} {'mode':7}" + "".join(f"{name:>17}" for name in ARITHMETICS[1:]))
    for path in sorted((data / "bold_mni").glob(f"sub-{only}*MNI2mm91x109x91*bold.nii.gz")):
        run = RunVolumes.read(path, voxel_statistics=True)
        volumes = run.frames_at(spread_frames(run.n_frames, frames))
        for mode in ("max", "zscore"):
            row = f"{path.name[4:8]:6} {mode:7}"
            for name in ARITHMETICS[1:]:
                tokenizer = VaeTokenizer(reference, intensity=mode, arithmetic=name)
                tokenizer.setup()
                found = tokenizer.measure_error(volumes, tokenizer.fit(run.statistics))
                row += f"{100 * found['median']:8.2f} /{100 * found['percentile_95']:7.2f}"
            print(row, flush=True)


@click.command()
@click.option("--weights", default="dcae-tiny", show_default=True, help="dcae-tiny, full or FOLDER")
@click.option("--frames", default=16, show_default=True, help="Frames of the run that are encoded.")
@click.option("--run", "only", default="", help="sf02 or rtc1; default: both.")
@click.option("--storage/--no-storage", default=True, help="Also the table of storage.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()))
def main(weights: str, frames: int, only: str, storage: bool, cache: Path) -> None:
    """Print a table for every real MNI run, intensity mode and precision."""
    from fmritok.pipeline.sources.volumes import RunVolumes
    from fmritok.tokenizers.vae.tokenizer import VaeTokenizer

    data = Path(os.environ.get("FMRITOK_TEST_DATA", "../shared/data"))
    reference = str(full_size_folder(cache)) if weights == "full" else weights
    print(weights)
    print_arithmetic(data, reference, frames, only)
    if not storage:
        return
    print("error of stored time courses (median), and bytes a frame (zstd 1)")
    print(f"{'run':6} {'tokens':14} {'stored as':9} {'error %':>8} {'raw':>8} {'zstd':>8} "
          f"{'of float32':>10}")  # fmt: skip
    for path in sorted((data / "bold_mni").glob(f"sub-{only}*MNI2mm91x109x91*bold.nii.gz")):
        run = RunVolumes.read(path, voxel_statistics=True)
        for mode in ("max", "zscore"):
            tokenizer = VaeTokenizer(reference, intensity=mode)
            tokenizer.setup()
            intensity = tokenizer.fit(run.statistics)
            volumes = next(run.blocks(min(frames, run.n_frames)))[1]
            print_rows(path.name[4:8], f"vae {mode}", tokenizer.encode(volumes, intensity))
    if weights != "full":
        series_tokens(data)


if __name__ == "__main__":
    main()
