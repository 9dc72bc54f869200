"""Files of a cohort that are no files, or claim or unpack to far more than they should.

Each becomes the reason of its run; the others are catalogued. Nothing waits, and no memory is taken
for what is only claimed.
"""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from cohorts import FSL, NATIVE, write_header, write_run
from tiny import fmritok

from fmritok.errors import RunError
from fmritok.pipeline.datasets import get_adapter
from fmritok.pipeline.headers.run_header import run_header
from fmritok.pipeline.headers.surface import read_gifti_header
from fmritok.pipeline.sources.checking import checked_blocks
from fmritok.pipeline.sources.files import HashedFile, open_binary, read_fully, read_small
from fmritok.pipeline.sources.opening import RunFiles, open_run
from fmritok.pipeline.sources.whole import read_image

MOST_BYTES = 300 * 2**20
IMAGE = "fMRI/rfMRI.ica/filtered_func_data_clean_standard.nii.gz"
MOTION = "fMRI/rfMRI.ica/mc/prefiltered_func_data_mcf_rel_mean.rms"


@contextmanager
def bounded() -> Iterator[None]:
    """Fail if more memory is taken than a few frames need."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_header(tmp_path_factory.mktemp("image") / "x.nii.gz").read_bytes()


def download(root: Path, eid: int, members: dict[str, bytes], **options: object) -> Path:
    path = root / f"{eid}_20227_2_0.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data, **options)
    return path


def reasons(root: Path, dataset: str = "ukb") -> tuple[dict[str, str], dict[str, str]]:
    """Return each subject's problem, and what was left out or is doubtful."""
    with bounded():
        cohort = get_adapter(dataset)(root)
    problems = dict(zip(cohort.runs["subject"], cohort.runs["problem"], strict=True))
    others = pd.concat([cohort.left_out, cohort.questioned])
    return problems, {
        Path(path).name: reason
        for path, reason in zip(others["path"], others["reason"], strict=True)
    }


# --- zip files ---------------------------------------------------------------------------------


def test_a_small_zip_with_a_member_of_gigabytes(tmp_path, image):
    zeros = bytes(2**24)
    path = download(tmp_path, 1000001, {IMAGE: image})
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(MOTION, "w", force_zip64=True) as member,
    ):
        for _ in range(64):
            member.write(zeros)
    assert path.stat().st_size < 2**23
    download(tmp_path, 1000002, {IMAGE: image, MOTION: b"0.06\n"})
    problems, left_out = reasons(tmp_path)
    assert problems == {"1000001": "", "1000002": ""}
    assert "at most 4,096 are allowed" in left_out[Path(MOTION).name]


def flagged(path: Path, *, flags: int = 0, method: int | None = None) -> None:
    """Set the flags and the compression method in both headers of a zip's first member."""
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    for place, offset in ((0, 6), (central, 8)):
        old = struct.unpack_from("<H", data, place + offset)[0]
        struct.pack_into("<H", data, place + offset, old | flags)
        if method is not None:
            struct.pack_into("<H", data, place + offset + 2, method)
    path.write_bytes(data)


@pytest.mark.parametrize(("change", "words"), [
    ({"flags": 1}, "encrypted"),
    ({"method": 99}, "compression"),
    ({"method": 8}, "Zip"),  # stored data that are called deflated
])  # fmt: skip
def test_a_member_that_cannot_be_unpacked_is_its_runs_reason(tmp_path, image, change, words):
    path = tmp_path / "1000001_20227_2_0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(IMAGE, image)
    flagged(path, **change)
    download(tmp_path, 1000002, {IMAGE: image})
    problems, _ = reasons(tmp_path)
    assert words in problems["1000001"]
    assert problems["1000002"] == ""
    result = fmritok("catalog", "--dataset", "ukb", "--root", tmp_path)
    assert result.exit_code == 0, result.output


def test_an_index_that_lies(tmp_path, image):
    """Sizes, places and signatures of the index, each set to what cannot be."""
    path = download(tmp_path, 1000001, {IMAGE: image, MOTION: b"0.06\n"})
    download(tmp_path, 1000002, {IMAGE: image})
    whole = path.read_bytes()
    central, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    for place, form in [(central + 20, "<I"), (central + 24, "<I"), (central + 28, "<H"),
                        (central + 30, "<H"), (central + 42, "<I"), (central + 16, "<I"),
                        (end + 12, "<I"), (end + 16, "<I"), (end + 10, "<H"), (0, "<I"),
                        (26, "<H"), (central + 6, "<H")]:  # fmt: skip
        for value in (0, 1, 2 ** (8 * struct.calcsize(form)) - 1, 2**15):
            data = bytearray(whole)
            struct.pack_into(form, data, place, value)
            path.write_bytes(data)
            problems, _ = reasons(tmp_path)
            assert problems["1000002"] == "", (place, value)
    for cut in (0, 1, 30, central, end, len(whole) - 1):
        path.write_bytes(whole[:cut])
        problems, left_out = reasons(tmp_path)
        assert problems == {"1000002": ""}
        assert "cannot be read" in left_out[path.name]


def test_a_member_whose_name_leads_elsewhere_is_not_looked_for(tmp_path, image):
    names = [f"../{IMAGE}", f"/{IMAGE}", "..\\x", "a" * 60000, IMAGE]
    download(tmp_path, 1000001, dict.fromkeys(names, image))
    assert reasons(tmp_path)[0] == {"1000001": ""}
    assert [p.name for p in tmp_path.iterdir()] == ["1000001_20227_2_0.zip"]


def test_small_files_are_read_up_to_their_bound(tmp_path):
    (tmp_path / "x").write_bytes(bytes(11))
    assert len(read_small(tmp_path / "x", 11)) == 11
    with pytest.raises(OSError, match="at most 10"):
        read_small(tmp_path / "x", 10)
    with open(tmp_path / "x", "rb") as file, bounded():
        assert len(read_fully(file, 2**50)) == 11


# --- no files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fifo", "device"])
def test_what_is_no_file_is_never_opened(tmp_path, name):
    """In the place of an image, a mask, a warp, a zip file and a GIFTI file."""
    odd = tmp_path / "odd"
    odd.mkdir()

    def put(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if name == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
        return path

    for file in ("x.nii", "x.nii.gz", "x.dtseries.nii", "x.func.gii"):
        path = put(odd / file)
        with bounded():
            assert "not a file" in run_header(path, path).problem
            with pytest.raises((RunError, OSError), match="not a file"):
                open_run(RunFiles(path, right=path))
    good = tmp_path / "good.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 3), np.int16), FSL), good)
    for role in ("mask", "warp"):
        with bounded(), pytest.raises(RunError, match="not a file"):
            open_run(RunFiles(good, **{role: odd / "x.nii.gz"}))

    root = tmp_path / "ukb"
    root.mkdir()
    download(root, 1000002, {IMAGE: write_header(tmp_path / "y.nii.gz").read_bytes()})
    put(root / "1000001_20227_2_0.zip")
    put(root / "1000003_20227_2_0" / IMAGE)
    problems, left_out = reasons(root)
    assert problems["1000002"] == ""
    assert "not a file" in problems["1000003"]
    assert "cannot be read" in left_out["1000001_20227_2_0.zip"]


def test_one_fifo_leaves_the_other_runs_of_a_cohort(tmp_path):
    write_run(tmp_path, "100001")
    path = write_run(tmp_path, "100002")
    path.unlink()
    os.mkfifo(path)
    problems, _ = reasons(tmp_path, "hcp")
    assert problems["100001"] == ""
    assert "got a FIFO, not a file. " in problems["100002"]


# --- claims --------------------------------------------------------------------------------------


CLAIMS = r"as its header says|vary over time|whole frames|one voxel each|field of view below"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "shape", [(32767, 32767, 32767, 4), (20000, 20000, 2, 4), (91, 109, 91, 32767), (1, 1, 0, 4)]
)
def test_headers_that_claim_too_much(tmp_path, shape, suffix):
    path = write_header(tmp_path / "x.nii.gz", shape=shape)
    if suffix == ".nii":  # a header without its data
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes())[:1000])
        path = path.with_suffix("")
    with bounded():
        problem = run_header(path).problem
        assert problem or shape == (91, 109, 91, 32767)  # long, but a run might be
        with pytest.raises(RunError, match=CLAIMS):
            list(checked_blocks(open_run(RunFiles(path)), str(path)))
        for role in ("mask", "warp"):
            good = tmp_path / "good.nii.gz"
            nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 3), np.int16), FSL), good)
            with pytest.raises(RunError):
                open_run(RunFiles(good, **{role: path}))


def test_a_header_of_an_absurd_number_of_frames(tmp_path):
    header = nib.Nifti2Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((91, 109, 91, 2**40))
    header.set_sform(FSL, 4)
    header["vox_offset"] = 544
    data = header.binaryblock + bytes(4)
    plain, packed = tmp_path / "x.nii", tmp_path / "x.nii.gz"
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    with bounded():
        assert "1,099,511,627,776 whole frames, got 0" in run_header(plain).problem
        assert "at most 1,048,576 frames" in run_header(packed).problem


def test_gzip_data_that_go_on_for_gigabytes(tmp_path):
    """The header tells of little; zeros follow."""
    small = write_header(tmp_path / "x.nii.gz", shape=(4, 4, 4, 3)).read_bytes()
    start = gzip.decompress(small) + bytes(4 * 4 * 4 * 3 * 2)
    path = tmp_path / "bomb.nii.gz"
    zeros = gzip.compress(bytes(2**24), 1)
    path.write_bytes(gzip.compress(start, 1) + 128 * zeros)  # 2 GB
    with bounded():
        assert run_header(path, native_ok=True).n_frames == 3
        for load in (lambda: list(open_run(RunFiles(path)).blocks()),
                     lambda: read_image(path, "brain mask")):  # fmt: skip
            with pytest.raises(
                RunError, match=r"follow what the header tells of|or more after these"
            ):
                load()
    gifti = tmp_path / "x.func.gii.gz"
    gifti.write_bytes(32 * zeros)
    with bounded():
        assert run_header(gifti, gifti).n_frames == 0


def test_arrays_of_a_gifti_file_that_unpack_to_gigabytes(tmp_path):
    import base64
    import zlib

    packing = zlib.compressobj(1)
    bomb = b"".join(packing.compress(bytes(2**24)) for _ in range(64)) + packing.flush()
    array = nib.gifti.GiftiDataArray(np.ones(8, np.float32), "NIFTI_INTENT_TIME_SERIES")
    whole = nib.GiftiImage(darrays=[array, array]).to_xml()
    path = tmp_path / "x.func.gii"
    path.write_bytes(whole)
    assert open_run(RunFiles(path, right=path)).n_frames == 2
    begin, end = whole.index(b"<Data>") + 6, whole.index(b"</Data>")
    for data, dims, words in [
        (base64.b64encode(bomb), b'Dim0="8"', "more than 32 bytes, where it has 32"),
        (whole[begin:end], b'Dim0="800000000000"', "fit the memory"),
        (whole[begin:end], b'Dim0="9"', "32 bytes, where it has 36"),
    ]:
        changed = (whole[:begin] + data + whole[end:]).replace(b'Dim0="8"', dims, 1)
        path.write_bytes(changed)
        with bounded(), pytest.raises(RunError, match=words):
            open_run(RunFiles(path, right=path))


def test_less_than_a_frame_more_than_the_header_tells_of_is_read(tmp_path):
    values = np.random.default_rng(0).integers(1, 9, (4, 4, 4, 3)).astype(np.int16)
    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(values, NATIVE), path)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(100)))
    blocks = list(checked_blocks(open_run(RunFiles(path)), str(path)))
    np.testing.assert_array_equal(np.concatenate(blocks), values.reshape(-1, 3, order="F").T)


def test_arrays_of_a_gifti_file_are_counted_across_parts(tmp_path, monkeypatch):
    from fmritok.pipeline.headers import surface as surface_headers

    text = b"<GIFTI>" + b"".join(b'<DataArray Dim0="7">%s</DataArray>' % (b"x" * n)
                                 for n in range(200)) + b"</GIFTI>"  # fmt: skip
    (tmp_path / "x.func.gii").write_bytes(text)
    for part, overlap in ((1, 64), (37, 64), (1000, 128)):
        monkeypatch.setattr(surface_headers, "_TEXT_PART", part)
        monkeypatch.setattr(surface_headers, "_TEXT_OVERLAP", overlap)
        assert read_gifti_header(tmp_path / "x.func.gii").n_frames == 200


def test_a_mask_is_read_as_before(tmp_path, data):
    path = next((data / "bold_mni").glob("*mask*.nii.gz"), None)
    if path is None:
        pytest.skip("no mask in the test data")
    header, values = read_image(path, "brain mask")
    np.testing.assert_array_equal(values, nib.load(path).get_fdata())
    assert header.shape == values.shape


def test_members_of_zip_files_are_hashed_as_stored(tmp_path, image):
    path = download(tmp_path, 1000001, {IMAGE: image}) / IMAGE
    with open_binary(path) as raw:
        file = HashedFile(raw, path)
        assert len(file.read(540)) == 352
        file.finish()
    import hashlib

    assert file.sha256 == hashlib.sha256(image).hexdigest()


def test_atlases_templates_and_weights_are_files(tmp_path):
    from fmritok.errors import AtlasError, FmritokError, WeightsError
    from fmritok.tokenizers.flatmap.cortex import _gifti, load_template
    from fmritok.tokenizers.network.atlas import load_atlas
    from fmritok.tokenizers.network.labels import label_image
    from fmritok.tokenizers.vae.weights import Weights

    for name in ("atlas.tsv", "template.yaml", "config.json", "x.nii", "x.gii"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(AtlasError, match="not a file"):
        load_atlas(str(tmp_path))
    with pytest.raises(AtlasError, match="not a file"):
        label_image(tmp_path / "x.nii")
    with pytest.raises(FmritokError, match="not a file"):
        load_template(str(tmp_path))
    with pytest.raises(FmritokError, match="not a file"):
        _gifti(tmp_path / "x.gii")
    with pytest.raises(WeightsError, match="not a file"):
        _ = Weights("x", "", tmp_path).config
