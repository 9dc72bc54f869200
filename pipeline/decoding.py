"""Turn a run's tokens back into what they were made of, as the store says they were made.

``vae`` tokens become volumes, ``flatmap`` tokens pictures of the flat map or surface data,
``network`` tokens a table of parcels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmritok.pipeline.errors import FmritokError, RunError, StoreError, WeightsError, expected
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.pipeline.store.records import read_record
from fmritok.pipeline.terminal import spreadsheet_cell
from fmritok.tokenizers.base import VolumeTokenizer
from fmritok.tokenizers.flatmap import FlatmapTokenizer
from fmritok.tokenizers.grid import AFFINE
from fmritok.tokenizers.registry import build_tokenizer

__all__ = ["decode_to_file", "decode_volumes", "flat_images"]

Floats = npt.NDArray[np.float32]


def decode_to_file(
    store: str,
    group: str | None,
    run_id: str,
    frames: slice,
    out: Path,
    *,
    weights: str | None = None,
    template: str | None = None,
) -> list[Path]:
    """Decode consecutive frames of a run to a file whose name says what is wanted.

    Parameters
    ----------
    store, group, run_id : str
    frames : slice
    out : Path
        ``.nii`` or ``.nii.gz`` for ``vae``; ``.png`` or ``.func.gii`` (one per hemisphere) for
        ``flatmap``; ``.tsv`` for ``network``.
    weights, template : str, optional
        Where the autoencoder or the cortical template lies on this machine, if not where it lay
        when the store was written.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    StoreError
        If there is no such run, or its tokens do not become such a file.
    WeightsError, FmritokError
        If weights or template are not those that the group was made with.
    """
    opened = TokenStore(store).group(group)
    with _understood(opened):
        return _decode(opened, run_id, frames, out, weights, template)


@contextmanager
def _understood(group: TokenGroup) -> Iterator[None]:
    """Say that a group is another one where what it tells of its tokenizer cannot be followed."""
    try:
        yield
    except FmritokError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise StoreError(
            expected(f"Token group {group.name} of", group.location,
                     "what its tokenizer needs to decode", f"{type(error).__name__}: {error}",
                     "Restore the store from a copy, or tokenize again.")
        ) from error  # fmt: skip


def _decode(
    opened: TokenGroup,
    run_id: str,
    frames: slice,
    out: Path,
    weights: str | None,
    template: str | None,
) -> list[Path]:
    kind = str(opened.provenance["tokenizer"])
    suffix = "".join(out.suffixes[-2:]) if out.suffix in (".gz", ".gii") else out.suffix
    if suffix not in _SUFFIXES.get(kind, ()):
        raise StoreError(
            expected(f"Tokens of group {opened.name} as", out,
                     f"a file ending in {' or '.join(_SUFFIXES.get(kind, ('nothing',)))}",
                     suffix or "no ending", "Change --out.")
        )  # fmt: skip
    run = opened.run(run_id)
    first, end, _ = frames.indices(int(run["n_frames"]))
    if end <= first:
        raise StoreError(
            expected("Frames of run", run_id, f"a span within 0:{run['n_frames']}",
                     f"{frames.start}:{frames.stop}", "Choose others.")
        )  # fmt: skip
    tokens, tr = opened.values(run_id, first, end - first), float(run["tr"])
    out.parent.mkdir(parents=True, exist_ok=True)
    if kind == "vae":
        _save_volumes(decode_volumes(opened, run, tokens, weights), tr, out)
        return [out]
    if kind == "network":
        _save_parcels(opened, tokens, tr, first, out)
        return [out]
    if suffix == ".png":
        _save_pictures(flat_images(opened, tokens), tr, first, run_id, out)
        return [out]
    return _save_surfaces(_flatmap_of(opened, template), tokens, tr, out)


_SUFFIXES = {
    "vae": (".nii", ".nii.gz"),
    "flatmap": (".png", ".func.gii"),
    "network": (".tsv",),
}


def flat_images(group: TokenGroup, tokens: Floats) -> Floats:
    """Lay the tokens of a ``flatmap`` group on its flat map; only the store is needed.

    Parameters
    ----------
    group : TokenGroup
    tokens : np.ndarray of shape (n_frames, n_cells, patch**2)

    Returns
    -------
    np.ndarray of shape (n_frames, rows, columns), float32
        NaN where there is no cortex.
    """
    layout: dict[str, Any] = group.provenance["layout"]
    patch, (rows, columns) = int(layout["patch"]), layout["image"]
    cells, mask = group.array("cell"), group.array("pixel_mask")
    blocks = np.full(
        (len(tokens), rows // patch, columns // patch, patch, patch), np.nan, np.float32
    )
    known = np.where(mask, tokens, np.nan)
    blocks[:, cells[:, 0], cells[:, 1]] = known.reshape(len(tokens), -1, patch, patch)
    return blocks.transpose(0, 1, 3, 2, 4).reshape(len(tokens), rows, columns)


def decode_volumes(
    group: TokenGroup, run: Any, tokens: Floats, weights: str | None = None
) -> Floats:
    """Decode ``vae`` tokens to intensities on the canonical grid.

    Parameters
    ----------
    group : TokenGroup
    run : pd.Series
        The run's row of the group's table.
    tokens : np.ndarray of shape (n_frames, n_tokens, dim), float32
    weights : str, optional

    Returns
    -------
    np.ndarray of shape (n_frames, 96, 96, 96), float32
    """
    tokenizer = _vae_of(group, weights)
    record = read_record(group.location, group.name, str(run["run_id"]))
    assert record is not None
    row = int(run["row"])
    arrays = {name: group.array(name, row) for name in tokenizer.run_arrays}
    return tokenizer.decode(tokens, tokenizer.restore(record.normalizer, arrays))


def _vae_of(group: TokenGroup, weights: str | None) -> VolumeTokenizer:
    """Build the autoencoder that wrote a group, and check that it is the same."""
    made, known = group.provenance, group.notes["weights"]
    tokenizer = build_tokenizer(
        "vae",
        {
            "weights": weights or known["id"],
            "revision": None if weights else known["revision"] or None,
            "intensity": made["intensity"]["mode"],
            "dtype": made["dtype"],
        },
    )
    assert isinstance(tokenizer, VolumeTokenizer)
    found = tokenizer.provenance()["weights"]["sha256"]
    if found != made["weights"]["sha256"]:
        raise WeightsError(
            expected("Weights", weights or known["id"],
                     f"sha256 {made['weights']['sha256']}", found,
                     "Give the folder of the weights that wrote the store with --weights.")
        )  # fmt: skip
    return tokenizer


def _flatmap_of(group: TokenGroup, template: str | None) -> FlatmapTokenizer:
    """Build the flat map that wrote a group, and check that it is the same."""
    reference = template or str(group.notes["template"])
    tokenizer = FlatmapTokenizer(reference)
    wanted = group.provenance["template"]["sha256"]
    if tokenizer.template.sha256 != wanted:
        raise FmritokError(
            expected("Cortical template", reference, f"sha256 {wanted}", tokenizer.template.sha256,
                     "Give the template that wrote the store with --template.")
        )  # fmt: skip
    return tokenizer


def _save_volumes(volumes: Floats, tr: float, path: Path) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(np.moveaxis(volumes, 0, -1), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((2.0, 2.0, 2.0, tr))
    image.set_sform(AFFINE, code="mni")
    image.set_qform(AFFINE, code="mni")
    nib.save(image, path)


def _save_parcels(group: TokenGroup, tokens: Floats, tr: float, first: int, path: Path) -> None:
    import pandas as pd

    names = [spreadsheet_cell(str(name)) for name in group.provenance["layout"]["parcels"]]
    table = pd.DataFrame(tokens[:, :, 0], columns=names)
    table.insert(0, "seconds", (first + np.arange(len(tokens))) * tr)
    table.to_csv(path, sep="\t", index=False, float_format="%.6g")


def _save_pictures(images: Floats, tr: float, first: int, run_id: str, path: Path) -> None:
    """Draw each frame, standard deviations in colour."""
    from matplotlib.figure import Figure

    columns = min(2, len(images))
    rows = -(-len(images) // columns)
    if rows > _ROWS_OF_A_PICTURE:
        raise RunError(
            expected("Frames of run", run_id,
                     f"at most {_ROWS_OF_A_PICTURE * columns} for one picture",
                     len(images), "Choose fewer with --frames.")
        )  # fmt: skip
    figure = Figure(figsize=(6 * columns, 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in axes:
        place.axis("off")
    for i, (image, place) in enumerate(zip(images, axes, strict=False)):
        shown = place.imshow(image, cmap="RdBu_r", vmin=-3, vmax=3, interpolation="nearest")
        place.set_title(f"frame {first + i}, {(first + i) * tr:.1f} s", fontsize=9)
        place.text(0.02, 0.98, "L", transform=place.transAxes, va="top")
        place.text(0.98, 0.98, "R", transform=place.transAxes, va="top", ha="right")
    figure.colorbar(shown, ax=list(axes), shrink=0.5, label="standard deviations of the vertex")
    figure.suptitle(f"{run_id}: anterior outwards, superior up", fontsize=10)
    figure.savefig(path, dpi=110)


_ROWS_OF_A_PICTURE = 12


def _save_surfaces(tokenizer: FlatmapTokenizer, tokens: Floats, tr: float, out: Path) -> list[Path]:
    """Write each hemisphere's vertices: the mean of the pixels that a vertex is part of."""
    import nibabel as nib
    from nibabel.gifti.gifti import GiftiDataArray, GiftiMetaData

    matrix = tokenizer.painting.matrix
    total = np.asarray(matrix.sum(axis=0)).ravel()
    vertices = matrix.T @ tokens.reshape(len(tokens), -1).T.astype(np.float64)
    vertices /= np.maximum(total, 1e-9)[:, None]
    left = tokenizer.template.n_vertices[0]
    written = []
    for hemisphere, values in (("L", vertices[:left]), ("R", vertices[left:])):
        arrays = [
            GiftiDataArray(
                frame.astype(np.float32),
                intent="NIFTI_INTENT_TIME_SERIES",
                datatype="NIFTI_TYPE_FLOAT32",
                meta=GiftiMetaData({"TimeStep": f"{tr * 1000:g}"}),
            )
            for frame in values.T
        ]
        name = out.name.removesuffix(".func.gii")
        path = out.with_name(f"{name}_hemi-{hemisphere}.func.gii")
        nib.save(nib.GiftiImage(darrays=arrays), path)
        written.append(path)
    return written
