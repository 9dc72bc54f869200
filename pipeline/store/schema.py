"""Names, shapes and codecs of a token group; creating one, growing one, refusing a mix.

``GROUP/tokens`` holds all runs end to end, of shape ``(frames, tokens_per_frame, dim)``. A run
starts on a shard boundary, so one task writes whole shards that no other task touches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fmritok.pipeline.errors import ProvenanceMismatchError, StoreError, expected
from fmritok.pipeline.store.difference import first_difference
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.precision import Precision

if TYPE_CHECKING:
    import zarr

__all__ = [
    "FORMAT", "GroupSpec", "create_group", "first_dimension", "group_names", "grow_group",
    "is_created", "open_root",
]  # fmt: skip

FORMAT = "fmritok token store"
FORMAT_VERSION = 1

Codec = Literal["zstd", "none"]


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
        What makes tokens of two groups comparable; a mix is refused over it.
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
        moments = ["mean", "std"] + (["scale"] if self.precision == "int8" else [])
        return {name: (self.n_tokens, self.dim) for name in moments} | dict(self.run_arrays)

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


def open_root(location: Location, *, create: bool = False) -> zarr.Group:
    """Open a store's root group, or create it.

    Raises
    ------
    StoreError
        If there is no store, or something else is there.
    """
    import zarr

    try:
        is_there = location.exists("zarr.json")
    except Exception as error:  # every object store has its own kinds
        raise StoreError(
            expected("Token store", location, "a place that answers",
                     f"{type(error).__name__}: {error}",
                     "Check the address, and the credentials in the environment.")
        ) from error  # fmt: skip
    if not is_there:
        if not create:
            raise StoreError(
                expected("Token store", location, "a store made by `fmritok tokenize`",
                         "nothing" if not location.list_dir() else "a folder without zarr.json",
                         "Check the path.")
            )  # fmt: skip
        if location.list_dir():
            raise StoreError(
                expected("Store path", location, "a token store or a new name",
                         "a folder with other content", "Choose another --store.")
            )  # fmt: skip
        return zarr.open_group(
            location.zarr_store(),
            mode="a",
            attributes={"format": FORMAT, "format_version": FORMAT_VERSION, "seal": None},
        )
    try:
        root = zarr.open_group(
            location.zarr_store(read_only=not create), mode="r+" if create else "r"
        )
        kind, version = root.attrs.get("format"), root.attrs.get("format_version")
    except Exception as error:  # zarr raises many kinds on damaged metadata
        raise StoreError(
            expected("Token store", location, "readable zarr metadata", error,
                     "Run `fmritok verify`, and restore zarr.json from a copy.")
        ) from error  # fmt: skip
    if kind != FORMAT:
        raise StoreError(
            expected("Token store", location, f"a Zarr hierarchy of format {FORMAT!r}",
                     f"format {kind!r}", "Choose another --store.")
        )  # fmt: skip
    if version != FORMAT_VERSION:
        raise StoreError(
            expected("Token store", location, f"format version {FORMAT_VERSION}", version,
                     "Install the fmritok release that wrote it.")
        )  # fmt: skip
    return root


def create_group(location: Location, spec: GroupSpec) -> zarr.Group:
    """Create a token group, or open the one that is there if it was made with the same contract.

    Raises
    ------
    ProvenanceMismatchError
        If the group exists with another contract; the first differing field is named.
    """
    root = open_root(location, create=True)
    group = root.require_group(spec.name)
    if "contract" in group.attrs:
        found: Any = group.attrs["contract"]
        _refuse_mix(location, spec, dict(found))
        return group
    # `contract` is written last: a group without it was cut off here and is simply made again.
    compressors = _compressors(spec.codec)
    frame = (spec.n_tokens, spec.dim)
    group.create_array(
        "tokens",
        shape=(0, *frame),
        shards=(spec.shard_frames, *frame),
        chunks=(spec.chunk_frames, *frame),
        dtype=spec.dtype,
        fill_value=0,
        compressors=compressors,
        dimension_names=["frame", "token", "feature"],
        overwrite=True,
    )
    for name, shape in spec.per_run_shapes().items():
        group.create_array(
            name,
            shape=(0, *shape),
            chunks=(1, *shape),
            dtype="float32",
            fill_value=0,
            compressors=compressors,
            dimension_names=["run", *(f"{name}_axis{i}" for i in range(len(shape)))],
            overwrite=True,
        )
    for name, values in spec.static.items():
        group.create_array(name, data=values, compressors=compressors, overwrite=True)
    group.require_group("records")
    group.attrs.update({"notes": dict(spec.notes), "seal": None, "contract": spec.contract()})
    return group


def is_created(location: Location, name: str) -> bool:
    """Tell whether a group is there whole: a creation that was cut off is simply made again."""
    if not location.exists(f"{name}/zarr.json"):
        return False
    return "contract" in open_root(location)[name].attrs


def group_names(location: Location) -> list[str]:
    """Return the names of the token groups of a store, also of those that are being created."""
    return [name for name in location.list_dir() if location.exists(f"{name}/records")]


def grow_group(group: zarr.Group, *, frames: int, rows: int) -> None:
    """Lengthen a group's arrays; nothing that is there is rewritten, and nothing ever shrinks."""
    for _, array in group.arrays():
        dimension = first_dimension(array)
        length = {"frame": frames, "run": rows}.get(dimension, 0)
        if array.shape[0] < length:
            array.resize((length, *array.shape[1:]))


def first_dimension(array: zarr.Array[Any]) -> str:
    """Return what an array's first axis counts: ``frame``, ``run`` or something else."""
    names = getattr(array.metadata, "dimension_names", None)
    return str(names[0]) if names else ""


def _refuse_mix(location: Location, spec: GroupSpec, found: dict[str, Any]) -> None:
    difference = first_difference(found, spec.contract())
    if difference is not None:
        name, theirs, ours = difference
        raise ProvenanceMismatchError(
            expected(f"Token group {spec.name} of", location,
                     f"{name} = {theirs!r} (as the store has it)", repr(ours),
                     "Use the same options, or write another group with --group NAME.")
        )  # fmt: skip


def _compressors(codec: Codec) -> list[Any]:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    # The checksum comes last, so that it covers the bytes as they lie on the disk.
    return ([ZstdCodec(level=1)] if codec == "zstd" else []) + [Crc32cCodec()]
