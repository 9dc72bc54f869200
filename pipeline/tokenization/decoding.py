"""Decode stored tokens of a run to volumes, pictures, surfaces or tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path

from fmritok.errors import FmritokError, StoreError, expected, wrong_usage
from fmritok.pipeline.store.reader import TokenGroup, TokenStore
from fmritok.pipeline.store.records import read_record
from fmritok.tokenizers.base import Tokenizer
from fmritok.tokenizers.registry import TOKENIZERS
from fmritok.tokenizers.stored import StoredTokens

__all__ = ["decode_to_file", "stored_tokens"]


def decode_to_file(
    store: str,
    group: str | None,
    run_id: str,
    frames: slice,
    out: Path,
    *,
    overrides: Mapping[str, str] | None = None,
) -> list[Path]:
    """Decode consecutive frames of a run to a file. The extension chooses the format.

    Parameters
    ----------
    store, group, run_id : str
    frames : slice
    out : Path
        ``.nii`` or ``.nii.gz`` for ``vae``; ``.png`` or ``.func.gii`` (one per hemisphere) for
        ``flatmap``; ``.tsv`` for ``network``; any ``file_types`` of other tokenizers.
    overrides : dict of str to str, optional
        Options of the tokenizer that differ on this machine: the path of the autoencoder
        (``weights``) or of the cortical template (``template``).

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    StoreError
        If there is no such run, or the tokenizer cannot write this format.
    FmritokError
        If weights or template differ from those of the group.
    """
    opened = TokenStore(store).group(group)
    with _understood(opened):
        return _decode(opened, run_id, frames, out, overrides or {})


@contextmanager
def _understood(group: TokenGroup) -> Iterator[None]:
    """Turn exceptions from invalid metadata of a group into one error that names the group."""
    try:
        yield
    except FmritokError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise StoreError(
            expected(f"Token group {group.name} of", group.location,
                     "valid metadata for decoding", f"{type(error).__name__}: {error}",
                     "Restore the store from a copy, or tokenize again.")
        ) from error  # fmt: skip


def _decode(
    opened: TokenGroup, run_id: str, frames: slice, out: Path, overrides: Mapping[str, str]
) -> list[Path]:
    kind: type[Tokenizer] = TOKENIZERS.find(str(opened.provenance["tokenizer"]))
    if not any(out.name.endswith(ending) for ending in kind.file_types):
        raise wrong_usage(StoreError(
            expected(f"Tokens of group {opened.name} as", out,
                     f"a file ending in {' or '.join(kind.file_types) or 'nothing'}",
                     "".join(out.suffixes) or "no ending", "Change --out.")
        ))  # fmt: skip
    for option in sorted(set(overrides) - set(signature(kind).parameters)):
        raise wrong_usage(StoreError(
            expected("Option", f"--{option}", f"an option of tokenizer {kind.name}, which wrote "
                     f"group {opened.name}", overrides[option], "Leave it out.")
        ))  # fmt: skip
    stored = stored_tokens(opened, run_id, frames)
    out.parent.mkdir(parents=True, exist_ok=True)
    return kind.save(stored, out, overrides)


def stored_tokens(group: TokenGroup, run_id: str, frames: slice = slice(None)) -> StoredTokens:
    """Read consecutive frames of a run, with the metadata for decoding.

    Raises
    ------
    StoreError
        If there is no such run, or it does not have these frames.
    """
    run = group.run(run_id)
    n_frames = int(run["n_frames"])
    first, end, _ = frames.indices(n_frames)
    if end <= first or (frames.stop or 0) > n_frames:
        got = f"{frames.start or 0}:{'' if frames.stop is None else frames.stop}"
        raise wrong_usage(StoreError(
            expected("Frames of run", run_id, f"a span within 0:{n_frames}", got,
                     "Choose frames of the run.")
        ))  # fmt: skip
    record = read_record(group.location, group.name, run_id)
    assert record is not None
    return StoredTokens(
        run_id=run_id,
        tokens=group.values(run_id, first, end - first),
        tr=float(run["tr"]),
        first=first,
        provenance=group.provenance,
        notes=group.notes,
        array=group.array,
        scalars=dict(record.normalizer),
        arrays={name: group.array(name, int(run["row"])) for name in group.run_arrays},
    )
