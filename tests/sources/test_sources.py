"""Every kind of run file: read exactly, also out of zip files; damage is one clear error."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fmritok.errors import RunError
from fmritok.pipeline.headers.run_header import RunHeader, run_header
from fmritok.pipeline.headers.timing import repetition_time
from fmritok.pipeline.sources.checking import checked_blocks
from fmritok.pipeline.sources.opening import RunFiles, open_run
from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.pipeline.sources.warp import source_voxels
from fmritok.tokenizers.grid import AFFINE, SHAPE
from fmritok.tokenizers.spaces import VolumeSpace

FSL = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])


def read_all(files: RunFiles) -> np.ndarray:
    return np.concatenate(list(checked_blocks(open_run(files), files.path)))


@pytest.fixture
def cifti(data):
    return next((data / "cifti").glob("*.dtseries.nii"))


@pytest.fixture
def gifti(data):
    return tuple(sorted((data / "gifti_func").glob("*.gii")))


def test_grayordinates_equal_nibabel(cifti):
    source = open_run(RunFiles(cifti))
    values = read_all(RunFiles(cifti))
    np.testing.assert_array_equal(values, nib.load(cifti).get_fdata(dtype=np.float32))
    axis = nib.load(cifti).header.get_axis(1)
    left = source.space.columns(0)
    np.testing.assert_array_equal(axis.vertex[left[left >= 0]], np.flatnonzero(left >= 0))
    voxel = np.flatnonzero(source.space.part < 0)
    mm = axis.voxel[voxel] @ axis.affine[:3, :3].T + axis.affine[:3, 3]
    np.testing.assert_allclose(source.space.mm[voxel], mm)


def test_a_gifti_pair_equals_nibabel(gifti):
    values = read_all(RunFiles(*gifti))
    for path, part in zip(gifti, (values[:, :10242], values[:, 10242:]), strict=True):
        np.testing.assert_array_equal(part, np.asarray(nib.load(path).agg_data()).T)


def test_headers_tell_frames_and_seconds(cifti, gifti, data):
    assert run_header(cifti) == RunHeader(16, 2.0)
    pair = run_header(*gifti)
    assert (pair.n_frames, pair.problem) == (16, "")
    problem = repetition_time(pair.tr, gifti[0]).problem  # written in s instead of ms
    assert "got 0.002 s. Repair the header (these look like seconds" in problem
    assert "left and a right" in run_header(gifti[0]).problem
    native = next((data / "bold_native").glob("*sf02*.nii.gz"))
    found = run_header(native)
    assert (found.n_frames, found.tr) == (156, 2.0)
    assert (
        "expected a volume in MNI space, got an oblique grid, as in native space" in found.problem
    )
    assert run_header(native, native_ok=True).problem == ""


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_zip_files_are_read_like_files(data, cifti, tmp_path, compression):
    volume = next((data / "bold_mni").glob("*rtc1*bold.nii.gz"))
    archive = tmp_path / "1000001_20227_2_0.zip"
    with zipfile.ZipFile(archive, "w", compression) as zipped:
        zipped.write(volume, "fMRI/rfMRI.ica/run.nii.gz")
        zipped.write(cifti, "surf/run.dtseries.nii")
    for member, path in (("fMRI/rfMRI.ica/run.nii.gz", volume), ("surf/run.dtseries.nii", cifti)):
        inside = archive / member
        assert run_header(inside) == run_header(path)
        source = open_run(RunFiles(inside))
        values = np.concatenate(list(source.blocks()))
        np.testing.assert_array_equal(values, read_all(RunFiles(path)))
        assert source.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(RunError, match="no such member"):
        open_run(RunFiles(archive / "fMRI/gone.nii.gz"))


def test_a_truncated_cifti_is_one_clear_error(cifti, tmp_path):
    cut = tmp_path / "cut.dtseries.nii"
    cut.write_bytes(cifti.read_bytes()[:-1000])
    with pytest.raises(
        RunError, match=r"cut.dtseries.nii: expected [\d,]+ bytes of 16 frames.*Copy"
    ):
        read_all(RunFiles(cut))
    cut.write_bytes(cifti.read_bytes()[:5000])
    with pytest.raises(RunError, match="CIFTI-2 time series"):
        open_run(RunFiles(cut))
    cut.write_bytes(cifti.read_bytes()[:600])
    assert "CIFTI-2" in run_header(cut).problem


def test_other_nifti_files_are_no_cifti(data, tmp_path):
    fake = tmp_path / "x.dtseries.nii"
    fake.write_bytes(gzip.decompress(next((data / "bold_mni").glob("*mask*")).read_bytes()))
    with pytest.raises(RunError, match="CIFTI-2 time series"):
        open_run(RunFiles(fake))


def test_hemispheres_of_different_length_are_refused(gifti, tmp_path):
    image = nib.load(gifti[1])
    short = tmp_path / "short_hemi-R.func.gii"
    nib.save(nib.GiftiImage(darrays=image.darrays[:9]), short)
    with pytest.raises(RunError, match="same number of frames, got 16 left and 9 right"):
        open_run(RunFiles(gifti[0], short))


def test_a_truncated_gifti_is_one_clear_error(gifti, tmp_path):
    cut = tmp_path / "cut.func.gii"
    cut.write_bytes(gifti[0].read_bytes()[:200_000])
    with pytest.raises(RunError, match=r"cut.func.gii: expected a whole GIFTI file.*Copy"):
        open_run(RunFiles(cut, gifti[1]))


def test_surface_values_that_are_not_finite_name_the_frame(gifti, tmp_path):
    image = nib.load(gifti[0])
    image.darrays[5].data[17] = np.nan
    spoiled = tmp_path / "nan_hemi-L.func.gii"
    nib.save(image, spoiled)
    with pytest.raises(RunError, match="Frame 5 of .*: expected finite intensities, got 1 NaN"):
        read_all(RunFiles(spoiled, gifti[1]))


def save(path: Path, values: np.ndarray, affine: np.ndarray, intent: int = 0) -> Path:
    image = nib.Nifti1Image(values, affine)
    image.header["intent_code"] = intent
    image.header.set_xyzt_units("mm", "sec")
    if values.ndim == 4:
        image.header.set_zooms((*np.linalg.norm(affine[:3, :3], axis=0), 0.735))
    nib.save(image, path)
    return path


def test_a_mask_clears_what_lies_outside(tmp_path, rng):
    values = rng.integers(1, 900, (20, 22, 20, 3)).astype(np.int16)
    mask = np.zeros((20, 22, 20), np.uint8)
    mask[5:9, 5:9, 5:9] = 1
    affine = np.diag([2.0, 2, 2, 1])
    run = save(tmp_path / "run.nii.gz", values, affine)
    inside = save(tmp_path / "mask.nii.gz", mask, affine)
    found = read_all(RunFiles(run, mask=inside))
    expected = (values * mask[..., None]).reshape(-1, 3, order="F").T
    np.testing.assert_array_equal(found, expected)
    other = save(tmp_path / "other.nii.gz", mask[:-1], affine)
    with pytest.raises(RunError, match="the grid of the run.*19x22x20"):
        open_run(RunFiles(run, mask=other))


NATIVE = VolumeSpace((44, 44, 32), np.array(
    [[-4.8, 0.2, 0, 103], [0.2, 4.8, 0.3, -110], [0, -0.3, 4.8, -60], [0, 0, 0, 1]]))  # fmt: skip


@pytest.mark.parametrize("flipped", [False, True], ids=["radiological", "neurological"])
@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_warps_lead_where_fslpy_says(tmp_path, rng, flipped, kind):
    """The conventions of FSL's millimetres, against FSL's own library."""
    fnirt = pytest.importorskip("fsl.transform.fnirt")
    from fsl.data.image import Image
    from scipy.ndimage import gaussian_filter

    native = NATIVE.affine.copy()
    if flipped:
        native = native @ np.array([[-1, 0, 0, 43], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    shape, reference = (46, 55, 46), FSL.copy()
    reference[:3, :3] *= 2
    displacement = gaussian_filter(rng.standard_normal((*shape, 3)), (4, 4, 4, 0)) * 60
    displacement += 8
    field = displacement.astype(np.float32)
    if kind == "absolute":
        ijk = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        field = (field + ijk * 4.0).astype(np.float32)
    warp = save(tmp_path / "warp.nii.gz", field, reference, intent=2006)
    source = save(tmp_path / "func.nii.gz", np.zeros(NATIVE.shape, np.float32), native)
    found = source_voxels(field.astype(np.float64), reference, VolumeSpace(NATIVE.shape, native))
    loaded = fnirt.readFnirt(str(warp), Image(str(source)), Image(str(warp)))
    points = rng.integers(5, 40, (50, 3))
    mm = points @ np.abs(reference[:3, :3]).T  # the reference is radiological: no flip
    exact = loaded.transform(mm, from_="fsl", to="voxel")
    np.testing.assert_allclose(found[tuple(points.T)], exact, atol=1e-3)


def test_a_native_run_lands_where_its_warp_leads(tmp_path):
    """A bright voxel of the native run appears at the place that maps to it, at full height."""
    shape, reference = (91, 109, 91), FSL
    values = np.full((*NATIVE.shape, 3), 10, np.int16)
    values[20:23, 21:24, 15:18] = 1000
    values[..., 1] += 1
    run = save(tmp_path / "filtered_func_data_clean.nii.gz", values, NATIVE.affine)
    # A shift between both images' FSL millimetres that takes (0, 0, 0) mm to the bright voxel.
    at = np.linalg.inv(reference) @ [0, 0, 0, 1]
    shift = np.array([21, 22, 16]) * np.linalg.norm(NATIVE.affine[:3, :3], axis=0) - at[:3] * 2
    warp = save(
        tmp_path / "warp.nii.gz",
        np.broadcast_to(shift, (*shape, 3)).astype(np.float32),
        reference,
        intent=2006,
    )
    files = RunFiles(run, warp=warp)
    source = open_run(files)
    assert source.space.shape == SHAPE
    volumes = RunVolumes(source)
    for block in checked_blocks(source, str(run)):
        volumes.add(block)
    _, frames = next(volumes.blocks())
    voxel = tuple(int(round(v)) for v in (np.linalg.inv(AFFINE) @ [0, 0, 0, 1])[:3])
    assert frames[0][voxel] == pytest.approx(1000)
    assert frames[1][voxel] == pytest.approx(1001)
    # 4.8 mm voxels: 30 mm to the left is background.
    assert frames[0][voxel[0] - 15, voxel[1], voxel[2]] == pytest.approx(10)
    assert "warped from native space" in volumes.description


def test_warps_that_do_not_belong_are_refused(tmp_path):
    run = save(tmp_path / "run.nii.gz", np.ones((*NATIVE.shape, 2), np.int16), NATIVE.affine)
    far = save(tmp_path / "far.nii.gz", np.full((91, 109, 91, 3), 900, np.float32), FSL, 2006)
    with pytest.raises(RunError, match=r"a warp into run.nii.gz.*0% of the MNI grid"):
        open_run(RunFiles(run, warp=far))
    coefficients = save(tmp_path / "c.nii.gz", np.zeros((91, 109, 91, 3), np.float32), FSL, 2007)
    with pytest.raises(RunError, match="spline coefficients.*convertwarp"):
        open_run(RunFiles(run, warp=coefficients))
    flat = save(tmp_path / "flat.nii.gz", np.zeros((91, 109, 91), np.float32), FSL)
    with pytest.raises(RunError, match="three displacements"):
        open_run(RunFiles(run, warp=flat))
    slab = save(tmp_path / "slab.nii.gz", np.zeros((20, 20, 20, 3), np.float32), FSL, 2006)
    with pytest.raises(RunError, match="reference in MNI space"):
        open_run(RunFiles(run, warp=slab))
