"""Schema of a token group: names, shapes and codecs of its arrays.

``GROUP/tokens`` contains all runs end to end, shape ``(frames, tokens_per_frame, dim)``. Every run
starts on a shard boundary. Tasks therefore never write to the same shard.
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

#: Fill values of unwritten frames. No stored value equals them.
_NEVER_WRITTEN: dict[str, float] = {"int8": -128, "float16": math.nan, "float32": math.nan}


@dataclass(frozen=True)
class GroupSpec:
    """Everything that defines a token group.

    Attributes
    ----------
    name : str
    n_tokens, dim : int
        Tokens per frame, features per token.
    precision : {"int8", "float16"}
    codec : {"zstd", "none"}
    chunk_frames : int
        Frames per chunk: the read unit of training.
    shard_frames : int
        Frames per shard: the write unit. Runs start on shard boundaries.
    run_arrays : dict of str to tuple of int
        Row shapes of further float32 arrays with one row per run, by name.
    static : dict of str to np.ndarray
        Arrays shared by all runs, such as token coordinates in mm, by name.
    provenance : dict
        All settings that change the tokens. Writing with another provenance is refused.
    notes : dict
        Further information, such as library versions and measured errors. Never compared.
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
        """Store dtype of the tokens."""
        return np.dtype(self.precision)

    @property
    def frame_bytes(self) -> int:
        """Uncompressed size of the tokens of one frame, bytes."""
        return self.n_tokens * self.dim * self.dtype.itemsize

    def aligned(self, frame: int) -> int:
        """Return the first shard boundary at or after ``frame``."""
        return -(-frame // self.shard_frames) * self.shard_frames

    def per_run_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the row shape of each array with one row per run."""
        statistics = ["mean", "std"] + (["scale"] if self.precision == "int8" else [])
        return {name: (self.n_tokens, self.dim) for name in statistics} | dict(self.run_arrays)

    def contract(self) -> dict[str, Any]:
        """Return the settings that must be equal for all runs of a group."""
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
    """Return the files of a new group, without its document.

    Returns
    -------
    files : dict of str to bytes
        Static arrays and the groups of records and tables, by path below the group.
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

    # The checksum is the last codec: it covers the bytes on the disk.
    return ([ZstdCodec(level=1)] if codec == "zstd" else []) + [Crc32cCodec()]
