"""The network tokenizer: parcel means equal nilearn's, atlases are data, trouble has words."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from time_courses import correlations, series_of, task_regressor

from fmritok.errors import AtlasError, FmritokError, RunError
from fmritok.pipeline.sources.opening import RunFiles, open_run
from fmritok.testing import SeriesTokenizerContract
from fmritok.tokenizers.network.atlas import load_atlas
from fmritok.tokenizers.network.tokenizer import NetworkTokenizer
from fmritok.tokenizers.registry import build_tokenizer
from fmritok.tokenizers.spaces import VolumeSpace
from fmritok.tokenizers.temporal import bandpass

COUNTS = {"Vis": 61, "SomMot": 77, "DorsAttn": 46, "SalVentAttn": 47, "Limbic": 26, "Cont": 52,
          "Default": 91, "Subcortex": 50, "Cerebellum": 7}  # fmt: skip


class TestContract(SeriesTokenizerContract):
    @pytest.fixture
    def tokenizer(self):
        return NetworkTokenizer()


@pytest.fixture(scope="module")
def published(data, tmp_path_factory):
    """Build the atlas of the published model, 457 parcels in 9 networks."""
    from fmritok.pipeline.resources.atlases import build_semantoks_atlas

    stem = "Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3"
    atlases = data / "atlases"
    return build_semantoks_atlas(
        tmp_path_factory.mktemp("atlas"),
        cortex_and_subcortex=atlases / f"{stem}_MNI152NLin6Asym_2mm.nii.gz",
        labels=atlases / f"{stem}_label.txt",
        cerebellum=atlases / "derived_Buckner7_LooseMask_MNI2mm91x109x91.nii.gz",
        cifti=atlases / f"{stem}.dlabel.nii",
    )


def test_the_published_atlas_has_its_counts(published):
    atlas = load_atlas(str(published))
    assert len(atlas) == 457
    assert dict(zip(atlas.networks, np.bincount(atlas.network).tolist(), strict=True)) == COUNTS
    assert (np.diff(atlas.network) >= 0).all()
    assert atlas.table["label"].max() > 255


def test_published_time_courses_are_ordered_by_label_not_by_network(published, data):
    from fmritok.pipeline.resources.atlases import semantoks_columns

    (labels,) = (data / "atlases").glob("Schaefer*_label.txt")
    names = labels.read_text().split("\n")[::2]
    tian, schaefer = names[:50], names[50:450]
    atlas = load_atlas(str(published))
    columns = semantoks_columns(atlas.table, "x")
    assert columns == [*schaefer, *tian, *(f"Buckner7_{i}" for i in range(1, 8))]
    assert columns != atlas.table["name"].tolist()
    with pytest.raises(AtlasError, match="Atlas x: expected the labels of schaefer400"):
        semantoks_columns(atlas.table[1:], "x")


@pytest.mark.parametrize("run", ["sf02*MNI2mm91x109x91", "rtc1*MNI2mm91x109x91", "sf02*res-3"])
def test_parcel_means_equal_nilearn(published, data, run):
    from nilearn.maskers import NiftiLabelsMasker

    path = next((data / "bold_mni").glob(f"*{run}*bold.nii.gz"))
    tokenizer = NetworkTokenizer(str(published), band=None, tr=None)
    series, places, _ = series_of(tokenizer, RunFiles(path))
    image = nib.load(path).slicer[..., :10]
    table = tokenizer.atlas.table
    for name, rows in table.groupby("image").groups.items():
        masker = NiftiLabelsMasker(
            str(published.parent / str(name)), resampling_target="data", standardize=None
        )
        reference = masker.fit_transform(image)
        columns = {
            int(label): int(i) for i, label in masker.region_ids_.items() if i != "background"
        }
        labels = [int(x) for x in table["label"][rows]]
        found = [row for row, label in zip(rows, labels, strict=True) if label in columns]
        kept = [label for label in labels if label in columns]
        assert len(found) > 0.95 * len(rows)
        np.testing.assert_allclose(
            series[found, :10].T, reference[:, [columns[label] for label in kept]],
            rtol=1e-5, atol=1e-5 * np.abs(reference).max(),
        )  # fmt: skip
    assert (places.counts > 0).mean() > 0.95


def test_spheres_equal_nilearn(data):
    from nilearn.maskers import NiftiSpheresMasker

    path = next((data / "bold_mni").glob("*sf02*MNI2mm91x109x91*bold.nii.gz"))
    tokenizer = NetworkTokenizer(band=None, tr=None)
    series, _, _ = series_of(tokenizer, RunFiles(path))
    centres = tokenizer.atlas.table[["x", "y", "z"]].to_numpy()[:10]
    image = nib.load(path).slicer[..., :3]
    masker = NiftiSpheresMasker(centres.tolist(), radius=5.0, standardize=None, allow_overlap=True)
    reference = masker.fit_transform(nib.Nifti1Image(image.get_fdata(), image.affine))
    np.testing.assert_allclose(series[:10, :3].T, reference, rtol=1e-5, atol=0.01)


def test_grayordinates_give_the_parcels_that_volumes_give(published, data):
    """CIFTI and volume of one scan: cortical parcels by dlabel, cerebellum by the label image."""
    tokenizer = NetworkTokenizer(str(published), band=None, tr=None)
    cifti = next((data / "cifti").glob("*.dtseries.nii"))
    volume = next((data / "bold_mni").glob("*sf02*MNI2mm91x109x91*bold.nii.gz"))
    on_surface, places, _ = series_of(tokenizer, RunFiles(cifti))
    in_volume, _, _ = series_of(tokenizer, RunFiles(volume))
    assert (places.counts > 0).all()
    deviations = [x[:, :12] - x[:, :12].mean(1, keepdims=True) for x in (on_surface, in_volume)]
    both = [d / np.linalg.norm(d, axis=1, keepdims=True) for d in deviations]
    assert np.median((both[0] * both[1]).sum(axis=1)) > 0.7


def test_coverage_tells_what_the_field_of_view_cut_off(published, data):
    """The second run's slab leaves out the lower brain: its empty parcels are counted, not zero."""
    path = next((data / "bold_mni").glob("*rtc1*MNI2mm91x109x91*bold.nii.gz"))
    tokenizer = NetworkTokenizer(str(published), band=None, tr=None)
    source = open_run(RunFiles(path))
    places = tokenizer.places(source.space)
    block = next(source.blocks())
    series, signal = places.apply_to_frames(block), places.signal(block)
    made = tokenizer.encode_series(series, 1.5, places, signal)
    coverage = made.arrays["coverage"]
    cerebellum = tokenizer.atlas.network == list(COUNTS).index("Cerebellum")
    assert coverage[cerebellum].mean() < 0.5 < coverage[~cerebellum].mean()
    assert made.scalars["empty_parcels"] == (signal == 0).sum()
    np.testing.assert_array_equal(made.arrays["samples"], signal)


def test_the_visual_network_shows_the_task(published, data):
    tokenizer = NetworkTokenizer(str(published), tr=2.0)
    path = next((data / "bold_mni").glob("*sf02*res-3*bold.nii.gz"))
    series, places, _ = series_of(tokenizer, RunFiles(path))
    tokens = np.concatenate(
        list(tokenizer.encode_series(series, 2.0, places, places.counts).blocks)
    )
    expected = bandpass(task_regressor(data, len(tokens), 2.0)[None].astype(np.float32), 2.0,
                        *tokenizer.band)[0]  # fmt: skip
    r = correlations(tokens[:, :, 0], expected)
    # The registration of this run is affine only: its cerebellum reaches into occipital cortex.
    cortex = tokenizer.atlas.network < 7
    network = [r[tokenizer.atlas.network == i].mean() for i in range(7)]
    assert np.argmax(network) == list(COUNTS).index("Vis")
    best = np.argsort(np.where(cortex, r, -1))[-10:]
    assert r[best].mean() > 0.6
    assert (tokenizer.atlas.network[best] == 0).sum() >= 8


def test_processing_order_and_scale(rng):
    """Band-pass, resampling, z-score: unit variance at the end, whatever the parcel's mean."""
    tokenizer = NetworkTokenizer()
    places = tokenizer.places(VolumeSpace((91, 109, 91), np.array(
        [[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])))  # fmt: skip
    series = rng.normal(9000, 40, (len(tokenizer.atlas), 490)).astype(np.float32)
    made = tokenizer.encode_series(series, 0.735, places, places.counts)
    tokens = next(made.blocks)[:, :, 0]
    assert tokens.shape == (180, len(tokenizer.atlas))  # 490 frames of 0.735 s, as published
    np.testing.assert_allclose(tokens.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(tokens.std(axis=0), 1, atol=1e-4)


def test_labels_beyond_255_are_kept_apart(tmp_path):
    labels = np.zeros((91, 109, 91), np.int16)
    wanted = [1, 127, 128, 255, 256, 257, 300, 511, 512]
    for i, label in enumerate(wanted):
        labels[40 + i, 50, 40] = label
    affine = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "labels.nii.gz")
    table = pd.DataFrame({"name": [f"p{x}" for x in wanted], "network": "one",
                          "image": "labels.nii.gz", "label": wanted})  # fmt: skip
    table.to_csv(tmp_path / "atlas.tsv", sep="\t", index=False)
    atlas = load_atlas(str(tmp_path))
    members = atlas.members(VolumeSpace((91, 109, 91), affine))
    assert [m.tolist() for m in members] == [
        [40 + i + 91 * (50 + 109 * 40)] for i in range(len(wanted))
    ]


def write_atlas(folder, labels, rows, affine=None, dtype=np.int16):
    affine = np.diag([2.0, 2, 2, 1]) if affine is None else affine
    nib.save(nib.Nifti1Image(labels.astype(dtype), affine), folder / "labels.nii.gz")
    pd.DataFrame(rows).assign(image="labels.nii.gz").to_csv(
        folder / "atlas.tsv", sep="\t", index=False
    )
    return str(folder)


TWO, LABELS = {"name": ["a", "b"], "network": ["x", "y"]}, {"label": [1, 2]}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"name": ["a"], "network": ["x"], "label": [1]}, "only labels of the table, got 1 other,"),
        (
            {"name": ["a", "b", "c"], "network": ["x"] * 3, "label": [1, 2, 3]},
            "1 that no voxel has, the first is 3",
        ),
        (TWO | LABELS | {"name": ["a", "a"]}, "each parcel once, got a twice"),
        ({"network": ["x", "y"]} | LABELS, "columns name, network and image, label"),
        ({"name": ["a", "b"], "Network": ["x", "y"]} | LABELS, "a column network, got 'Network'"),
        (TWO | {"label": [1, None]}, "a label for each parcel, got none in row 2, 'b'"),
        (TWO | LABELS | {"network": ["x", ""]}, "a network for each parcel, got none in row 2"),
    ],
)
def test_tables_that_do_not_fit_their_image_are_refused(tmp_path, rows, words):
    labels = np.zeros((20, 20, 20))
    labels[5, 5, 5], labels[6, 6, 6] = 1, 2
    reference = write_atlas(tmp_path, labels, rows)
    with pytest.raises(AtlasError, match=words):
        load_atlas(reference).members(VolumeSpace((20, 20, 20), np.diag([2.0, 2, 2, 1])))


def test_networks_called_na_and_quote_marks_are_text(tmp_path):
    labels = np.zeros((20, 20, 20))
    labels[5, 5, 5], labels[6, 6, 6], labels[7, 7, 7] = 1, 2, 3
    rows = {"name": ["a", "b", "c"], "network": ["NA", "None", "x"], "label": [1, 2, 3]}
    write_atlas(tmp_path, labels, rows)
    digest = load_atlas(str(tmp_path)).sha256
    path = tmp_path / "atlas.tsv"
    assert load_atlas(str(tmp_path)).networks == ("NA", "None", "x")
    path.write_text(path.read_text().replace("a\t", '"a\t').replace("c\t", 'c"\t'))
    assert load_atlas(str(tmp_path)).table["name"].tolist() == ['"a', "b", 'c"']
    path.write_text('"name"\t"network"\t"label"\t"image"\n'
                    '"a"\t"NA"\t1\t"labels.nii.gz"\n"b"\t"None"\t2\t"labels.nii.gz"\n'
                    '"c"\t"x"\t3\t"labels.nii.gz"\n')  # fmt: skip
    assert load_atlas(str(tmp_path)).sha256 == digest


def test_an_atlas_in_another_place_or_of_other_numbers_is_refused(tmp_path):
    labels = np.zeros((20, 20, 20))
    labels[5, 5, 5], labels[6, 6, 6] = 1, 2
    rows = TWO | LABELS
    reference = write_atlas(tmp_path, labels, rows)
    far = np.diag([2.0, 2, 2, 1])
    far[:3, 3] = 400
    with pytest.raises(AtlasError, match="2 of 2 without a single sample.*same space"):
        load_atlas(reference).members(VolumeSpace((20, 20, 20), far))
    write_atlas(tmp_path, labels * 0.3, rows, dtype=np.float32)
    from fmritok.tokenizers.network.labels import label_image

    label_image.cache_clear()
    with pytest.raises(AtlasError, match="whole numbers, got other numbers"):
        load_atlas(reference).members(VolumeSpace((20, 20, 20), np.diag([2.0, 2, 2, 1])))


def test_spheres_have_no_surface(data):
    path = next((data / "cifti").glob("*.dtseries.nii"))
    with pytest.raises(AtlasError, match="cifti_image.*--input volume"):
        NetworkTokenizer().places(open_run(RunFiles(path)).space)


@pytest.mark.parametrize("band", [1, "0.01", [0.01], [0.01, "high"], [0.01, 0.1, 0.2]])
def test_a_band_is_two_frequencies(band):
    with pytest.raises(FmritokError, match=r"network\.band: expected two frequencies"):
        NetworkTokenizer(band=band)


@pytest.mark.parametrize("tr", [0, -1.0, float("nan"), float("inf")])
def test_seconds_between_frames_of_tokens_are_above_0(tr):
    for name in ("network", "flatmap"):
        with pytest.raises(FmritokError, match=rf"{name}\.tr: expected seconds .* --set {name}"):
            build_tokenizer(name, {"tr": tr})


def test_a_band_the_wrong_way_round_is_refused():
    with pytest.raises(FmritokError, match="lower one first"):
        NetworkTokenizer(band=(0.1, 0.01))


def test_a_run_outside_of_all_parcels_is_refused():
    tokenizer = NetworkTokenizer(band=None)
    places = tokenizer.places(VolumeSpace((91, 109, 91), np.array(
        [[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])))  # fmt: skip
    with pytest.raises(RunError, match="signal, got none"):
        tokenizer.encode_series(
            np.zeros((len(tokenizer.atlas), 50), np.float32), 1.0, places, 0 * places.counts
        )
