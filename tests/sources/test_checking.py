"""What the values of a run are: no data is no damage, and nothing is lost without a word."""

from __future__ import annotations

import warnings

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from images import SHAPE, bids_path, series, write_image, write_pair

from fmritok.cli import main
from fmritok.errors import RunError
from fmritok.pipeline.sources.checking import checked_blocks
from fmritok.pipeline.sources.opening import RunFiles, open_run
from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.pipeline.store.reader import TokenStore
from fmritok.tokenizers.vae.intensity import VolumeStatistics, fit_intensity

NAN = float("nan")


def read(path, **more) -> np.ndarray:
    source = open_run(RunFiles(path, **more))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blocks = list(checked_blocks(source, str(path)))
    return np.concatenate(blocks) * source.slope + source.intercept


def spoiled(path, spoil, frames=20, dtype=np.float32, **options):
    values = series(frames)
    spoil(values)
    return write_image(path, values.astype(dtype), **options)


def test_nan_in_every_frame_is_no_data(tmp_path):
    background = np.zeros(SHAPE, bool)
    background[:4] = True
    nan = spoiled(tmp_path / "nan.nii.gz", lambda v: v.__setitem__(background, NAN))
    zero = spoiled(tmp_path / "zero.nii.gz", lambda v: v.__setitem__(background, 0))
    np.testing.assert_array_equal(read(nan), read(zero))


def test_nan_with_an_intercept_becomes_the_stored_zero(tmp_path):
    path = spoiled(tmp_path / "r.nii.gz", lambda v: v.__setitem__(np.s_[:4], NAN),
                   scl_slope=2.0, scl_inter=8.0)  # fmt: skip
    outside = np.zeros(SHAPE, bool)
    outside[:4] = True
    assert (read(path)[:, outside.ravel(order="F")] == 0).all()


@pytest.mark.parametrize("frame", [0, 3, 15, 16, 19])
@pytest.mark.parametrize("background", [False, True])
def test_nan_in_some_frames_is_damage(tmp_path, frame, background):
    def spoil(values):
        if background:
            values[:4] = NAN
        values[5, 5, 5:9, frame] = NAN

    path = spoiled(tmp_path / "r.nii.gz", spoil)
    with pytest.raises(RunError, match=f"Frame {frame} of .*r.nii.gz: expected finite intensities, "
                       "got 4 NaN voxels that are finite in other frames"):  # fmt: skip
        read(path)


def test_nan_that_ends_is_damage_of_the_first_frame(tmp_path):
    path = spoiled(tmp_path / "r.nii.gz", lambda v: v.__setitem__(np.s_[5, 5, 5, :17], NAN))
    with pytest.raises(RunError, match="Frame 0 of .* got 1 NaN voxels"):
        read(path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda v: v.__setitem__(np.s_[3, 3, 3, 7], np.inf), "Frame 7 of .* 1 infinite ones"),
        (lambda v: v.__setitem__(..., NAN), "got NaN everywhere"),
        (lambda v: v.__imul__(0), "got nothing but 0"),
        (lambda v: v.__setitem__(..., v[..., :1]), "got the same in every frame"),
        (lambda v: v.__setitem__(np.s_[..., 17], 0), "Frame 17 of .*within a frame, got 0 in all"),
        (lambda v: v.__setitem__(np.s_[..., 4], 9), "Frame 4 of .*within a frame, got 9 in all"),
    ],
)
def test_values_that_are_no_run(tmp_path, spoil, words):
    with pytest.raises(RunError, match=words):
        read(spoiled(tmp_path / "r.nii.gz", spoil))


@pytest.mark.filterwarnings("error::RuntimeWarning")  # numpy's lines would reach the terminal
def test_values_beyond_float32(tmp_path):
    for factor, words in (
        (1e37, "got .*e.3[89]. Scale the run"),
        (1e-45, "float32.*, got .*e-4"),
        (1e304, "Scale the run"),  # their sum is no float64
    ):
        path = write_image(tmp_path / "r.nii.gz", series().astype(np.float64) * factor)
        with pytest.raises(RunError, match=words):
            read(path)
    path = write_image(tmp_path / "r.nii.gz", series().astype(np.int16), scl_slope=1e37)
    with pytest.raises(RunError, match="float32"):
        read(path)
    # the variation is lost in float32
    path = write_image(tmp_path / "r.nii.gz", np.round(series() / 100).astype(np.float64) + 1e12)
    with pytest.raises(RunError, match="got the same in every frame"):
        read(path)


@pytest.mark.parametrize(
    ("dtype", "limit"), [(np.int16, 32767), (np.uint8, 255), (np.int16, -32768)]
)
def test_integers_that_were_clipped(tmp_path, dtype, limit):
    values = np.clip(series() / 4, 0, 254).astype(dtype)
    values[0, 0, 0] = limit  # four of them may be the largest of a scaled file
    assert read(write_image(tmp_path / "r.nii.gz", values)).shape[0] == 4
    values[:6, 0, 0] = limit
    path = write_image(tmp_path / "r.nii.gz", values)
    with pytest.raises(RunError, match=rf"0\.1% of them at .*{abs(limit)}.*convert the run again"):
        read(path)


def test_a_mask_clears_to_zero_where_integers_have_none(tmp_path):
    """uint16 with a positive intercept: nothing that is stored means 0."""
    values = (series() * 10).astype(np.uint16)
    inside = np.zeros(SHAPE, np.uint8)
    inside[3:12, 3:12, 3:12] = 1
    mask = write_image(tmp_path / "m.nii.gz", inside)
    flat = inside.ravel(order="F").astype(bool)
    for dtype, intercept in ((np.uint16, 100.0), (np.int16, 100.0), (np.int16, 0.3)):
        path = write_image(tmp_path / "r.nii.gz", values.astype(dtype),
                           scl_slope=0.5, scl_inter=intercept)  # fmt: skip
        found = read(path, mask=mask)
        np.testing.assert_allclose(found[:, ~flat], 0, atol=1e-5)
        wanted = 0.5 * values.astype(dtype).reshape(-1, 4, order="F").T[:, flat] + intercept
        np.testing.assert_allclose(found[:, flat], wanted, rtol=1e-6)


def surface(frames=10, vertices=10242, seed=0):
    return 100 + np.random.default_rng(seed).standard_normal((frames, vertices)).astype(np.float32)


def test_nan_on_the_medial_wall_gives_the_tokens_of_zeros(tmp_path):
    for sub, fill in (("nan", NAN), ("zero", 0.0)):
        left, right = surface(), surface(seed=1)
        left[:, :888] = right[:, :888] = fill
        write_pair(tmp_path / "d", left, right, sub=sub)
    result = CliRunner().invoke(main, [
        "tokenize", "--dataset", "bids", "--input", "surface", "--root", str(tmp_path / "d"),
        "--store", str(tmp_path / "s.zarr"), "--tokenizer", "flatmap", "--executor", "serial",
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    group = TokenStore(tmp_path / "s.zarr").group("flatmap")
    nan, zero = (group.values(f"bids_sub-{sub}_task-rest") for sub in ("nan", "zero"))
    np.testing.assert_array_equal(nan, zero)


def test_nan_of_surfaces_is_counted_in_vertices(tmp_path):
    left, right = surface(vertices=642), surface(vertices=642)
    left[5, 17:20] = NAN
    paths = write_pair(tmp_path, left, right)
    with pytest.raises(RunError, match="Frame 5 of .* got 3 NaN vertices"):
        read(paths[0], right=paths[1])


@pytest.mark.parametrize(("fill", "words"), [(0, "nothing but 0 or NaN"), (NAN, "0 or NaN"),
                                             (7, "the same in every frame")])  # fmt: skip
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_hemisphere_that_does_not_vary_is_refused(tmp_path, fill, words, side):
    values = {"left": surface(vertices=642), "right": surface(vertices=642)}
    values[side][:] = fill
    paths = write_pair(tmp_path, values["left"], values["right"])
    with pytest.raises(RunError, match=f"a {side} hemisphere that varies over time, got .*{words}"):
        read(paths[0], right=paths[1])


def statistics(path, voxels=False) -> VolumeStatistics:
    with RunVolumes.read(path, voxel_statistics=voxels) as volumes:
        return volumes.statistics


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (lambda v: v - v.mean(-1, keepdims=True), "50%"),
        (lambda v: (v - v.mean(-1, keepdims=True)) / v.std(-1, keepdims=True), "50%"),
        (lambda v: 100 * (v / v.mean(-1, keepdims=True) - 1), "50%"),
        (lambda v: v - 750, "[6-9][0-9]%"),
    ],
    ids=["denoised", "z-scored", "percent of signal", "mostly negative"],
)
def test_max_refuses_runs_that_would_lose_what_is_below_zero(tmp_path, change, share):
    path = write_image(tmp_path / "r.nii.gz", change(series(6)).astype(np.float32))
    with pytest.raises(RunError, match=f"{share} of all magnitude below 0.*--intensity zscore"):
        fit_intensity("max", statistics(path))
    assert fit_intensity("zscore", statistics(path, voxels=True)).mode == "zscore"


def test_max_takes_what_interpolation_leaves_below_zero(tmp_path):
    values = series(12)
    values[0] = -0.02 * values[0]
    assert fit_intensity("max", statistics(write_image(tmp_path / "r.nii.gz", values)))
    values = -series(12)
    with pytest.raises(RunError, match="nothing above 0 in any frame"):
        fit_intensity("max", statistics(write_image(tmp_path / "r.nii.gz", values)))


def test_zscore_refuses_a_run_that_varies_outside_of_mni_space_only(tmp_path):
    still = np.ones((4, 4, 4), np.float32)
    with pytest.raises(RunError, match="intensity zscore: expected voxels that vary"):
        fit_intensity("zscore", VolumeStatistics(1.0, still, still * 0))


def test_tokenize_names_zscore_and_takes_it(tmp_path, weights):
    values = series(4) - 650
    path = write_image(bids_path(tmp_path / "d"), values)
    assert nib.load(path).get_fdata().min() < 0
    arguments = ["tokenize", "--dataset", "bids", "--root", tmp_path / "d", "--executor", "serial",
                 "--weights", weights]  # fmt: skip
    result = CliRunner().invoke(main, [*map(str, arguments), "--store", str(tmp_path / "a.zarr")])
    assert result.exit_code == 1
    assert "--intensity zscore" in result.output
    more = ["--store", str(tmp_path / "b.zarr"), "--intensity", "zscore"]
    result = CliRunner().invoke(main, [*map(str, arguments), *more])
    assert result.exit_code == 0, result.output
