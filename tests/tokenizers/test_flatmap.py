"""The flatmap tokenizer: exact against plain float64, from surfaces and from volumes."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from time_courses import correlations, series_of, task_regressor

from fmritok.errors import FmritokError, RunError
from fmritok.pipeline.sources.opening import RunFiles, open_run
from fmritok.testing import SeriesTokenizerContract
from fmritok.tokenizers.flatmap.tokenizer import FlatmapTokenizer
from fmritok.tokenizers.spaces import SurfaceSpace, VolumeSpace


class TestContract(SeriesTokenizerContract):
    @pytest.fixture
    def tokenizer(self):
        return FlatmapTokenizer()


@pytest.fixture(scope="module")
def fsaverage():
    tokenizer = FlatmapTokenizer()
    tokenizer.setup()
    return tokenizer


def tokens_of(tokenizer, series, tr, places):
    made = tokenizer.encode_series(series, tr, places, places.counts)
    return np.concatenate(list(made.blocks)), made


def test_tokens_equal_a_plain_float64_reference(fsaverage, rng):
    """Per vertex z-score, then barycentric interpolation, one frame and one pixel at a time."""
    space = SurfaceSpace.of_meshes("fsaverage5", (10242, 10242))
    series = rng.normal(500, 20, (20484, 30)).astype(np.float32)
    places = fsaverage.places(space)
    exact = series.astype(np.float64)
    exact = (exact - exact.mean(1, keepdims=True)) / exact.std(1, keepdims=True)
    tokens, _ = tokens_of(fsaverage, places.apply(series), 1.0, places)
    flat = fsaverage.flat
    for pixel in rng.integers(0, len(flat.pixel), 200):
        expected = flat.weight[pixel] @ exact[flat.vertex[pixel]]
        token, feature = divmod(int(flat.feature[pixel]), 256)
        np.testing.assert_allclose(tokens[:, token, feature], expected, atol=2e-4)
    assert (tokens[:, ~flat.mask] == 0).all()


def test_volume_samples_equal_nilearn(data):
    from nilearn.datasets import fetch_surf_fsaverage
    from nilearn.surface import vol_to_surf

    fsaverage = FlatmapTokenizer(move_surfaces=False)
    path = next((data / "bold_mni").glob("*sf02*MNI2mm91x109x91*bold.nii.gz"))
    series, _, _ = series_of(fsaverage, RunFiles(path))
    surfaces = fetch_surf_fsaverage("fsaverage5")
    for part, side in enumerate(("left", "right")):
        reference = vol_to_surf(
            nib.load(path).slicer[..., :2],
            surfaces[f"pial_{side}"],
            inner_mesh=surfaces[f"white_{side}"],
            depth=[0.1, 0.3, 0.5, 0.7, 0.9],
            interpolation="linear",
        )
        mine = series[part * 10242 : (part + 1) * 10242, :2]
        known = np.isfinite(reference).all(axis=1)
        assert known.mean() > 0.95
        np.testing.assert_allclose(mine[known], reference[known], rtol=1e-4, atol=0.5)


def test_surfaces_moved_to_mni152_lie_in_more_grey_matter(fsaverage):
    """Fsaverage lies in MNI305, volumes in MNI152: 2 mm off without the published affine."""
    from nilearn.datasets import load_mni152_gm_template

    grey = load_mni152_gm_template(resolution=2)
    space = VolumeSpace(grey.shape, grey.affine)
    values = grey.get_fdata(dtype=np.float32).ravel(order="F")[:, None]
    share = []
    for tokenizer in (FlatmapTokenizer(move_surfaces=False), fsaverage):
        used = np.unique(tokenizer.flat.vertex)
        share.append(float(tokenizer.places(space).apply(values)[used].mean()))
    assert share == pytest.approx([0.626, 0.636], abs=0.002)
    unmoved, moved = (t.template for t in (FlatmapTokenizer(move_surfaces=False), fsaverage))
    off = np.linalg.norm(moved.left.middle - unmoved.left.middle, axis=1)
    assert 1.5 < off.mean() < 2.5


def test_standardized_pixels_equal_a_plain_float64_reference(rng):
    tokenizer = FlatmapTokenizer(standardize="pixel")
    space = SurfaceSpace.of_meshes("fsaverage5", (10242, 10242))
    series = rng.normal(500, rng.uniform(1, 30, (20484, 1)), (20484, 30)).astype(np.float32)
    places = tokenizer.places(space)
    tokens, _ = tokens_of(tokenizer, places.apply(series), 1.0, places)
    flat = tokenizer.flat
    for pixel in rng.integers(0, len(flat.pixel), 200):
        expected = flat.weight[pixel] @ series[flat.vertex[pixel]].astype(np.float64)
        expected = (expected - expected.mean()) / expected.std()
        token, feature = divmod(int(flat.feature[pixel]), 256)
        np.testing.assert_allclose(tokens[:, token, feature], expected, atol=2e-4)
    assert (tokens[:, ~flat.mask] == 0).all()


def test_provenance_tells_groups_of_other_settings_apart(fsaverage):
    """With the settings of release 0.1 it is what release 0.1 wrote."""
    old = FlatmapTokenizer(tr=1.0, resampling="scipy", move_surfaces=False).provenance()
    assert old["template"].keys() == {"space", "sha256"}
    assert old["tr"] == {
        "seconds": 1.0, "interpolation": "pchip", "antialias": "chebyshev, order 8"
    }  # fmt: skip
    assert old["standardized"] == "each vertex over time"
    new = FlatmapTokenizer(tr=1.0, standardize="pixel").provenance()
    assert new["template"]["surfaces"]["from"] == "MNI305"
    assert new["template"]["sha256"] != old["template"]["sha256"]
    assert new["tr"]["padding"] == "even"
    assert new["standardized"] == "each pixel over time"


@pytest.mark.parametrize(
    "wrong", [{"standardize": "voxel"}, {"resampling": "even"}, {"move_surfaces": "no"}]
)
def test_other_values_of_options_are_refused(wrong):
    with pytest.raises(FmritokError, match=f"flatmap.{next(iter(wrong))}"):
        FlatmapTokenizer(**wrong)


def test_surface_and_volume_of_one_run_show_the_same(fsaverage, data):
    """The GIFTI pair was sampled from the same scan: the flat maps must resemble each other."""
    left, right = sorted((data / "gifti_func").glob("*.gii"))
    volume = next((data / "bold_mni").glob("*sf02*MNI2mm91x109x91*bold.nii.gz"))
    maps = []
    for files in (RunFiles(left, right), RunFiles(volume)):
        series, places, _ = series_of(fsaverage, files)
        tokens, _ = tokens_of(fsaverage, series[:, :12].copy(), 2.0, places)
        maps.append(tokens[:, fsaverage.flat.mask])
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.5
    flipped = np.roll(maps[1], 4, axis=0)
    assert abs(np.corrcoef(maps[0].ravel(), flipped.ravel())[0, 1]) < 0.3


def test_grayordinates_fill_the_fs_lr_map(data, fslr):
    tokenizer = FlatmapTokenizer(str(fslr))
    path = next((data / "cifti").glob("*.dtseries.nii"))
    series, places, source = series_of(tokenizer, RunFiles(path))
    tokens, made = tokens_of(tokenizer, series, 2.0, places)
    assert tokens.shape == (16, tokenizer.grid.n_tokens, 256)
    assert made.scalars["vertices_without_signal"] == 0
    assert source.space.template == "fsLR"


def test_another_repetition_time_keeps_the_seconds(rng):
    tokenizer = FlatmapTokenizer(tr=1.0)
    space = SurfaceSpace.of_meshes("fsaverage5", (10242, 10242))
    series = (rng.standard_normal((20484, 100)) * 0.01).astype(np.float32)
    series[:, 50] += 5  # at 36 s
    places = tokenizer.places(space)
    tokens, _ = tokens_of(tokenizer, series, 0.72, places)
    assert tokenizer.timing(100, 0.72) == (72, 1.0)
    assert len(tokens) == 72
    assert np.argmax(tokens[:, tokenizer.flat.mask].mean(axis=1)) == 36


def test_the_visual_response_lies_in_the_occipital_patches(fsaverage, data):
    """The task is visual: patches at the back must follow its events, those in front must not."""
    path = next((data / "bold_mni").glob("*sf02*res-3*bold.nii.gz"))
    series, places, _ = series_of(fsaverage, RunFiles(path))
    tokens, _ = tokens_of(fsaverage, series, 2.0, places)
    expected = task_regressor(data, len(tokens), 2.0)
    mask, grid = fsaverage.flat.mask, fsaverage.grid
    patches = (tokens * mask).sum(axis=2) / mask.sum(axis=1)
    r = correlations(patches, expected)
    y, z = grid.coordinates[:, 1], grid.coordinates[:, 2]
    occipital, frontal = (y < -70) & (z < 30), y > 20
    assert r[occipital].mean() > 0.3
    assert r[occipital].mean() > r[frontal].mean() + 0.25


def test_surfaces_of_another_mesh_are_refused(fsaverage, data):
    path = next((data / "cifti").glob("*.dtseries.nii"))
    source = open_run(RunFiles(path))
    assert "10242 vertices of fsaverage5" in fsaverage.problem(source.space)
    with pytest.raises(RunError, match="59412 fsLR vertices"):
        fsaverage.places(source.space)
    half = SurfaceSpace.of_meshes("fsaverage5", (10242, 10242))
    kept = np.arange(0, 20484, 2)
    part, vertex, mm = (values[kept] for values in (half.part, half.vertex, half.mm))
    partial = SurfaceSpace("fsaverage5", (10242, 10242), part, vertex, mm)
    with pytest.raises(
        RunError, match=r"all of its \d+ cortical vertices, got \d+ of them missing"
    ):
        fsaverage.places(partial)


def test_a_run_without_signal_on_the_cortex_is_refused(fsaverage):
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = 300
    places = fsaverage.places(VolumeSpace((20, 20, 20), affine))
    series = places.apply_to_frames(np.ones((30, 8000), np.float32))
    with pytest.raises(RunError, match="vertices that vary over time, got none"):
        fsaverage.encode_series(series, 1.0, places, places.counts)
