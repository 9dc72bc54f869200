"""Names, shapes and codecs of a token group: what is written when one is created.

``GROUP/tokens`` holds all runs end to end, of shape ``(frames, tokens_per_frame, dim)``. A run
starts on a shard boundary, so one task writes whole shards that no other task touches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmritok.errors import StoreError, expected
from fmritok.pipeline.store.chunks.codec import Codec
from fmritok.pipeline.store.documents.seal import zarr_group
from fmritok.pipeline.store.names import GROUP_TABLES, check_group_name
from fmritok.pipeline.store.precision import Precision
from fmritok.pipeline.store.tables.table import encode_arrays, in_memory

if TYPE_CHECKING:
    import zarr

__all__ = ["GroupSpec", "blank_group"]

#: Places that nobody wrote: no stored integer, and no number.
_NEVER_WRITTEN: dict[str, float] = {"int8": -128, "float16": math.nan, "float32": math.nan}


@dataclass(frozen=True)
class GroupSpec:
    """Everything that defines a token group.

    Attributes
    ----------
    name : str
        Name of the group: the tokenizer's, unless the user gave another.
    n_tokens, dim : int
        Tokens of a frame, and features of a token.
    precision : {"int8", "float16"}
    codec : {"zstd", "none"}
    chunk_frames : int
        Frames of an inner chunk: the read unit of training.
    shard_frames : int
        Frames of a shard: the write unit, and what a run's start is aligned to.
    run_arrays : dict of str to tuple of int
        Further float32 arrays with one row per run (such as a voxel normalizer), by name.
    static : dict of str to np.ndarray
        Arrays that a reader needs once (such as token coordinates in mm), by name.
    provenance : dict
        What tokens depend on. Writing with another provenance is refused.
    notes : dict
        What is worth knowing but does not change what tokens mean (library versions, measured
        errors); never compared.
    """

    name: str
    n_tokens: int
    dim: int
    precision: Precision
    codec: Codec = "zstd"
    chunk_frames: int = 16
    shard_frames: int = 640
    run_arrays: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    static: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_group_name(self.name)
        if self.shard_frames % self.chunk_frames:
            raise StoreError(
                expected("Shard length of group", self.name,
                         f"a multiple of the chunk length {self.chunk_frames}", self.shard_frames,
                         "Choose another.")
            )  # fmt: skip

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type of the tokens."""
        return np.dtype(self.precision)

    @property
    def frame_bytes(self) -> int:
        """Uncompressed bytes of one frame's tokens."""
        return self.n_tokens * self.dim * self.dtype.itemsize

    def aligned(self, frame: int) -> int:
        """Return the first shard boundary at or after ``frame``."""
        return -(-frame // self.shard_frames) * self.shard_frames

    def per_run_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the arrays with one row per run and the shape of a row."""
        statistics = ["mean", "std"] + (["scale"] if self.precision == "int8" else [])
        return {name: (self.n_tokens, self.dim) for name in statistics} | dict(self.run_arrays)

    def contract(self) -> dict[str, Any]:
        """Return the attributes that must be equal for runs to share a group."""
        return {
            "precision": self.precision,
            "codec": self.codec,
            "chunk_frames": self.chunk_frames,
            "shard_frames": self.shard_frames,
            "tokens_per_frame": self.n_tokens,
            "dim": self.dim,
            "provenance": dict(self.provenance),
        }


def blank_group(spec: GroupSpec) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    """Return the files of a new group, without its document, and its growing arrays' metadata.

    Returns
    -------
    files : dict of str to bytes
        Static arrays and the folders of records and tables, by path below the group.
    growing : dict of str to dict
        Metadata of ``tokens`` and of the arrays with one row per run, all of length 0.
    """
    frame = (spec.n_tokens, spec.dim)

    def fill(group: zarr.Group) -> None:
        group.create_array(
            "tokens",
            shape=(0, *frame),
            shards=(spec.shard_frames, *frame),
            chunks=(spec.chunk_frames, *frame),
            dtype=spec.dtype,
            fill_value=_NEVER_WRITTEN[spec.precision],
            compressors=_compressors(spec.codec),
            dimension_names=["frame", "token", "feature"],
        )
        for name, shape in spec.per_run_shapes().items():
            group.create_array(
                name,
                shape=(0, *shape),
                chunks=(1, *shape),
                dtype="float32",
                fill_value=_NEVER_WRITTEN["float32"],
                compressors=_compressors(spec.codec),
                dimension_names=["run", *(f"{name}_axis{i}" for i in range(len(shape)))],
            )

    made = in_memory(fill, {})
    growing = {key.partition("/")[0]: json.loads(data) for key, data in made.items() if "/" in key}
    files = encode_arrays({name: np.asarray(values) for name, values in spec.static.items()})
    del files["zarr.json"]
    files |= {f"{name}/zarr.json": zarr_group() for name in ("records", *GROUP_TABLES)}
    return files, growing


def _compressors(codec: Codec) -> list[Any]:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    # The checksum comes last: it covers the bytes as they lie on the disk.
    return ([ZstdCodec(level=1)] if codec == "zstd" else []) + [Crc32cCodec()]
