"""The offline path through the command line: good runs in, bad runs aside, the rest is kept."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from cohorts import SHAPE, real_tree, write_phenotypes, write_run
from commands import inspect, tokenize, written
from tiny import fmritok

from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.pipeline.store import ledger
from fmritok.pipeline.store.location import Location
from fmritok.pipeline.store.reader import TokenStore
from fmritok.tokenizers.fidelity import time_course_error
from fmritok.tokenizers.vae import execution
from fmritok.tokenizers.vae.tokenizer import VaeTokenizer

SUFFIX = "rfMRI_REST1_LR"


def _write_tree(root: Path) -> Path:
    for i in range(3):
        write_run(root, f"10000{i}", frames=3 + i)
    write_phenotypes(root, ["100000", "100001", "100002"])
    return root


@pytest.fixture
def own_tree(tmp_path) -> Path:
    """Return a tree to change."""
    return _write_tree(tmp_path / "hcp")


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Return a tree that several tests read."""
    return _write_tree(tmp_path_factory.mktemp("tree") / "hcp")


@pytest.fixture(scope="module")
def once(tree, weights, tmp_path_factory) -> Path:
    """Return the store of that tree, written without a fault, to read."""
    store = tmp_path_factory.mktemp("once") / "t.zarr"
    result = tokenize(tree, store, weights)
    assert result.exit_code == 0, result.output
    return store


@pytest.fixture
def store(once, tmp_path) -> Path:
    """Return a copy of it to change."""
    return shutil.copytree(once, tmp_path / "t.zarr")


def test_tokens_in_the_store_are_the_encoder_s(tree, once, weights):
    group = TokenStore(once).group()
    assert group.runs["n_frames"].tolist() == [3, 4, 5]
    tokenizer = VaeTokenizer(weights)
    tokenizer.setup()
    run = group.run("hcp_100001_rfMRI_REST1_LR")
    volumes = RunVolumes.read(next(tree.glob(f"100001/**/{SUFFIX}_*.nii.gz")))
    frames = np.concatenate([block for _, block in volumes.blocks()])
    exact = tokenizer.encode(frames, tokenizer.fit(volumes.statistics))
    step = group.statistics(run["row"]).scale
    assert (np.abs(group.values(run["run_id"]) - exact) <= 0.51 * step + 1e-5).all()
    plain = zarr.open_array(once / "vae" / "tokens", mode="r")
    assert plain[run["start"] : run["start"] + 4].shape == (4, 27, 3072)
    assert group.array("coordinates").shape == (27, 3)


def test_the_store_explains_itself(once, weights):
    found = inspect(once)
    group = found["groups"]["vae"]
    assert group["shape"] == [12, 27, 3072]
    assert group["dtype"] == "int8"
    assert len(group["provenance"]["weights"]["sha256"]) == 64
    assert group["provenance"]["intensity"] == {"mode": "max"}
    assert group["notes"]["weights"]["id"] == weights
    assert group["notes"]["versions"]["torch"]
    run = found["runs"][0]
    assert {k: run[k] for k in ("run_id", "subject", "status", "reason", "groups")} == {
        "run_id": "hcp_100000_rfMRI_REST1_LR",
        "subject": "100000",
        "status": "done",
        "reason": "",
        "groups": {"vae": {"start": 0, "n_frames": 3, "status": "done", "reason": ""}},
    }
    record = zarr.open_group(once, mode="r")["vae/records/hcp_100000_rfMRI_REST1_LR"].attrs
    assert record["normalizer"]["maximum"] > 900
    assert record["placement"].startswith("exact")
    assert TokenStore(once).phenotypes["Gender"].tolist() == ["M", "F", "M"]
    assert "100000" not in fmritok("inspect", "--store", once).output
    assert fmritok("verify", "--store", once).exit_code == 0


@pytest.mark.slow
def test_real_runs_and_back_to_volumes(data, tmp_path):
    """The real MNI runs go through the default encoder and come back as brains."""
    import nibabel as nib

    root, store = real_tree(tmp_path / "hcp", data), tmp_path / "t.zarr"
    result = fmritok("tokenize", "--dataset", "hcp", "--root", root, "--store", store,
                     "--executor", "serial")  # fmt: skip
    assert result.exit_code == 0, result.output
    out = tmp_path / "back.nii.gz"
    run_id = "hcp_100002_rfMRI_REST1_LR"
    decoded = fmritok("decode", "--store", store, "--run", run_id, "--frames", "2:4", "--out", out)
    assert decoded.exit_code == 0, decoded.output
    image = nib.load(out)
    assert image.shape == (96, 96, 96, 2)
    assert image.header.get_zooms()[3] == 2.0
    source = RunVolumes.read(next(root.glob(f"100002/**/{SUFFIX}_*.nii.gz")))
    original = np.concatenate([block for _, block in source.blocks()])[2]
    brain = original > 0
    assert np.corrcoef(np.asarray(image.dataobj)[..., 0][brain], original[brain])[0, 1] > 0.8
    bad = fmritok("decode", "--store", store, "--run", run_id, "--frames", "90:99", "--out", out)
    assert "a span within 0:12" in bad.output


def test_zscore_group_beside_the_other(tree, store, tmp_path, weights):
    more = tokenize(tree, store, weights, "--intensity", "zscore", "--group", "vae-zscore",
                    "--store-dtype", "float16")  # fmt: skip
    assert more.exit_code == 0, more.output
    assert set(TokenStore(store).groups) == {"vae", "vae-zscore"}
    group = TokenStore(store).group("vae-zscore")
    assert group.array("voxel_std", 0).max() > 0
    assert fmritok("verify", "--store", store).exit_code == 0
    out = tmp_path / "back.nii.gz"
    back = fmritok("decode", "--store", store, "--group", "vae-zscore", "--out", out,
                   "--run", "hcp_100002_rfMRI_REST1_LR")  # fmt: skip
    assert back.exit_code == 0, back.output
    assert "expected one of vae, vae-zscore" in fmritok(
        "decode", "--store", store, "--out", out, "--run", "x").output  # fmt: skip


def test_an_inexact_arithmetic_is_told_and_kept_with_its_error(tree, tmp_path, weights):
    """Its group is not continued in another one; left open, it is the group's."""
    store = tmp_path / "t.zarr"
    made = tokenize(tree, store, weights, "--arithmetic", "bf16")
    assert made.exit_code == 0, made.output
    note = inspect(store)["groups"]["vae"]["notes"]["error_of_time_courses"]
    assert 0.01 < note["median"] < note["percentile_95"]
    assert (note["arithmetic"], note["frames"]) == ("bf16", 3)
    assert note["run_id"] == "hcp_100000_rfMRI_REST1_LR"
    assert "vae: the arithmetic bf16 changes the time courses of tokens by " in made.output
    again = tokenize(tree, store, weights, "--dtype", "bf16")  # the older name of the option
    assert again.exit_code == 0, again.output
    assert "changes the time courses" not in again.output
    mixed = tokenize(tree, store, weights, "--arithmetic", "fp32")
    assert mixed.exit_code == 1
    assert "provenance.dtype = 'bf16'" in mixed.output
    left_open = tokenize(tree, store, weights)
    assert left_open.exit_code == 0, left_open.output


@pytest.mark.slow
def test_delta_tokens_are_those_of_fp32_within_half_a_percent(tmp_path, weights):
    """Through the command; a group of delta is not continued in fp32."""
    tree, stores = tmp_path / "hcp", {}
    write_run(tree, "100002", frames=4)
    for arithmetic in ("fp32", "delta"):
        stores[arithmetic] = store = tmp_path / f"{arithmetic}.zarr"
        made = tokenize(tree, store, weights, "--arithmetic", arithmetic, "--precision", "float16")
        assert made.exit_code == 0, made.output
        assert "changes the time courses" not in made.output
    exact, found = (
        TokenStore(s).group().values("hcp_100002_rfMRI_REST1_LR") for s in stores.values()
    )
    assert time_course_error(found, exact).median < 0.005
    notes = inspect(stores["delta"])["groups"]["vae"]["notes"]
    assert 0 < notes["error_of_time_courses"]["median"] < 0.005
    assert "error_of_time_courses" not in inspect(stores["fp32"])["groups"]["vae"]["notes"]
    more = ("--precision", "float16")
    mixed = tokenize(tree, stores["delta"], weights, *more, "--arithmetic", "fp32")
    assert mixed.exit_code == 1
    assert "provenance.dtype = 'delta'" in mixed.output
    left_open = tokenize(tree, stores["delta"], weights, *more)  # as the group, on any device
    assert left_open.exit_code == 0, left_open.output


@pytest.mark.slow
def test_workers_and_decoding_get_the_arithmetic_that_was_decided(tree, tmp_path, weights):
    """A machine with a GPU plans, one without it encodes and decodes."""
    store = tmp_path / "t.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "count_gpus", lambda: 1)
        made = tokenize(tree, store, weights, "--batch-size", "4")
    assert made.exit_code == 0, made.output
    group = inspect(store)["groups"]["vae"]
    assert group["provenance"]["dtype"] == group["notes"]["options"]["arithmetic"] == "delta"
    assert (group["notes"]["device"], group["notes"]["block_frames"]) == ("cuda", 512)
    run = "hcp_100000_rfMRI_REST1_LR"
    decoded = fmritok("decode", "--store", store, "--run", run, "--out", tmp_path / "d.nii.gz")
    assert decoded.exit_code == 0, decoded.output


def test_a_group_from_before_the_option_goes_on_in_the_same_arithmetic(tree, tmp_path, weights):
    """Its contract says `dtype`, its options too; without any of it the group is refused."""
    whole, store = tmp_path / "whole.zarr", tmp_path / "t.zarr"
    tokenize(tree, whole, weights)
    later = tree / "100002"
    later.rename(tmp_path / "later")
    tokenize(tree, store, weights)
    attributes = zarr.open_group(store / "vae").attrs.asdict()
    assert attributes["contract"]["provenance"]["dtype"] == "fp32"
    assert "arithmetic" not in str(attributes["contract"])
    (tmp_path / "later").rename(later)
    assert tokenize(tree, store, weights, "--dtype", "fp32").exit_code == 0
    for run in (f"hcp_10000{i}_{SUFFIX}" for i in range(3)):
        found, exact = (TokenStore(s).group().values(run) for s in (store, whole))
        np.testing.assert_array_equal(found, exact)


def test_a_group_without_any_arithmetic_in_its_contract_is_refused(tree, tmp_path, weights):
    store = tmp_path / "t.zarr"
    with pytest.MonkeyPatch.context() as patch:
        now = VaeTokenizer.provenance

        def without(self):
            return {key: value for key, value in now(self).items() if key != "dtype"}

        patch.setattr(VaeTokenizer, "provenance", without)
        tokenize(tree, store, weights)
    before = written(store)
    result = tokenize(tree, store, weights)
    assert result.exit_code == 1
    assert "provenance.dtype" in result.output
    assert "--group NAME" in result.output
    assert written(store) == before


def test_bad_runs_are_set_aside_and_the_rest_goes_on(own_tree, tmp_path, weights):
    """Every kind of spoiled run in one cohort: each has its reason, the good runs are unharmed."""
    rng = np.random.default_rng(0)
    blob = np.zeros((*SHAPE, 4), np.float32)
    blob[40:50, 40:50, 40:50] = rng.uniform(500, 600, (10, 10, 10, 4))
    with_nan = blob.copy()
    with_nan[45, 45, 45, 2] = np.nan
    native = np.diag([-2.4, 2.4, 2.4, 1.0])
    spoiled = {
        "200001": ({"values": with_nan}, "Frame 2"),
        "200002": ({"values": blob[..., 0]}, "four dimensions"),
        "200003": ({"values": blob[..., :1]}, "at least two frames"),
        "200004": ({"values": blob[:64, :64, :33], "affine": native}, "MNI space"),
        "200005": ({"values": blob, "tr": 0.0}, "Repetition time"),
        "200006": ({"values": blob, "tr": 500.0}, "got 500 s"),
        "200007": ({"values": blob * 0}, "nothing but 0"),
        "200008": ({"values": np.repeat(blob[..., :1], 4, 3)}, "the same in every frame"),
    }
    for subject, (arguments, _) in spoiled.items():
        write_run(own_tree, subject, **arguments)
    cut = write_run(own_tree, "200009", frames=6)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    spoiled["200009"] = ({}, "6 whole frames")
    write_run(own_tree, "200010")
    write_run(own_tree, "200010", extension=".nii")
    spoiled["200010"] = ({}, "Run id")

    store = tmp_path / "t.zarr"
    result = tokenize(own_tree, store, weights)
    assert result.exit_code == 1
    runs = {r["subject"]: r for r in inspect(store)["runs"]}
    for subject, (_, words) in spoiled.items():
        assert runs[subject]["status"] == "failed"
        assert words in runs[subject]["reason"], runs[subject]["reason"]
        assert subject in result.output
    assert [runs[f"10000{i}"]["status"] for i in range(3)] == ["done"] * 3
    assert fmritok("verify", "--store", store).exit_code == 0
    record = zarr.open_group(store, mode="r")["vae/records/hcp_200009_rfMRI_REST1_LR"].attrs
    assert "Traceback" in record["traceback"]

    clean = tmp_path / "clean.zarr"
    tokenize(own_tree, clean, weights)
    assert written(clean) == written(store)


def test_a_repaired_run_is_taken_up(own_tree, once, tmp_path, weights):
    path = next(own_tree.glob(f"100001/**/{SUFFIX}_*.nii.gz"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    store = tmp_path / "t.zarr"
    assert tokenize(own_tree, store, weights).exit_code == 1
    path.write_bytes(whole)
    assert tokenize(own_tree, store, weights).exit_code == 0
    assert written(store) == written(once)


def test_damage_is_dropped_and_redone(tree, store, weights):
    """Bit rot in one run: verify names and drops it, the same command brings it back."""
    before = written(store)
    shard = store / "vae/tokens/c/1/0/0"
    rotten = bytearray(shard.read_bytes())
    rotten[len(rotten) // 2] ^= 4
    shard.write_bytes(rotten)
    found = fmritok("verify", "--store", store, "--drop")
    assert found.exit_code == 1
    assert "damaged run hcp_100001_rfMRI_REST1_LR" in found.output
    assert "Removed damaged runs: 1" in found.output
    assert tokenize(tree, store, weights).exit_code == 0
    assert written(store) == before
    assert fmritok("verify", "--store", store).output.strip() == f"{store} is sound"


def test_another_configuration_is_refused(tree, store, weights):
    for more, words in [
        (("--intensity", "zscore"), "provenance.intensity.mode = 'max'"),
        (("--store-dtype", "float16"), "precision = 'int8'"),
        (("--arithmetic", "tf32"), "provenance.dtype = 'fp32'"),
        (("--weights", "dcae-tiny"), "provenance.weights"),
    ]:
        given = ("--dataset", "hcp", "--root", tree, "--store", store, "--weights", weights, *more)
        for result in (
            tokenize(tree, store, weights, *more),
            tokenize(tree, store, weights, *more, "--dry-run"),
            fmritok("plan", *given),
        ):
            assert result.exit_code == 1
            assert words in result.output
            assert "--group NAME" in result.output


def test_wrong_paths(tree, tmp_path, weights):
    file = tmp_path / "file"
    file.write_text("x")
    assert "got a file" in tokenize(tree, file, weights).output
    assert "got nothing there" in tokenize(tmp_path / "no", tmp_path / "s.zarr", weights).output
    (tmp_path / "empty").mkdir()
    result = tokenize(tmp_path / "empty", tmp_path / "s.zarr", weights)
    assert result.exit_code == 1
    assert "got no such file" in result.output
    assert not (tmp_path / "s.zarr").exists()
    assert fmritok("tokenize", "--dataset", "hcp").exit_code == 2


def test_a_dry_run_and_a_plan_write_nothing(tree, tmp_path, weights):
    store = tmp_path / "s.zarr"
    assert tokenize(tree, store, weights, "--dry-run").exit_code == 0
    result = fmritok("plan", "--dataset", "hcp", "--root", tree, "--store", store,
                     "--weights", weights, "--json")  # fmt: skip
    [found] = json.loads(result.output)
    assert (found["runs"], found["frames"]) == (3, 12)
    assert found["raw_bytes"] == 12 * 27 * 3072
    assert found["seconds"] > 0
    assert not store.exists()


def test_no_space_left_stops_with_one_error_and_keeps_what_is_done(
    tree, once, tmp_path, weights, monkeypatch
):
    """The disk fills up while the second run is written; a rerun ends in the same store."""
    store = tmp_path / "t.zarr"
    write, calls = Location.write, []

    def full(self, key, data):
        calls.append(key)
        if sum("/tokens/c/" in key for key in calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, key, data)

    monkeypatch.setattr(Location, "write", full)
    result = tokenize(tree, store, weights)
    assert result.exit_code == 1
    assert "No space left on device. Free some space" in result.output
    assert "hcp_100001" in result.output
    assert [r["status"] for r in inspect(store)["runs"]] == ["planned", "planned", "done"]
    monkeypatch.undo()
    assert tokenize(tree, store, weights).exit_code == 0
    assert written(store) == written(once)


def test_a_memory_store_needs_the_serial_executor(tree, weights):
    assert tokenize(tree, "memory://cohort.zarr", weights).exit_code == 0
    assert TokenStore("memory://cohort.zarr").group().runs["n_frames"].sum() == 12
    refused = tokenize(tree, "memory://other.zarr", weights, executor="dask")
    assert "Use --executor serial" in refused.output


def test_a_run_that_ended_without_a_row_is_named_and_the_exit_status_is_1(
    tree, store, weights, monkeypatch
):
    """As when another process wrote the table: nothing that is missing counts as done."""
    finalize = ledger.finalize

    def without_the_last(location, group):
        return finalize(location, group).iloc[:-1]

    monkeypatch.setattr(ledger, "finalize", without_the_last)
    result = tokenize(tree, store, weights)
    assert result.exit_code == 1
    assert "vae: 2 runs" in result.output
    assert "its row is gone from the store: run the same command again" in result.output
