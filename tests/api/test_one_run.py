"""One run without a store gives the tokens that a store would hold; arrays count like files."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from tiny import PARCELS, fmritok, tokenize_options, write_atlas, write_cohort

from fmritok import open_store, tokenize
from fmritok.errors import FmritokError, MachineError, RunError
from fmritok.tokenizers.registry import build_tokenizer
from fmritok.tokenizers.spaces import VolumeSpace


@pytest.fixture
def volumes(rng):
    """Return a short run of 5 mm volumes around the MNI brain."""
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = (-97, -130, -80)
    values = 500 + 40 * rng.standard_normal((40, 48, 40, 12))
    return values.astype(np.float32), affine


NETWORK = {"band": None, "tr": None}


def test_a_file_gives_what_a_store_holds(tmp_path):
    atlas = write_atlas(tmp_path / "atlas")
    root = write_cohort(tmp_path / "cohort", ["100001"], frames=20)
    store = tmp_path / "tokens.zarr"
    assert fmritok(*tokenize_options(root, store, atlas)).exit_code == 0
    group = open_store(store)["network"]
    (run_id,) = group
    (path,) = root.rglob("*.dtseries.nii")
    run = tokenize(path, "network", options={"atlas": str(atlas), **NETWORK})
    np.testing.assert_array_equal(run.values.astype(np.float16), group[run_id])
    assert run.tr == pytest.approx(0.72)
    np.testing.assert_array_equal(run.coordinates, group.array("coordinates"))
    np.testing.assert_array_equal(run.static["network"], group.array("network"))
    assert dict(run.provenance) == group.provenance
    assert np.asarray(run).shape == (20, PARCELS, 1)
    assert repr(run) == "TokenizedRun(network: 20 frames every 0.72 s, 4 tokens of 1 feature)"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_an_image_and_an_array_give_what_their_file_gives(tmp_path, volumes, suffix):
    values, affine = volumes
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, "mni")
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((5, 5, 5, 2.0))
    nib.save(image, tmp_path / f"run{suffix}")
    of_file = tokenize(tmp_path / f"run{suffix}", options=NETWORK)
    assert of_file.values.std() > 0.1
    np.testing.assert_array_equal(tokenize(image, options=NETWORK).values, of_file.values)
    of_array = tokenize(values, options=NETWORK, affine=affine, tr=2.0)
    np.testing.assert_array_equal(of_array.values, of_file.values)
    assert of_array.tr == 2.0


def test_volumes_become_tokens_of_an_autoencoder(volumes, weights):
    values, affine = volumes
    vae = build_tokenizer("vae", {"weights": weights})
    run = tokenize(values[..., :3], vae, affine=affine, tr=2.0)
    assert run.values.shape == (3, *vae.grid.coordinates.shape[:1], vae.grid.dim)
    assert "maximum" in str(run.scalars)


def test_time_courses_of_parcels_and_vertices_need_no_image(rng):
    parcels = rng.standard_normal((30, build_tokenizer("network", {}).grid.n_tokens))
    run = tokenize(parcels, "network", options=NETWORK, tr=2.0)
    z = (parcels - parcels.mean(0)) / parcels.std(0)
    np.testing.assert_allclose(run.values[:, :, 0], z, atol=1e-4)
    vertices = rng.standard_normal((10, 2 * 10242)).astype(np.float32)
    assert len(tokenize(vertices, "flatmap", tr=2.0)) == 10


def test_voxels_of_a_known_grid_give_what_their_volumes_give(volumes, weights):
    values, affine = volumes
    grid = VolumeSpace(values.shape[:3], affine)
    columns = values.reshape(-1, values.shape[3], order="F").T[:3]
    vae = build_tokenizer("vae", {"weights": weights})
    of_volumes = tokenize(values[..., :3], vae, affine=affine, tr=2.0)
    of_columns = tokenize(columns, vae, tr=2.0, space=grid)
    np.testing.assert_array_equal(of_columns.values, of_volumes.values)
    with pytest.raises(RunError, match="one column for each sample of volumes of 40x48x40"):
        tokenize(columns[:, 1:], vae, tr=2.0, space=grid)
    with pytest.raises(RunError, match="does not hold the MNI brain"):
        tokenize(columns, vae, tr=2.0, space=VolumeSpace(values.shape[:3], np.eye(4)))
    with pytest.raises(RunError, match="volumes, which time courses of 7 parcels are not"):
        tokenize(np.ones((3, 7)), vae, tr=2.0)


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (lambda v: v, {"tr": 2.0}, "no affine"),
        (lambda v: v[..., 0], {"tr": 2.0}, "volumes .x, y, z, n_frames"),
        (lambda v: np.ones((30, 7)), {"tr": 2.0}, "285 parcels, got time courses of 7"),
        (lambda v: np.ones((30, 285)), {}, "tr = None"),
        (lambda v: np.full((30, 285), np.nan), {"tr": 2.0}, "vary over time, got NaN everywhere"),
        (lambda v: np.ones((30, 285)), {"tr": 2.0}, "vary over time, got the same"),
        (lambda v: "no-such-file.nii.gz", {}, r"File no-such-file\.nii\.gz: .* got no such file\."),
    ],
)
def test_what_cannot_be_tokenized_is_refused_in_a_sentence(volumes, make, options, match):
    with pytest.raises(RunError, match=match):
        tokenize(make(volumes[0]), "network", **options)


@pytest.mark.parametrize(("source", "argument", "kind"), [
    ("run.dtseries.nii", "mask", "a file of time courses"),
    ("run.tsv", "warp", "a file of time courses"),
    ("left.func.gii", "mask", "a GIFTI file"),
    ("run.nii.gz", "affine", "a file of volumes"),
    ("run.nii.gz", "space", "a file of volumes"),
    (np.zeros((20, 4)), "mask", "an array of time courses"),
    (np.zeros((8, 8, 8, 20)), "right", "an array of volumes"),
    (nib.Nifti1Image(np.zeros((8, 8, 8, 20)), np.eye(4)), "affine", "an image of volumes"),
])  # fmt: skip
def test_an_argument_without_effect_is_refused(source, argument, kind):
    with pytest.raises(TypeError, match=f"^{argument} does not apply to {kind}: leave it out"):
        tokenize(source, tr=2.0, **{argument: "given"})


def test_an_unknown_tokenizer_or_option_is_refused():
    with pytest.raises(FmritokError, match="networks"):
        tokenize("run.nii.gz", "networks")
    with pytest.raises(FmritokError, match=r"network\.bands"):
        tokenize("run.nii.gz", "network", options={"bands": None})


@pytest.mark.parametrize("tr", [0, -2.0, np.nan, np.inf, 2000, "2", True])
def test_a_repetition_time_that_cannot_be_is_refused(rng, tr):
    with pytest.raises(RunError, match=r"given as tr: expected 0\.1 to 20 s, got"):
        tokenize(rng.standard_normal((50, 285)), tr=tr, options=NETWORK)


def test_complex_arrays_are_refused(rng, volumes):
    values, affine = volumes
    series = rng.standard_normal((50, 285)) + 1j
    with pytest.raises(RunError, match="expected real numbers, got complex128"):
        tokenize(series, tr=2.0, options=NETWORK)
    with pytest.raises(RunError, match="expected real numbers, got complex64"):
        tokenize(values * np.complex64(1j), tr=2.0, affine=affine, options=NETWORK)


def test_a_space_is_no_name(rng):
    with pytest.raises(TypeError, match=r"one of fmritok\.tokenizers\.spaces, not 'fsLR'"):
        tokenize(rng.standard_normal((50, 285)), tr=2.0, space="fsLR")


def test_advice_names_arguments(rng):
    with pytest.raises(RunError, match="switch the filter off: network.band none"):
        tokenize(rng.standard_normal((20, 285)), tr=2.0)


def test_a_scratch_folder_that_is_not_there_is_one_error(rng, tmp_path):
    with pytest.raises(MachineError, match="absent: expected a folder that exists"):
        tokenize(rng.standard_normal((60, 285)), tr=2.0, scratch=tmp_path / "absent")
