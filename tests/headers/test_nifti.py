"""Headers of every kind: read as nibabel reads them, or refused with advice that fits the file."""

from __future__ import annotations

import gzip
import struct
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from images import AFFINE, FIELDS, SHAPE, bids_path, change, replaced, series, write_image

from fmritok.cli import main
from fmritok.errors import MachineError, RunError
from fmritok.pipeline.catalog import cohort as catalog_module
from fmritok.pipeline.catalog.cohort import RunFile
from fmritok.pipeline.datasets import get_adapter
from fmritok.pipeline.headers.run_header import read_header, run_header
from fmritok.pipeline.sources.checking import checked_blocks
from fmritok.pipeline.sources.opening import RunFiles, open_run

NAN = float("nan")


def values(path: Path) -> np.ndarray:
    source = open_run(RunFiles(str(path)))
    blocks = np.concatenate(list(checked_blocks(source, str(path))))
    return blocks * np.float32(source.slope) + np.float32(source.intercept)


def flat(data: np.ndarray) -> np.ndarray:
    return data.reshape(-1, data.shape[-1], order="F").T


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
@pytest.mark.parametrize("size", [8, 2000, 300_000])
def test_extensions_of_any_size_are_read_over(tmp_path, extension, size):
    data = series()
    image = nib.Nifti1Image(data, None)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("afni", b"x" * size))
    image.header.set_sform(AFFINE, 4)
    image.header.set_zooms((10, 10, 10, 2.0))
    path = tmp_path / f"r{extension}"
    nib.save(image, path)
    assert run_header(path).problem == ""
    np.testing.assert_array_equal(values(path), flat(data))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_both_kinds_in_both_byte_orders_equal_nibabel(tmp_path, kind, order, dtype):
    image = kind((series() / 5).clip(0, 254).astype(dtype), None)
    header = image.header.as_byteswapped(order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    header.set_sform(AFFINE, 4)
    header.set_zooms((10, 10, 10, 2.0))
    path = tmp_path / "r.nii.gz"
    nib.save(kind(np.asarray(image.dataobj), None, header), path)
    found, loaded = read_header(path), nib.load(path)
    assert (found.shape, found.tr, found.questions) == (loaded.shape, 2.0, ())
    np.testing.assert_array_equal(found.affine, loaded.affine)
    np.testing.assert_array_equal(values(path), flat(np.asarray(loaded.dataobj)))


@pytest.mark.parametrize("at", [3, 4])
def test_five_axes_one_of_them_of_length_one_are_the_squeezed_file(tmp_path, at):
    data = series()
    four = write_image(tmp_path / "four.nii.gz", data)
    five = write_image(tmp_path / "five.nii.gz", np.expand_dims(data, at))
    assert run_header(five) == run_header(four)
    np.testing.assert_array_equal(values(five), values(four))


@pytest.mark.parametrize(
    ("shape", "words"),
    [((*SHAPE, 1, 1), "four dimensions, got shape (15, 18, 15)"), ((*SHAPE, 2, 2), "four dim")],
)
def test_five_axes_that_are_no_series(tmp_path, shape, words):
    path = write_image(tmp_path / "r.nii.gz", np.ones(shape, np.int16))
    assert words in run_header(path).problem


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dim": (9, 15, 18, 15, 4, 1, 1, 1)}, "number of axes (dim[0]) of 1 to 7, got 9"),
        ({"dim": (4, 15, -18, 15, 4, 1, 1, 1)}, "three axes of at least one voxel each"),
        ({"dim": (2, 15, 18, 15, 4, 1, 1, 1)}, "three axes"),
        ({"sizeof_hdr": 1}, "got other data"),
        ({"magic": b"ni1\0"}, "got the header of a pair of files. Convert it to one .nii.gz"),
        ({"magic": b"\0\0\0\0"}, "got an ANALYZE header, which has no position of voxels"),
        ({"magic": b"abc\0"}, "an unknown kind of header"),
        ({"vox_offset": NAN}, "(vox_offset), got nan"),
        ({"vox_offset": 100.0}, "data from byte 352 or later (vox_offset), got 100"),
        ({"vox_offset": 1e9}, "a vox_offset of 1000000000"),
        (
            {"scl_inter": NAN, "scl_slope": 2.0},
            "an intercept (scl_inter) that is a number, got nan",
        ),
        ({"scl_slope": float("inf")}, "a slope (scl_slope) that is a number, got inf"),
        ({"datatype": 32, "bitpix": 64}, "real intensities, got complex ones. Give the magnitude"),
        ({"datatype": 128, "bitpix": 24}, "integers or floats of at most 64 bits, got colours"),
        ({"datatype": 1536, "bitpix": 128}, "got datatype 1536"),
        ({"datatype": 77}, "a datatype that NIfTI knows, got 77"),
        ({"intent_code": 3002}, "got a CIFTI file. Name it .dtseries.nii, and use --input surface"),
        ({"dim": (4, 15, 18, 15, 5, 1, 1, 1)}, "expected 5 whole frames, got 4 in its"),
        ({"dim": (4, 15, 18, 15, 3, 1, 1, 1)}, "expected 3 whole frames, got 4 in its"),
    ],
)
def test_headers_that_cannot_be_true_are_refused(tmp_path, fields, words):
    path = write_image(tmp_path / "r.nii", **fields)
    problem = run_header(path).problem
    assert words in problem
    assert str(path) in problem


def test_no_scaling_is_written_in_several_ways(tmp_path):
    for slope in (0.0, NAN, 1.0):
        path = write_image(tmp_path / "r.nii", scl_slope=slope)
        header = read_header(path)
        assert (header.slope, header.intercept) == (1.0, 0.0)


def test_what_is_doubtful_in_a_header_is_named(tmp_path):
    for fields, words in (
        ({"bitpix": 7}, "bitpix does not fit its datatype"),
        ({"scl_slope": -1.0}, "scl_slope) is negative"),
        ({"toffset": 3.0}, "another time than 0 (toffset)"),
        ({"xyzt_units": 2 + 32}, "not in units of time: no repetition time"),
    ):
        found = run_header(write_image(tmp_path / "r.nii", **fields))
        assert found.problem == ""
        assert words in found.questions[0]
    assert np.isnan(found.tr)


def test_names_that_do_not_say_truly_whether_a_file_is_compressed(tmp_path):
    packed = write_image(tmp_path / "packed.nii.gz")
    plain = write_image(tmp_path / "plain.nii")
    wrong = packed.rename(tmp_path / "r.nii")
    assert "got gzip data. Rename it to r.nii.gz." in run_header(wrong).problem
    wrong = plain.rename(tmp_path / "s.nii.gz")
    assert "got a NIfTI file that is not compressed. Rename it to s.nii." in (
        run_header(wrong).problem
    )
    wrong.write_bytes(b"hello")
    assert "expected a readable NIfTI header, got no gzip data" in run_header(wrong).problem
    wrong.write_bytes(b"")
    assert "got 0 bytes in all" in run_header(wrong).problem


def test_what_follows_the_data_is_named_for_what_it_is(tmp_path):
    path = write_image(tmp_path / "r.nii.gz")
    whole = path.read_bytes()
    for tail in (b"x", b"padding of a tape"):
        path.write_bytes(whole + tail)
        with pytest.raises(RunError, match="nothing after its gzip data, got other bytes. Unpack"):
            values(path)
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:9999]) + gzip.compress(
        gzip.decompress(whole)[9999:]))  # fmt: skip
    assert len(values(path)) == 4  # two members are one file
    path.write_bytes(whole[:-4])  # gzip's length is missing
    with pytest.raises(RunError, match="expected 4 whole frames, got .* Copy or download it again"):
        values(path)
    path.write_bytes(whole)
    change(path, lambda content: content + bytes(16))  # less than a frame
    assert len(values(path)) == 4
    change(path, lambda content: replaced(content, dim=(4, *SHAPE, 2, 1, 1, 1)))
    with pytest.raises(RunError, match="expected 2 frames, as its header says, got 1 or more"):
        values(path)


def test_a_cut_off_file_in_every_place(tmp_path):
    """Whatever is left of a file, it is refused by name, in the catalogue or by tokenize."""
    for extension in (".nii", ".nii.gz"):
        path = write_image(tmp_path / f"r{extension}")
        whole = path.read_bytes()
        for size in [*range(0, 400, 7), len(whole) // 2, len(whole) - 1]:
            path.write_bytes(whole[:size])
            if not run_header(path).problem:
                with pytest.raises(RunError, match=path.name):
                    values(path)


def test_one_odd_file_does_not_end_the_catalogue(tmp_path, monkeypatch):
    """Any exception while a file is looked at is that file's reason; the machine's are not."""
    for sub in ("01", "02"):
        write_image(bids_path(tmp_path, sub))

    def broken(path, *_):
        if "sub-01" in str(path):
            raise error
        return original(path, *_)

    for module, name in (
        ("headers.run_header", "file_start"),
        ("catalog.run_checks", "file_stamp"),
    ):
        where = f"fmritok.pipeline.{module}.{name}"
        original = getattr(__import__(f"fmritok.pipeline.{module}", fromlist=[name]), name)
        for error in (ZeroDivisionError("x"), RecursionError("deep"), KeyError("k"), OSError("io")):
            with monkeypatch.context() as patch:
                patch.setattr(where, broken)
                problems = get_adapter("bids")(tmp_path).runs["problem"].tolist()
            assert (str(error) if isinstance(error, OSError) else type(error).__name__) in problems[
                0
            ]
            assert str(bids_path(tmp_path)) in problems[0]
            assert problems[1] == ""
        error = OSError(24, "Too many open files")
        with monkeypatch.context() as patch:
            patch.setattr(where, broken)
            with pytest.raises(MachineError, match="Too many open files"):
                get_adapter("bids")(tmp_path)


def test_every_file_of_a_run_is_looked_at(tmp_path):
    path = write_image(tmp_path / "r.nii.gz")
    gone = tmp_path / "warp.nii.gz"
    gone.symlink_to(tmp_path / "annex")
    look = catalog_module._look(RunFile("x", "1", path, warp=gone), None)
    assert str(gone) in look.problem
    assert "a link to content that is not there" in look.problem


def test_other_libraries_print_nothing(tmp_path, capfd):
    write_image(bids_path(tmp_path), pixdim0=0.0, sform_code=77, bitpix=7)
    write_image(bids_path(tmp_path, "02"), sizeof_hdr=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = CliRunner().invoke(main, ["catalog", "--dataset", "bids", "--root", str(tmp_path)])
    assert result.exit_code == 0
    assert "pixdim[0]" not in result.output
    assert capfd.readouterr().err == ""


#: What no check can see in one file: another number that is as plausible.
UNSEEN = ("tr", "scl_slope", "scl_inter")


def test_headers_with_random_damage(fast_folder):
    """Thousands of damaged headers: no exception, and no other geometry without a word.

    A voxel that moves by less than a twentieth of its size is not seen, nor a type of the same size
    (int16, uint16), nor another repetition time, slope or intercept that is as plausible.
    """
    path = write_image(fast_folder / "r.nii", tr=2.0)
    whole = path.read_bytes()
    before = read_header(path)
    corners = np.array([[0, 0, 0, 1], [14, 0, 0, 1], [0, 17, 0, 1], [14, 17, 14, 1]]).T
    rng = np.random.default_rng(7)
    seen = 0
    for trial in range(6000):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(0, 352))
            content[at] = content[at] ^ (1 << rng.integers(8)) if trial % 2 else rng.integers(256)
        path.write_bytes(content)
        found = run_header(path)
        if found.problem or found.questions:
            seen += 1
            continue
        after = read_header(path)
        assert after.shape == before.shape, bytes(content[:352])
        assert (after.offset, after.dtype.itemsize) == (before.offset, before.dtype.itemsize)
        assert np.abs((after.affine - before.affine) @ corners).max() < 0.05 * 10 + 1e-6
    assert seen > 1000
    path.write_bytes(whole)
    assert run_header(path).questions == ()
    assert set(UNSEEN) < set(FIELDS)


def test_random_bytes_are_no_header(fast_folder):
    path = fast_folder / "r.nii"
    rng = np.random.default_rng(3)
    for start in (b"", struct.pack("<i", 348), struct.pack(">i", 540)):
        for _ in range(300):
            path.write_bytes(start + rng.bytes(600))
            assert run_header(path).problem
            packed = path.with_suffix(".nii.gz")
            packed.write_bytes(gzip.compress(path.read_bytes(), 1))
            assert run_header(packed).problem
            cifti = path.with_suffix(".dtseries.nii")
            cifti.write_bytes(path.read_bytes())
            assert run_header(cifti).problem
