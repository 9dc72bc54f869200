"""Several tokenizers in one call: a run is read once, groups line up and stand by themselves."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from cohorts import SHAPE, write_run

from fmritok.cli import main
from fmritok.pipeline.sources import volume
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.records import read_record
from fmritok.pipeline.store.verify import verify_store

ALL = ("--tokenizer", "vae", "--tokenizer", "flatmap", "--tokenizer", "network")
#: No fewer frames: the filter before a slower sampling needs 28.
FRAMES, IMPULSE = 28, 20
SLOWER = ("--set", "flatmap.tr=1.0", "--set", "network.tr=1.44", "--set", "network.band=null")
#: The band-pass would need more frames.
UNFILTERED = ("--set", "network.band=null")


@pytest.fixture(scope="module")
def tree(tmp_path_factory, data):
    """Write two runs of noise in the middle of the brain, in one of which a frame is brighter."""
    root = tmp_path_factory.mktemp("groups") / "hcp"
    brain = nib.load(data / "templates/MNI152_T1_2mm_brain_mask_dil.nii.gz").get_fdata() > 0
    middle = np.zeros(SHAPE, bool)
    middle[30:54, 40:64, 40:64] = True
    brain &= middle
    rng = np.random.default_rng(1)
    for subject in ("100001", "100002"):
        values = np.zeros((*SHAPE, FRAMES), np.int16)
        values[brain] = 1000 + rng.integers(-20, 20, (brain.sum(), FRAMES), np.int16)
        if subject == "100001":
            values[brain, IMPULSE] += 300
        write_run(root, subject, values=values, tr=0.72)
    return root


def fmritok(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def tokenize(tree, store, weights, *more):
    return fmritok(
        "tokenize", "--dataset", "hcp", "--root", tree, "--store", store, "--weights", weights,
        "--executor", "serial", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def one_run(tree, tmp_path_factory):
    """Return a tree of the first run alone: the autoencoder takes the longest."""
    root = tmp_path_factory.mktemp("one") / "hcp"
    root.mkdir()
    (root / "100001").symlink_to(tree / "100001")
    return root


@pytest.fixture(scope="module")
def store(one_run, tmp_path_factory, weights):
    """Three groups of one run, the slower ones resampled."""
    path = tmp_path_factory.mktemp("store") / "t.zarr"
    result = tokenize(one_run, path, weights, *ALL, *SLOWER)
    assert result.exit_code == 0, result.output
    return path


def test_an_impulse_is_at_the_same_second_in_every_group(store):
    opened = TokenStore(store)
    assert opened.groups == ("flatmap", "network", "vae")
    for name, tr in (("vae", 0.72), ("flatmap", 1.0), ("network", 1.44)):
        group = opened.group(name)
        run = group.run("hcp_100001_rfMRI_REST1_LR")
        assert run["tr"] == tr
        values = group.values("hcp_100001_rfMRI_REST1_LR")
        assert len(values) == int(np.floor((FRAMES - 1) * 0.72 / tr + 1e-6)) + 1
        deviation = np.abs(values - np.median(values, axis=0)).mean(axis=(1, 2))
        seconds = int(np.argmax(deviation)) * tr
        assert abs(seconds - IMPULSE * 0.72) <= tr / 2 + 1e-6, name


def test_groups_agree_on_what_was_read(store):
    opened = TokenStore(store)
    records = [
        read_record(opened.location, name, "hcp_100001_rfMRI_REST1_LR") for name in opened.groups
    ]
    assert len({record.source_sha256 for record in records}) == 1
    assert len({record.seconds["read"] for record in records}) == 1
    assert list(verify_store(opened.location)) == []


@pytest.mark.slow
def test_each_run_is_decompressed_once_for_three_groups(tree, tmp_path, weights, monkeypatch):
    reads = []
    blocks = volume.VolumeSource.blocks
    monkeypatch.setattr(
        volume.VolumeSource, "blocks", lambda self: reads.append(self.path) or blocks(self)
    )
    assert tokenize(tree, tmp_path / "t.zarr", weights, *ALL, *UNFILTERED).exit_code == 0
    assert len(reads) == 2


def test_a_group_added_later_touches_nothing_that_is_there(one_run, store, tmp_path, weights):
    """The same tokens as in one call, and not one byte of the first group changes."""
    late = tmp_path / "late.zarr"
    assert tokenize(one_run, late, weights, "--tokenizer", "network", *SLOWER[2:]).exit_code == 0
    before = {p: p.read_bytes() for p in (late / "network").rglob("*") if p.is_file()}
    assert tokenize(one_run, late, weights, "--tokenizer", "flatmap", *SLOWER[:2]).exit_code == 0
    after = {p: p.read_bytes() for p in (late / "network").rglob("*") if p.is_file()}
    assert before == after
    for name in ("network", "flatmap"):
        for run_id in TokenStore(store).group(name).runs["run_id"]:
            np.testing.assert_array_equal(
                TokenStore(late).group(name).values(run_id),
                TokenStore(store).group(name).values(run_id),
            )


def test_only_what_is_missing_is_done_again(tree, tmp_path, weights, monkeypatch):
    path = tmp_path / "t.zarr"
    assert tokenize(tree, path, weights, "--tokenizer", "flatmap").exit_code == 0
    both = ("--tokenizer", "flatmap", "--tokenizer", "network", *UNFILTERED)
    result = tokenize(tree, path, weights, *both)
    assert "Plan for flatmap: 0 runs, 0 frames\nflatmap has 2 runs already\n" in result.output
    assert "Plan for network: 2 runs" in result.output
    reads = []
    monkeypatch.setattr(volume.VolumeSource, "blocks", lambda self: reads.append(self.path))
    assert tokenize(tree, path, weights, *both).exit_code == 0
    assert reads == []


def test_a_run_that_one_tokenizer_refuses_is_done_for_the_others(tree, tmp_path, weights):
    """Four frames are too few for a band-pass; the volumes and the flat map need no filter."""
    root = tmp_path / "short"
    values = np.zeros((*SHAPE, 4), np.int16)
    values[20:70, 20:90, 20:70] = np.random.default_rng(0).integers(900, 1100, (50, 70, 50, 4))
    write_run(root, "100009", values=values)
    result = tokenize(root, tmp_path / "t.zarr", weights, *ALL)
    assert result.exit_code == 1
    assert "network: 0 runs" in result.output
    assert "for a band of 0.01 to 0.1 Hz: expected at least 34 frames, got 4" in result.output
    opened = TokenStore(tmp_path / "t.zarr")
    assert [len(opened.group(name).runs) for name in opened.groups] == [1, 0, 1]


def test_a_store_that_is_written_shows_finished_runs_only(tree, tmp_path, weights, monkeypatch):
    """A reader that opens the store in the middle of a call sees what is done, and nothing else."""
    from fmritok.pipeline.tokenization import task

    seen = []
    write = task.write_record

    def look(location, group, record):
        write(location, group, record)
        seen.append(len(TokenStore(tmp_path / "t.zarr").group(group).runs))

    monkeypatch.setattr(task, "write_record", look)
    done = tokenize(tree, tmp_path / "t.zarr", weights, "--tokenizer", "network", *UNFILTERED)
    assert done.exit_code == 0
    assert seen == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tokenizer", "vae", "--input", "surface"), "Tokenizer vae: expected volumes"),
        (("--set", "network.tr=1"), "got one of network. Add --tokenizer network"),
        (("--set", "vae.wieghts=x"), "Did you mean vae.weights"),
        (("--set", "nonsense"), "TOKENIZER.OPTION=VALUE"),
        ((*ALL, "--group", "a"), "expected 3 names"),
        (("--tokenizer", "vae", "--tokenizer", "vae"), "different names"),
        (("--tokenizer", "flatmap", "--set", "flatmap.template=nowhere"), "template.yaml"),
        (("--tokenizer", "network", "--set", "network.atlas=nowhere"), "seitzman300 or a tab"),
        (("--tokenizer", "flatmpa"), "one of flatmap, network, vae"),
    ],
)
def test_wrong_use_has_words(tree, tmp_path, weights, arguments, words):
    result = tokenize(tree, tmp_path / "t.zarr", weights, *arguments)
    assert result.exit_code in (1, 2)
    assert words in result.output
    assert not (tmp_path / "t.zarr").exists()


def test_flat_maps_and_parcels_are_decoded_to_files(store, tmp_path):
    run = ("--store", store, "--run", "hcp_100001_rfMRI_REST1_LR")
    picture = tmp_path / "map.png"
    result = fmritok("decode", *run, "--group", "flatmap", "--frames", "13:15", "--out", picture)
    assert result.exit_code == 0, result.output
    assert picture.stat().st_size > 20_000
    surface = tmp_path / "map.func.gii"
    result = fmritok("decode", *run, "--group", "flatmap", "--out", surface)
    assert result.output.split() == [str(tmp_path / f"map_hemi-{h}.func.gii") for h in ("L", "R")]
    left = np.asarray(nib.load(tmp_path / "map_hemi-L.func.gii").agg_data()).T
    assert left.shape == (20, 10242)
    assert np.argmax(left.mean(axis=1)) == 14  # 14.4 s
    table = tmp_path / "parcels.tsv"
    assert fmritok("decode", *run, "--group", "network", "--out", table).exit_code == 0
    first = table.read_text().splitlines()[0].split("\t")
    assert first[0] == "seconds"
    assert len(first) == 1 + TokenStore(store).group("network").n_tokens
    wrong = fmritok("decode", *run, "--group", "network", "--out", picture)
    assert wrong.exit_code == 2
    assert "a file ending in .tsv" in wrong.output


def test_surface_data_come_back_as_they_went_in(data, tmp_path):
    """GIFTI -> tokens -> GIFTI: the z-scored vertices, blurred by no more than a pixel."""
    from fmritok.tokenizers.flatmap.pictures import save_surfaces
    from fmritok.tokenizers.flatmap.tokenizer import FlatmapTokenizer
    from fmritok.tokenizers.spaces import SurfaceSpace
    from fmritok.tokenizers.temporal import standardize

    left, right = sorted((data / "gifti_func").glob("*.gii"))
    tokenizer = FlatmapTokenizer()
    series = np.concatenate([np.asarray(nib.load(p).agg_data()) for p in (left, right)])
    places = tokenizer.places(SurfaceSpace.of_meshes("fsaverage5", (10242, 10242)))
    made = tokenizer.encode_series(series.copy(), 2.0, places, places.counts)
    vertices = tokenizer.vertices(np.concatenate(list(made.blocks)))
    written = save_surfaces(vertices, 10242, 2.0, tmp_path / "back.func.gii")
    back = np.concatenate([np.asarray(nib.load(p).agg_data()) for p in written])
    standardize(series)
    kept = np.unique(tokenizer.flat.vertex[tokenizer.flat.weight > 0.3])
    assert np.corrcoef(back[kept].ravel(), series[kept].ravel())[0, 1] > 0.9


def test_inspect_names_each_group(store):
    found = json.loads(fmritok("inspect", "--store", store, "--json").output)
    assert set(found["groups"]) == {"vae", "flatmap", "network"}
    assert found["groups"]["network"]["dtype"] == "float16"
    assert Location(store).used_bytes("network") < Location(store).used_bytes("vae")
