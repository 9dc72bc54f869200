"""What the store's precision costs the tokens' time courses, and how many bytes a frame takes.

    python benchmarks/speed/precision.py --weights dcae-tiny
    python benchmarks/speed/precision.py --weights full --run sf02 --frames 3

Real runs are encoded in fp32, by every tokenizer; the tokens are stored as int8 residuals,
float16 and (for comparison) bfloat16, and read back. The error is that of each feature's time
course about its mean, root mean square over all features, relative to their standard deviation.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click
import numpy as np
from vae import full_size_folder


def error(values: np.ndarray, exact: np.ndarray) -> float:
    """Return the relative error of the time courses."""
    exact = exact.astype(np.float64)
    course = exact - exact.mean(0)
    wrong = values - values.mean(0, dtype=np.float64) - course
    return float(np.sqrt((wrong**2).mean() / (course**2).mean()))


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

    int8, half = store_precision(exact, "int8"), store_precision(exact, "float16")
    brain = torch.from_numpy(exact).bfloat16()
    for name, values, stored in (
        ("int8", dequantize(int8.tokens, int8.mean, int8.scale), int8.tokens),
        ("float16", half.tokens.astype(np.float32), half.tokens),
        ("bfloat16", brain.float().numpy(), brain.view(torch.int16).numpy()),
    ):
        packed = compressed(stored)
        print(f"{run:6} {made:14} {name:9} {100 * error(values, exact):8.2f} "
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
        print_rows("sf02", tokenizer.name, np.concatenate(list(made.blocks)))


@click.command()
@click.option("--weights", default="dcae-tiny", show_default=True, help="dcae-tiny, full or FOLDER")
@click.option("--frames", default=12, show_default=True, help="Frames of the run that are encoded.")
@click.option("--run", "only", default="", help="sf02 or rtc1; default: both.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()))
def main(weights: str, frames: int, only: str, cache: Path) -> None:
    """Print a table for every real MNI run, intensity mode and precision."""
    from fmritok.pipeline.sources.volumes import RunVolumes
    from fmritok.tokenizers.vae.tokenizer import VaeTokenizer

    data = Path(os.environ.get("FMRITOK_TEST_DATA", "../shared/data"))
    reference = str(full_size_folder(cache)) if weights == "full" else weights
    print(f"{weights}: relative error of the time courses, and bytes a frame (zstd 1)")
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
