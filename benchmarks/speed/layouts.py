"""Layouts of one run's tokens on disk, each with a writer and a reader; see streaming.py.

The writer stores ``tokens`` (n_frames, n_tokens, dim) in a folder. The reader opens the folder and
returns a function: ``read(start, n_frames)`` returns the stored values of a window.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[Any]
Reader = Callable[[int, int], Tokens]

AXES = 3


class Layout(NamedTuple):
    """One way to store tokens and one way to read them."""

    precision: str
    write: Callable[[Path, Tokens], None]
    open: Callable[[Path], Reader]
    needs: str = ""
    folder: str = ""
    """folder of the layout that writes the same files"""


def write_frames(folder: Path, tokens: Tokens) -> None:
    """Write one float32 .npy per frame and axis: the published way."""
    for frame, values in enumerate(tokens):
        for axis, block in enumerate(np.split(values.astype(np.float32), AXES, axis=-1)):
            np.save(folder / f"{frame}_{axis}.npy", block)


def open_frames(folder: Path) -> Reader:
    def read(start: int, n_frames: int) -> Tokens:
        frames = range(start, start + n_frames)
        blocks = [np.load(folder / f"{f}_{axis}.npy") for f in frames for axis in range(AXES)]
        return np.stack(blocks)

    return read


def write_npy(folder: Path, tokens: Tokens) -> None:
    np.save(folder / "tokens.npy", tokens)


def open_npy(folder: Path) -> Reader:
    mapped = np.load(folder / "tokens.npy", mmap_mode="r")
    return lambda start, n_frames: np.array(mapped[start : start + n_frames])


def write_hdf5(folder: Path, tokens: Tokens, **options: Any) -> None:
    import h5py

    with h5py.File(folder / "tokens.h5", "w") as file:
        file.create_dataset("tokens", data=tokens, **options)


def write_hdf5_zstd(folder: Path, tokens: Tokens) -> None:
    import hdf5plugin

    write_hdf5(folder, tokens, chunks=(16, *tokens.shape[1:]), **hdf5plugin.Zstd(clevel=1))


def open_hdf5(folder: Path) -> Reader:
    import h5py
    import hdf5plugin  # noqa: F401

    data = h5py.File(folder / "tokens.h5", "r")["tokens"]
    return lambda start, n_frames: data[start : start + n_frames]


def write_tar(folder: Path, tokens: Tokens) -> None:
    """Write one tar shard with one .npy per frame."""
    with tarfile.open(folder / "tokens.tar", "w") as tar:
        for frame, values in enumerate(tokens):
            buffer = io.BytesIO()
            np.save(buffer, values)
            info = tarfile.TarInfo(f"{frame:06}.npy")
            info.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(info, buffer)


def open_tar(folder: Path) -> Reader:
    """Read with an index of member offsets; without one, a tar is read from its start."""
    with tarfile.open(folder / "tokens.tar") as tar:
        members = [(m.offset_data, m.size) for m in tar.getmembers()]
    file = (folder / "tokens.tar").open("rb", buffering=0)

    def read(start: int, n_frames: int) -> Tokens:
        frames = []
        for offset, size in members[start : start + n_frames]:
            file.seek(offset)
            frames.append(np.load(io.BytesIO(file.read(size))))
        return np.stack(frames)

    return read


def write_store(codec: str, chunk: int = 16, shard: int = 640) -> Callable[[Path, Tokens], None]:
    """Make a writer of fmritok's store."""

    def write(folder: Path, tokens: Tokens) -> None:
        from fmritok.pipeline.store.group import create_group, lengthen, read_group
        from fmritok.pipeline.store.location import Location
        from fmritok.pipeline.store.precision import StoredRun
        from fmritok.pipeline.store.schema import GroupSpec
        from fmritok.pipeline.store.tables.runs_table import empty_tables
        from fmritok.pipeline.store.writer import write_run

        n_frames, n_tokens, dim = tokens.shape
        spec = GroupSpec(
            name="vae", n_tokens=n_tokens, dim=dim, precision=str(tokens.dtype), codec=codec,  # type: ignore[arg-type]
            chunk_frames=chunk, shard_frames=shard,
        )  # fmt: skip
        location = Location(folder / "tokens.zarr")
        create_group(location, spec, empty_tables(spec.per_run_shapes()))
        document = read_group(location, "vae").document
        lengthen(location, document, frames=spec.aligned(n_frames), rows=1)
        values = np.random.default_rng(0).standard_normal((n_tokens, dim)).astype(np.float32)
        scale = values if "scale" in spec.per_run_shapes() else None
        stored = StoredRun(tokens, values, values, scale)
        write_run(location, "vae", run_id="run", row=0, start=0, stored=stored)

    return write


def open_zarr(folder: Path) -> Reader:
    import zarr

    array = zarr.open_group(folder / "tokens.zarr", mode="r")["vae/tokens"]
    return lambda start, n_frames: np.asarray(array[start : start + n_frames])  # type: ignore[index]


def open_zarrs(folder: Path) -> Reader:
    import zarr

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    return open_zarr(folder)


def open_tensorstore(folder: Path) -> Reader:
    import tensorstore

    path = os.fspath(folder / "tokens.zarr/vae/tokens")
    array = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}, open=True, read=True
    ).result()
    return lambda start, n_frames: array[start : start + n_frames].read().result()


def open_direct(folder: Path) -> Reader:
    from fmritok.pipeline.store.chunks.layout import open_direct
    from fmritok.pipeline.store.location import Location

    array = open_direct(Location(folder / "tokens.zarr"), "vae/tokens")
    assert array is not None
    return array.read


def open_direct_one_thread(folder: Path) -> Reader:
    from fmritok.pipeline.store.chunks.shard_files import use_threads

    use_threads(1)
    return open_direct(folder)


def open_direct_moments(folder: Path) -> Reader:
    """Also read mean, deviation and scale with each window: the cost of a new run."""
    from fmritok.pipeline.store.chunks.layout import open_direct
    from fmritok.pipeline.store.location import Location

    location = Location(folder / "tokens.zarr")
    names = [name for name in ("mean", "std", "scale") if location.exists(f"vae/{name}/zarr.json")]
    tokens, *rows = [open_direct(location, f"vae/{name}") for name in ("tokens", *names)]
    assert tokens is not None

    def read(start: int, n_frames: int) -> Tokens:
        for row in rows:
            assert row is not None
            row.read(0, 1)
        return tokens.read(start, n_frames)

    return read


LAYOUTS: dict[str, Layout] = {
    "npy float32 per frame and axis": Layout("float16", write_frames, open_frames),
    "npy float16, mapped": Layout("float16", write_npy, open_npy),
    "HDF5 float16": Layout("float16", write_hdf5, open_hdf5, "hdf5plugin"),
    "HDF5 float16 zstd": Layout("float16", write_hdf5_zstd, open_hdf5, "hdf5plugin"),
    "tar float16, indexed": Layout("float16", write_tar, open_tar),
}
for _precision in ("float16", "int8"):
    for _codec in ("zstd", "none"):
        _kind = f"{_precision} {'zstd' if _codec == 'zstd' else 'raw'}"
        LAYOUTS |= {
            f"{way} {_kind}": Layout(_precision, write_store(_codec), opened, needs, _kind)
            for way, opened, needs in (
                ("zarr-python", open_zarr, ""),
                ("zarrs", open_zarrs, "zarrs"),
                ("tensorstore", open_tensorstore, "tensorstore"),
                ("direct", open_direct, ""),
                ("direct, 1 thread,", open_direct_one_thread, ""),
                ("direct + moments", open_direct_moments, ""),
            )
        }
