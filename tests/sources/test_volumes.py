"""Runs are read once, exactly, and what is wrong with a file is said in one sentence."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fmritok.errors import RunError
from fmritok.pipeline.headers.placement import Placement, not_in_mni
from fmritok.pipeline.headers.run_header import header_problem, read_header
from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.tokenizers.grid import AFFINE, ORIGIN_MM, SHAPE

FSL = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])


def save(path: Path, values, affine=FSL, *, tr=0.72, dtype=np.int16, slope=None) -> Path:
    image = nib.Nifti1Image(values.astype(dtype), affine)
    image.header.set_xyzt_units("mm", "sec")
    if values.ndim == 4:
        image.header.set_zooms((*np.abs(np.diag(affine))[:3], tr))
    if slope:
        image.header.set_slope_inter(*slope)
    nib.save(image, path)
    return path


def run(rng, frames=6, shape=(91, 109, 91)):
    base = rng.integers(0, 3000, shape)
    return np.stack([base + 5 * t for t in range(frames)], axis=-1)


def voxel_at(affine, mm):
    return tuple(np.round(np.linalg.inv(affine) @ [*mm, 1])[:3].astype(int))


@pytest.mark.parametrize("name", ["r.nii.gz", "r.nii"])
@pytest.mark.parametrize("slope", [None, (0.5, 0), (0.5, 7)])
def test_frames_equal_what_nibabel_reads(tmp_path, rng, name, slope):
    path = save(tmp_path / name, run(rng), slope=slope)
    loaded = np.asarray(nib.load(path).dataobj)
    volumes = RunVolumes.read(path)
    frames = np.concatenate([block for _, block in volumes.blocks(4)])
    assert frames.shape == (6, *SHAPE)
    assert frames.dtype == np.float32
    for mm in [(-60, 20, 10), (0, 0, 0), (62, -100, -72), (30, 78, 100)]:
        inside = frames[:, *voxel_at(AFFINE, mm)]
        np.testing.assert_allclose(inside, loaded[*voxel_at(FSL, mm)], rtol=1e-6)
    assert volumes.placement.exact
    assert volumes.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert frames[:, 0, 0, 0].max() == 0


def test_statistics_equal_float64(tmp_path, rng):
    values = rng.integers(900, 1100, (91, 109, 91, 8))
    volumes = RunVolumes.read(save(tmp_path / "r.nii.gz", values), voxel_statistics=True)
    frames = np.concatenate([block for _, block in volumes.blocks()]).astype(np.float64)
    found = volumes.statistics
    assert found.maximum == frames.max()
    np.testing.assert_allclose(found.mean, frames.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.std, frames.std(0), rtol=1e-4, atol=1e-4)


def test_the_box_holds_the_brain_masks(data):
    for name in ("templates/MNI152_T1_2mm_brain_mask_dil.nii.gz",
                 "bold_mni/space-MNI2mm91x109x91_desc-brain_mask.nii.gz",
                 "templates/tpl-MNI152NLin2009cAsym_res-02_desc-brain_mask.nii.gz"):  # fmt: skip
        mask = nib.load(data / name)
        mm = nib.affines.apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) > 0))
        assert (mm.min(0) >= ORIGIN_MM).all()
        assert (mm.max(0) <= np.array(ORIGIN_MM) + 2 * 95).all()


@pytest.mark.parametrize("flips", [(-1, 1, 1), (1, 1, 1), (-1, -1, 1)])
def test_flipping_keeps_every_voxel_at_its_place(flips, rng):
    """A voxel's value depends on its millimetres, however the file is oriented."""
    shape = (91, 109, 91)
    affine = np.diag([*(2.0 * np.array(flips)), 1])
    affine[:3, 3] = [90 if flips[0] < 0 else -90, 90 if flips[1] < 0 else -126, -72]
    mm = nib.affines.apply_affine(affine, np.argwhere(np.ones(shape)))
    volume = (mm @ [1, 1000, 1e6]).reshape(1, *shape)
    placed = Placement(affine, shape).place(volume)[0]
    inside = placed != 0
    where = nib.affines.apply_affine(AFFINE, np.argwhere(inside))
    np.testing.assert_allclose(placed[inside], where @ [1, 1000, 1e6])
    assert inside.sum() > 91 * 90 * 86


def test_other_grids_are_resampled_by_their_affine(data, tmp_path):
    real = next((data / "bold_mni").glob("*sf02*res-3*bold.nii.gz"))
    path = tmp_path / "r.nii"
    nib.save(nib.load(real).slicer[..., :3], path)
    volumes = RunVolumes.read(path)
    first = next(volumes.blocks(1))[1][0]
    image = nib.load(path)
    reference = np.asarray(image.dataobj[..., 0], dtype=np.float64)
    # where a canonical voxel and a source voxel coincide, trilinear keeps the value
    for index in [(20, 30, 30), (32, 40, 25)]:
        mm = nib.affines.apply_affine(image.affine, index)
        place = (mm - ORIGIN_MM) / 2
        low = np.floor(place).astype(int)
        near = first[low[0] : low[0] + 2, low[1] : low[1] + 2, low[2] : low[2] + 2]
        assert near.min() <= reference[index] * 1.2
        assert near.max() >= reference[index] * 0.8
    assert "trilinear" in volumes.placement.description


def test_native_space_is_refused(data):
    for path in (data / "bold_native").glob("*.nii.gz"):
        header = read_header(path)
        assert "expected a volume in MNI space" in header_problem(header, path)
    ukb_native = np.diag([-2.4, 2.4, 2.4, 1.0])
    assert not_in_mni((88, 88, 64), ukb_native)


@pytest.mark.parametrize(
    ("shape", "tr", "words"),
    [
        ((91, 109, 91), 0.72, "four dimensions"),
        ((91, 109, 91, 1), 0.72, "at least two frames"),
    ],
)
def test_headers_that_cannot_be_a_run(tmp_path, shape, tr, words):
    path = save(tmp_path / "r.nii", np.ones(shape), tr=tr)
    assert words in header_problem(read_header(path), path)


def test_milliseconds_become_seconds(tmp_path):
    image = nib.Nifti1Image(np.ones((2, 2, 2, 2), np.int16), FSL)
    image.header.set_xyzt_units("mm", "msec")
    image.header.set_zooms((2, 2, 2, 720))
    nib.save(image, tmp_path / "r.nii")
    assert read_header(tmp_path / "r.nii").tr == pytest.approx(0.72)


def test_truncated_gzip(tmp_path, rng):
    path = save(tmp_path / "r.nii.gz", run(rng))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RunError, match=r"r\.nii\.gz: expected 6 whole frames, got \d+"):
        RunVolumes.read(path)


def test_truncated_nifti_and_damaged_gzip(tmp_path, rng):
    plain = save(tmp_path / "r.nii", run(rng))
    plain.write_bytes(plain.read_bytes()[:-5])
    with pytest.raises(RunError, match="6 whole frames, got 5"):
        RunVolumes.read(plain)
    packed = save(tmp_path / "d.nii.gz", run(rng))
    broken = bytearray(packed.read_bytes())
    broken[len(broken) // 2] ^= 0xFF
    packed.write_bytes(broken)
    with pytest.raises(RunError, match="Copy or download it again"):
        RunVolumes.read(packed)


def test_no_image_at_all(tmp_path):
    path = tmp_path / "r.nii.gz"
    path.write_bytes(gzip.compress(b"hello" * 200))
    with pytest.raises(RunError, match="readable NIfTI header"):
        read_header(path)
    path.write_bytes(b"")
    with pytest.raises(RunError, match="readable NIfTI header"):
        read_header(path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda v: v.__setitem__((40, 50, 40, 3), np.nan), "Frame 3 of .* 1 NaN"),
        (lambda v: v.__imul__(0), "nothing but 0"),
        (lambda v: v.__setitem__(..., v[..., :1]), "the same in every frame"),
    ],
)
def test_runs_without_usable_intensities(tmp_path, rng, spoil, words):
    values = run(rng, 4).astype(np.float32)
    spoil(values)
    path = save(tmp_path / "r.nii.gz", values, dtype=np.float32)
    with pytest.raises(RunError, match=words):
        RunVolumes.read(path)
